//! What everyone else reads of the registry: an immutable value, replaced whole.

use std::collections::HashMap;
use std::sync::Arc;

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

use crate::task::{Task, TaskId, Tasks};

/// All that is known of tasks and miners at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rises with each snapshot.
    pub version: u64,
    /// The tasks, those opened by a declaration included.
    pub tasks: Arc<Tasks>,
    /// What can be had, by task.
    pub markets: HashMap<TaskId, Arc<Market>>,
    /// Whether miners have to prove their capacity here before clients' requests reach them.
    pub proving: bool,
}

/// All offers of one task.
#[derive(Clone, Debug)]
pub struct Market {
    /// The task.
    pub task: Arc<Task>,
    /// The cell of this validator's own ceiling, where the task has one.
    pub ceiling: Option<CellId>,
    /// Rises when an offer comes, goes or changes its allotment, endpoint, concurrency or what
    /// it has shown.
    pub revision: u64,
    /// The offers, in no meaningful order.
    pub offers: Vec<Offer>,
}

/// One miner's part in one task.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The books' number for (miner, task).
    pub cell: CellId,
    /// Who offers.
    pub miner: Arc<Miner>,
    /// What it declared, units a period.
    pub declared: Units,
    /// floor(min(declared, cap) x share), units a period.
    pub allotment: Units,
    /// The rate that checks and real work have shown, units a period; routing paces by the
    /// smaller of this and the allotment. Equal to `declared` where nothing verifies.
    pub verified: Units,
    /// Whether it has passed a burst of its allotment.
    pub proven: bool,
    /// The most requests at once that this gateway may send; `None`: not stated.
    pub concurrency: Option<u32>,
    /// How it is.
    pub availability: Availability,
}

/// What bursts have shown.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    /// Whether bursts are planned here; else declarations count as they are.
    pub planned: bool,
    /// What was shown, by cell.
    pub shown: HashMap<CellId, Shown>,
}

/// What bursts have shown of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The rate that counts, units a period; it may be beyond the allotment.
    pub verified: Units,
    /// Up to this allotment, units a period, it has passed.
    pub passes_to: Units,
}

/// Who offers, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miner {
    /// Its hotkey, ss58.
    pub hotkey: Arc<str>,
    /// A small number of this registry's, never reused in this process; the label in metrics.
    pub number: u32,
    /// Where it is reached.
    pub endpoint: http::Uri,
}

/// How a miner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Availability {
    /// Takes more.
    Free,
    /// Takes none for now.
    Busy,
    /// Takes no new ones.
    Draining,
}

// === impl Shown ===

impl Shown {
    /// Whether it has passed with that allotment.
    #[must_use]
    pub fn is_proven(&self, allotment: Units) -> bool {
        allotment <= self.passes_to
    }
}
