//! What scores are made of, as a store keeps it.

use taugate_ledger::engine::BoxFuture;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::reliability::Tally;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::task::TaskId;

/// A period of a miner in a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodRow {
    /// The period.
    pub period: Period,
    /// The miner.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// What could have been asked for, what was delivered, how attempts ended.
    pub tally: Tally,
    /// What of the delivered came from checks.
    pub synthetic: Units,
}

/// What a checker found of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Who answered.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// 0 (worthless) to 1 (as it should be).
    pub quality: f64,
    /// What was delivered.
    pub units: Units,
    /// From dispatch to the end, seconds.
    pub seconds: f64,
    /// When it was found, Unix milliseconds.
    pub at_ms: u64,
}

/// What a miner showed in a window in which miners were asked at the rate of their allotments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demonstration {
    /// The miner.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// When the window began, Unix milliseconds.
    pub begins_ms: u64,
    /// How long it was.
    pub length_ms: u64,
    /// Whether all miners were asked in it; else only newcomers were.
    pub common: bool,
    /// What it was asked for in it.
    pub asked: Units,
    /// What it delivered in it, whoever asked.
    pub units: Units,
}

/// All rows that count, in no meaningful order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The ended periods, and the running one as far as it is.
    pub periods: Vec<PeriodRow>,
    /// Checked answers.
    pub findings: Vec<Finding>,
    /// What was shown.
    pub demonstrations: Vec<Demonstration>,
}

/// From when on rows count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// Periods.
    pub periods: Period,
    /// Checked answers, Unix milliseconds.
    pub answers_ms: u64,
}

/// Keeps what scores are made of.
pub trait ScoreStore: Send + Sync + std::fmt::Debug {
    /// Keeps what scores need of an ended period, longer than its books; anew when it was kept
    /// before.
    fn keep_history(&self, period: Period) -> BoxFuture<'_, Result<(), StoreAway>>;

    /// The rows that count: periods in which something was tried or delivered, and of each
    /// miner and task the newest demonstrations and the newest
    /// [`ANSWERS_MAX`](super::quality::ANSWERS_MAX) checked answers.
    fn score_rows(&self, since: Since) -> BoxFuture<'_, Result<Rows, StoreAway>>;
}

// === impl Demonstration ===

impl Demonstration {
    /// Units a second; 0 for a window without length.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let seconds = Units::new(self.length_ms).as_f64() / 1000.0;
        if seconds > 0.0 {
            self.units.as_f64() / seconds
        } else {
            0.0
        }
    }
}
