//! Reports: what was consumed, told so that every consumer ends with the same totals.
//!
//! ```text
//! counters of the store ──▶ feed ──▶ a consumer, which keeps the largest of each
//! an ended period       ──▶ seal ──▶ signed totals, and a new revision for late proof
//! ```
//!
//! No counter is kept here: all is read from the store's, which only grow, and which a crash
//! does not take back. A consumer says by a [`cursor`] how far it is; [`feed`] sends what
//! came after it, as absolute totals. So a consumer that is killed, lags, hears twice or in
//! another order cannot come to other sums.

use taugate_ledger::engine::BoxFuture;
use taugate_ledger::period::Period;

use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;

use self::seal::PeriodBooks;

pub mod file;
pub mod seal;

/// An ended period, as far as its seal is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The period.
    pub period: Period,
    /// Whether it is to be sealed: nothing of it is open any more, or its grace is over.
    pub due: bool,
    /// Changes whenever its totals or what is in doubt may have changed.
    pub mark: ClosingMark,
}

/// What an ended period's seal was made of: receipts, units granted, leases closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosingMark(pub [u64; 3]);

/// A seal as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealRow {
    /// Its place among all seals; rises with each.
    pub id: u64,
    /// The period.
    pub period: Period,
    /// From 1 on, without gaps.
    pub revision: u32,
    /// The exact bytes that were signed.
    pub payload: Vec<u8>,
    /// The signature over them.
    pub signature: [u8; 64],
    /// Who signed.
    pub hotkey: Hotkey,
}

/// Keeps seals, and reads what they are made of.
pub trait SealStore: Send + Sync + std::fmt::Debug {
    /// The ended periods whose rows are still kept, oldest first.
    fn closing(&self) -> BoxFuture<'_, Result<Vec<Closing>, StoreAway>>;

    /// Totals and what is in doubt of a period, sorted.
    fn period_books(&self, period: Period) -> BoxFuture<'_, Result<PeriodBooks, StoreAway>>;

    /// Keeps a seal. `false`, and nothing is changed, unless its revision is the next one.
    fn put_seal(&self, seal: SealRow) -> BoxFuture<'_, Result<bool, StoreAway>>;

    /// The seals of a period, oldest revision first.
    fn seals(&self, period: Period) -> BoxFuture<'_, Result<Vec<SealRow>, StoreAway>>;
}
