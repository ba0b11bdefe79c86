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
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::Receipt;
use taugate_ledger::units::Units;

use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::registry::declaration::Subject;
use crate::task::TaskId;

use self::seal::PeriodBooks;

pub mod cursor;
pub mod due;
pub mod feed;
pub mod file;
pub mod readers;
pub mod seal;
pub mod wire;

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

/// A counter of one incarnation, cell and origin in a period. It only grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Who booked it.
    pub incarnation: Incarnation,
    /// The period.
    pub period: Period,
    /// The miner's cell.
    pub cell: CellId,
    /// The miner.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// Where the work came from.
    pub origin: Origin,
    /// Rises with each change.
    pub rev: u64,
    /// Booked.
    pub units: Units,
    /// Attempts, in the order of [`taugate_ledger::receipt::Outcome::ALL`].
    pub attempts: [u64; 7],
    /// Sum of times to the first chunk over good attempts, microseconds.
    pub first_chunk_us: u64,
    /// Sum of durations over good attempts, microseconds.
    pub duration_us: u64,
}

/// Some of an incarnation's counters of a period, in the order of cell and origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterPage {
    /// The period.
    pub period: Period,
    /// Who booked them.
    pub incarnation: Incarnation,
    /// Only those that a receipt changed at this offset or behind it.
    pub changed_after: u64,
    /// Only those behind this one.
    pub after: Option<(CellId, Origin)>,
    /// Only this miner's.
    pub miner: Option<Hotkey>,
    /// At most so many.
    pub max: usize,
}

/// A receipt with its place and the names of its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedReceipt {
    /// Who booked it.
    pub incarnation: Incarnation,
    /// The period.
    pub period: Period,
    /// Its place, without gaps per incarnation and period.
    pub offset: u64,
    /// The receipt.
    pub receipt: Receipt,
    /// What its cells are about.
    pub subjects: Vec<(CellId, Subject)>,
}

/// How far an incarnation's books of a period are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The period.
    pub period: Period,
    /// Who books.
    pub incarnation: Incarnation,
    /// Behind its last receipt.
    pub next_offset: u64,
}

/// How far the books are, all at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which books.
    pub store: [u8; 16],
    /// By period and incarnation, as far as rows are kept.
    pub reaches: Vec<Reach>,
    /// The last seal that was kept.
    pub last_seal: u64,
    /// The oldest period whose rows are kept.
    pub keep_from: Period,
    /// The first period that may still change.
    pub settled: Period,
    /// A moment before which all that was booked is in this, Unix milliseconds.
    pub now_ms: u64,
}

/// Reads the books for consumers, and keeps how far these are.
pub trait ReportStore: SealStore {
    /// How far the books are.
    fn standing(&self) -> BoxFuture<'_, Result<Standing, StoreAway>>;

    /// Some counters.
    fn counters(&self, page: CounterPage) -> BoxFuture<'_, Result<Vec<Counter>, StoreAway>>;

    /// At most so many receipts of an incarnation's period, from an offset on.
    fn receipts(
        &self,
        of: Reach,
        from: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<PlacedReceipt>, StoreAway>>;

    /// At most so many seals behind that one.
    fn seals_after(&self, id: u64, max: usize) -> BoxFuture<'_, Result<Vec<SealRow>, StoreAway>>;

    /// The cursor that a consumer acknowledged last.
    fn acked(
        &self,
        hotkey: Hotkey,
        consumer: &str,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreAway>>;

    /// Keeps a consumer's cursor. Of a hotkey that has too many consumers, the one that was
    /// silent for longest is forgotten.
    fn put_ack(
        &self,
        hotkey: Hotkey,
        consumer: &str,
        cursor: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), StoreAway>>;
}
