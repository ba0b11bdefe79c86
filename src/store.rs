//! Stores: where the rows are that must outlive a process.
//!
//! A store is an engine under the ledger (it grants rights to spend and keeps the receipts
//! that prove what was spent) and the keeper of the other rooms' durable rows: subjects,
//! declarations, nonces, keys. The rooms state what they need as narrow traits; a store
//! implements them all, so that no other room names an engine.
//!
//! Three rules hold for every engine:
//! - what was acknowledged is durable;
//! - what is not understood (a damaged row, another store's file, a newer schema) is
//!   refused with its reason, never read as an empty ledger;
//! - a limit that the books must not pass is a check in the database itself, which can fail.
//!
//! [`sqlite`] is the embedded engine: one process a file.

use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::receipt::Receipt;
use taugate_ledger::units::Units;

use crate::registry::declaration::Subject;

pub mod sqlite;

/// Why a store did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// It is slow, full or has too much to do; nothing was changed. Try again.
    #[error("the store is unavailable")]
    Unavailable,
    /// What was written may be lost, or what is read is wrong. It does nothing more.
    #[error("the store is damaged")]
    Damaged,
}

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Takes everything.
    Ready,
    /// Little space is left: grants nothing more, but takes receipts as long as it can.
    Full,
    /// It stopped for good; the process must end.
    Damaged,
}

/// A receipt as it stands, with the names of its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The call.
    pub id: RequestId,
    /// The receipt's place in its incarnation's period.
    pub offset: u64,
    /// The last that was written of the call. The part of a call whose gateway died reads
    /// as [`taugate_ledger::receipt::Finish::GatewayLost`].
    pub receipt: Receipt,
    /// What its cells are about; held cells and attempts, each once.
    pub subjects: Vec<(CellId, Subject)>,
}

/// What the books say of one subject in one period, from three sides that must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookRow {
    /// The cell.
    pub cell: CellId,
    /// What it is about.
    pub subject: Subject,
    /// What may be spent by the newest declaration.
    pub wanted: Units,
    /// What may be spent: `wanted`, or more where more was granted before a cut.
    pub allotment: Units,
    /// Granted over all incarnations, as the cell says.
    pub granted: Units,
    /// Granted over all incarnations, as the leases say.
    pub granted_by_leases: Units,
    /// Units by origin (see [`taugate_ledger::ids::Origin::index`]), as the counters say.
    pub posted: [Units; 2],
    /// Units by origin, summed over receipts.
    pub receipts: [Units; 2],
}

/// A counter of one incarnation, cell and origin in a period. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyRow {
    /// Who booked it.
    pub incarnation: Incarnation,
    /// The miner's cell.
    pub cell: CellId,
    /// Where the work came from.
    pub origin: Origin,
    /// Attempts, in the order of [`taugate_ledger::receipt::Outcome::ALL`].
    pub attempts: [u64; 7],
    /// Sum of times to the first chunk over good attempts, microseconds.
    pub first_chunk_us: u64,
    /// Sum of durations over good attempts, microseconds.
    pub duration_us: u64,
    /// Rises with each change.
    pub rev: u64,
    /// Booked.
    pub units: Units,
}

// === impl BookRow ===

impl BookRow {
    /// Whether the sides agree and no bound is passed.
    #[must_use]
    pub fn closes(&self) -> bool {
        let posted = self.posted.into_iter().sum::<Units>();
        self.receipts == self.posted
            && self.granted == self.granted_by_leases
            && posted <= self.granted
            && self.granted <= self.allotment
            && self.wanted <= self.allotment
    }
}
