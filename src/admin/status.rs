//! What operators are told of miners and tasks, as JSON: `/v1/status`, and of one miner
//! `/v1/status/miners/HOTKEY`. Whoever reads it need not know a field to go on.
//!
//! Units are whole numbers of the running period: what this process has in its table, and
//! what others that ran in the period have posted. Nothing is counted a second time for it.

use serde::{Deserialize, Serialize};
use taugate_ledger::receipt::Outcome;

use crate::registry::roll::LeftOut;
use crate::registry::snapshot::Availability;
use crate::task::TaskKind;

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The validator's hotkey, ss58.
    pub validator: String,
    /// The network's name.
    pub network: String,
    /// The part of every miner that belongs to this validator, such as `1/3`.
    pub share: String,
    /// Whether calls are taken.
    pub ready: bool,
    /// Whether the store answered; without it what others posted is as it was heard last.
    pub store_answers: bool,
    /// When it was looked, Unix milliseconds.
    pub now_ms: u64,
    /// The running period's first second, Unix time.
    pub period_start_s: u64,
    /// How long periods are, seconds.
    pub period_length_s: u32,
    /// Until the running one ends, milliseconds.
    pub period_rest_ms: u64,
    /// The tasks, by id.
    pub tasks: Vec<Task>,
    /// Each miner's part in each task that it declared, in the order in which miners came.
    pub cells: Vec<Row>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub task: String,
    /// What it does.
    pub kind: TaskKind,
    /// Its part of all scores.
    pub weight: f64,
    /// The most that this validator's clients may spend of it in a period, where it is bounded.
    pub ceiling: Option<Ceiling>,
}

/// This validator's own bandwidth of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Units a period.
    pub units: u64,
    /// Units that running calls hold.
    pub reserved: u64,
    /// Units delivered and booked.
    pub posted: u64,
}

/// One miner's part in one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its hotkey, ss58.
    pub miner: String,
    /// Its uid in the metagraph, where there is one.
    pub uid: Option<u16>,
    /// The task.
    pub task: String,
    /// What it says it can do, units a period.
    pub declared: u64,
    /// What of it is this validator's, units a period.
    pub allotment: u64,
    /// What the engine let this process spend, units.
    pub granted: u64,
    /// What running calls hold, units.
    pub reserved: u64,
    /// Delivered and booked, units.
    pub posted: u64,
    /// What checks and real work have shown, units a period.
    pub verified: u64,
    /// Posted for clients, units.
    pub organic: u64,
    /// Posted for checks, units.
    pub synthetic: u64,
    /// What is still due of checks, units; none where nothing is planned.
    pub due: Option<u64>,
    /// Its score in the task, before the task's weight; none where there is none yet.
    pub score: Option<f64>,
    /// How it is.
    pub state: State,
    /// Attempts that it works on.
    pub in_flight: u32,
    /// The most that it gets at once; none: not stated, and never seen.
    pub concurrency: Option<u32>,
    /// The part of its attempts that end well, lately; none before the first ended.
    pub success: Option<f64>,
}

/// How a miner is, and whether its declaration counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Takes more.
    Free,
    /// Takes none for now: it said so, or it turned one away a moment ago.
    Busy,
    /// Takes no new ones.
    Draining,
    /// Is left out for a while, since it failed too often.
    Ejected,
    /// Took its declaration back.
    Withdrawn,
    /// Its declaration is no longer valid.
    Expired,
    /// Its hotkey is not registered.
    NotRegistered,
    /// There is no such task here.
    UnknownTask,
    /// The task does something else than it declared.
    WrongKind,
}

/// All of one miner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// Its hotkey, ss58.
    pub miner: String,
    /// Its uid in the metagraph, where there is one.
    pub uid: Option<u16>,
    /// Its label in metrics.
    pub number: u32,
    /// The sequence of its last declaration.
    pub sequence: u64,
    /// Until when that is valid, Unix milliseconds.
    pub valid_until_ms: u64,
    /// Whether it was taken back.
    pub withdrawn: bool,
    /// Its tasks.
    pub cells: Vec<Cell>,
}

/// One miner's part in one task, with what became of its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// As in the overview.
    #[serde(flatten)]
    pub row: Row,
    /// This period's attempts by outcome, as the store has them.
    pub attempts: Attempts,
    /// To the first delta, mean over this period's good attempts, milliseconds.
    pub first_chunk_ms: Option<f64>,
    /// To the end, mean over this period's good attempts, milliseconds.
    pub duration_ms: Option<f64>,
    /// Between units once it writes, lately, milliseconds.
    pub unit_ms: Option<f64>,
}

/// Attempts by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// Delivered whole.
    pub good: u64,
    /// Turned away with "too many".
    pub busy: u64,
    /// Refused as invalid.
    pub refused: u64,
    /// Left by the client.
    pub cancelled: u64,
    /// Not reached, or broken off.
    pub lost: u64,
    /// Too slow.
    pub stalled: u64,
    /// Broke the protocol.
    pub protocol: u64,
}

// === impl Overview ===

impl Overview {
    /// Where it is asked for.
    pub const PATH: &'static str = "/v1/status";
}

// === impl Detail ===

impl Detail {
    /// Where it is asked for, the hotkey behind it.
    pub const PATH: &'static str = "/v1/status/miners/";
}

// === impl Attempts ===

impl Attempts {
    /// Adds counts in the order of [`Outcome::ALL`].
    pub(super) fn add(&mut self, counts: [u64; 7]) {
        for (outcome, count) in Outcome::ALL.into_iter().zip(counts) {
            let sum = match outcome {
                Outcome::Good => &mut self.good,
                Outcome::Busy => &mut self.busy,
                Outcome::Refused => &mut self.refused,
                Outcome::Cancelled => &mut self.cancelled,
                Outcome::Lost => &mut self.lost,
                Outcome::Stalled => &mut self.stalled,
                Outcome::Protocol => &mut self.protocol,
            };
            *sum = sum.saturating_add(count);
        }
    }
}

// === impl State ===

impl State {
    /// A word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Withdrawn => "gone",
            Self::Expired => "expired",
            Self::NotRegistered => "unlisted",
            Self::UnknownTask => "no task",
            Self::WrongKind => "bad kind",
        }
    }
}

impl From<Availability> for State {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Free => Self::Free,
            Availability::Busy => Self::Busy,
            Availability::Draining => Self::Draining,
        }
    }
}

impl From<LeftOut> for State {
    fn from(why: LeftOut) -> Self {
        match why {
            LeftOut::UnknownTask => Self::UnknownTask,
            LeftOut::WrongKind => Self::WrongKind,
        }
    }
}
