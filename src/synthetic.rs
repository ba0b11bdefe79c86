//! Checks: requests of this validator's own, which show what a miner can do where clients did
//! not ask it.
//!
//! ```text
//! what is due (from the books) ──▶ Checks::check ──▶ the same calls as a client's
//! ```
//!
//! A check goes the way of every call, with the origin synthetic and pinned to its miner: the
//! same connections, messages and names, so that a miner cannot tell it from a client's request.

pub mod burst;
pub mod bursts;
pub mod demonstration;
pub mod desk;
pub mod draw;
pub mod driver;
pub mod due;
pub mod finding;
mod flight;
pub mod forecast;
pub mod judge;
pub mod material;
pub mod measure;
pub mod pacing;
pub mod plan;
pub mod planner;
pub mod prompt;
mod running;
pub mod settings;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

use crate::call::StillDue;
use crate::task::Task;

pub use settings::{Mode, PlannerSettings};

/// One check that is to be sent.
#[derive(Clone, Debug)]
pub struct Check {
    /// The miner's cell.
    pub cell: CellId,
    /// The miner's hotkey, ss58.
    pub hotkey: Arc<str>,
    /// What is asked for.
    pub task: Arc<Task>,
    /// About so many units are to be held by it. Its size follows that of clients' requests
    /// wherever these are known, so that it may hold less or more: [`StillDue`] hears how much.
    pub units: Units,
    /// Whether it is part of a burst: its size is then just that, since it has to fill its place
    /// for the window. A miner that knows the hour of a burst may know its checks.
    pub burst: bool,
    /// Asked once when the check holds its units and before it is sent.
    pub due: StillDue,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckEnd {
    /// What became of it at the miner; `None`: it was not sent. Not due any more, too little left,
    /// the miner is busy, or there is no room for its receipt. A check that gave its place to a
    /// client's request is [`Outcome::Cancelled`].
    pub outcome: Option<Outcome>,
    /// Units booked.
    pub units: Units,
}

/// Sends checks.
pub trait Checks: Send + Sync + std::fmt::Debug {
    /// Sends a check and waits for its end. Dropping it cancels the check.
    fn check(&self, check: Check) -> BoxFuture<'_, CheckEnd>;
}

// === impl CheckEnd ===

impl CheckEnd {
    /// Of a check that was not sent.
    pub const UNSENT: Self = Self {
        outcome: None,
        units: Units::ZERO,
    };
}
