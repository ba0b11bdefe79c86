//! What of checks is still due, as consumers are told. It is no counter: whoever plans derives
//! it from the books when it is asked.

use std::sync::Arc;

use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::wire;
use crate::proto::v1;
use crate::task::TaskId;

/// What is due of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The miner's hotkey, ss58.
    pub miner: Arc<str>,
    /// The task.
    pub task: TaskId,
    /// What is to be shown in the period, by clients or by checks.
    pub target: Units,
    /// What checks have still to show of it.
    pub due: Units,
}

/// What is due of all cells, all of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueSheet {
    /// The running period; `None`: nothing was planned yet.
    pub period: Option<Period>,
    /// Each cell that is offered and planned for, once.
    pub rows: Vec<Due>,
}

/// Knows what is due. Only where this gateway plans checks.
pub trait DueSource: Send + Sync + std::fmt::Debug {
    /// What is due now.
    fn sheet(&self) -> DueSheet;
}

// === impl Due ===

impl Due {
    /// As it goes out.
    #[must_use]
    pub fn to_wire(&self, period: Period) -> v1::CheckDue {
        v1::CheckDue {
            period: Some(wire::period(period)),
            miner: self.miner.to_string(),
            task: self.task.to_string(),
            target: self.target.get(),
            due: self.due.get(),
        }
    }
}
