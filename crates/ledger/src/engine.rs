//! What is said to the engine and what it answers, as values.
//!
//! Two calls, each one transaction and safe to repeat: `exchange` (the right to spend) and
//! `append` (proof of what was spent). The rules are those of the escrow method: the engine
//! grants absolute cumulative amounts, so that lost, doubled and reordered messages cannot
//! add up wrongly.

use std::pin::Pin;

use crate::ids::{CellId, Incarnation};
use crate::period::Period;
use crate::receipt::Receipt;
use crate::units::Units;

/// Asks for rights to spend, or gives some back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeAsk {
    /// Who asks.
    pub incarnation: Incarnation,
    /// For which period.
    pub period: Period,
    /// Rises with each new ask of this incarnation and period, from 1; a repeat keeps it.
    pub seq: u64,
    /// Distinct cells.
    pub cells: Vec<CellAsk>,
}

/// One cell of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellAsk {
    /// The cell.
    pub cell: CellId,
    /// The cumulative grant that is wanted; never a difference.
    pub target: Units,
    /// What this incarnation has posted; compared, never stored.
    pub posted: Units,
}

/// The engine's answer to an [`ExchangeAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeReply {
    /// The ask's number.
    pub seq: u64,
    /// One entry a cell that was asked for.
    pub cells: Vec<CellGrant>,
    /// Incarnations seen alive of late; at least 1.
    pub live: u32,
    /// The engine lost what it had acknowledged: a grant may only lower what is held.
    pub frozen: bool,
}

/// What the engine lets this incarnation spend of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellGrant {
    /// The cell.
    pub cell: CellId,
    /// Cumulative.
    pub granted: Units,
    /// What the cell may be spent to in all, by the newest declaration.
    pub wanted: Units,
    /// Granted over all incarnations.
    pub sum_granted: Units,
}

/// Why an exchange was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// This incarnation was closed.
    #[error("the incarnation was closed")]
    Fenced,
    /// The period is not open by the engine's clock.
    #[error("period {0} is not open")]
    PeriodNotOpen(Period),
    /// A cell that the engine does not know in this period.
    #[error("cell {0:?} is unknown")]
    UnknownCell(CellId),
    /// The engine holds more receipts of this incarnation than it says it posted: a bug.
    #[error("cell {0:?}: posted is behind the receipts")]
    PostedBehind(CellId),
    /// The engine lost what it had acknowledged: nothing may be raised until the period ends.
    #[error("the engine lost commits")]
    LostCommits,
    /// The engine is away, slow or full.
    #[error("the engine is unavailable")]
    Unavailable,
}

/// Hands receipts over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendAsk {
    /// Who booked them.
    pub incarnation: Incarnation,
    /// In which period.
    pub period: Period,
    /// The offset of the first; they are contiguous per incarnation and period, from 0.
    pub first_offset: u64,
    /// In order.
    pub receipts: Vec<Receipt>,
}

/// The engine's answer to an [`AppendAsk`]: all before this offset is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The offset of the next receipt.
    pub next_offset: u64,
}

/// Why an append was refused. All but `Unavailable` are bugs or damage: stop admitting,
/// alarm, exit; never retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// This incarnation was closed.
    #[error("the incarnation was closed")]
    Fenced,
    /// Receipts before these are missing.
    #[error("receipts are missing before offset {first}, expected {expected}")]
    Gap {
        /// What was sent.
        first: u64,
        /// What the engine expected.
        expected: u64,
    },
    /// A receipt goes beyond what was granted, or a rule of the books fails.
    #[error("cell {cell:?}: the books do not allow this receipt")]
    BeyondGrant {
        /// The cell.
        cell: CellId,
    },
    /// The period is no longer open.
    #[error("period {0} is not open")]
    PeriodNotOpen(Period),
    /// What was written may be lost (an fsync failed, a page is damaged).
    #[error("the store is damaged")]
    Damaged,
    /// The engine is away, slow or full; try again.
    #[error("the engine is unavailable")]
    Unavailable,
}

/// A boxed future, so that engines can stand behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The engine under the ledger. Implemented by the stores, and by a model for tests.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// Raises or lowers what an incarnation may spend.
    fn exchange(&self, ask: ExchangeAsk) -> BoxFuture<'_, Result<ExchangeReply, ExchangeError>>;

    /// Makes receipts durable; answers after the commit.
    fn append(&self, ask: AppendAsk) -> BoxFuture<'_, Result<AppendReply, AppendError>>;

    /// Says that nothing of this incarnation is open in a period.
    fn close_period(
        &self,
        incarnation: Incarnation,
        period: Period,
    ) -> BoxFuture<'_, Result<(), ExchangeError>>;

    /// Ends an incarnation: it never asks again.
    fn close(&self, incarnation: Incarnation) -> BoxFuture<'_, Result<(), ExchangeError>>;
}
