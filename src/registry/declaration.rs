//! Declarations: what miners say they can do, signed, and the rows that keep them.

use std::sync::Arc;

use bytes::Bytes;
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::CellId;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::task::TaskId;

/// What a cell is about; the store numbers each once, for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A miner's part in a task.
    Miner {
        /// The miner.
        hotkey: Hotkey,
        /// The task.
        task: TaskId,
    },
    /// This validator's own ceiling of a task.
    Ceiling {
        /// The task.
        task: TaskId,
    },
    /// The limit of a client's key.
    Client {
        /// The key's public id.
        key: Arc<str>,
    },
}

/// The durable row of a miner's newest declaration; one a hotkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclarationRow {
    /// Who declared.
    pub hotkey: Hotkey,
    /// Of the declaration, or of the call that withdrew it; at most `i64::MAX`.
    pub sequence: u64,
    /// The declaration's exact bytes as they were signed, at most 64 KiB.
    pub payload: Bytes,
    /// The record's signature over them.
    pub signature: [u8; 64],
    /// Where the miner is reached: `http(s)://host:port`, at most 256 bytes.
    pub endpoint: Arc<str>,
    /// When it was accepted, Unix milliseconds.
    pub accepted_ms: u64,
    /// Whether it was taken back. The row stays, so that an older declaration stays stale.
    pub withdrawn: bool,
}

/// What came of writing a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is the newest now.
    Stored,
    /// The stored one has the same sequence and payload and is not withdrawn; only its
    /// endpoint and instant were replaced.
    Same,
    /// Its sequence is not above the stored one. Nothing was changed.
    Stale,
}

/// Keeps declarations and the cells that follow from them, over all gateways that share an
/// engine.
pub trait DeclarationStore: Send + Sync + std::fmt::Debug {
    /// All rows, withdrawn ones included.
    fn declarations(&self) -> BoxFuture<'_, Result<Vec<DeclarationRow>, StoreAway>>;

    /// Writes a declaration in one transaction: the highest sequence wins.
    fn put_declaration(&self, row: DeclarationRow) -> BoxFuture<'_, Result<Put, StoreAway>>;

    /// Takes a declaration back: the row of this hotkey is marked as withdrawn and gets this
    /// sequence. `false`, and nothing changed, when there is no row or it has a higher
    /// sequence.
    fn withdraw(&self, hotkey: Hotkey, sequence: u64) -> BoxFuture<'_, Result<bool, StoreAway>>;

    /// The number of a subject; given at the first call, the same ever after.
    fn subject(&self, subject: Subject) -> BoxFuture<'_, Result<CellId, StoreAway>>;

    /// Sets what cells may be spent to in a period, all in one transaction. A cell that is
    /// new in the period is made. One that is there gets this as its `wanted`, and
    /// max(this, already granted) as its allotment; cells that are not named stay as they
    /// are.
    fn set_cells(
        &self,
        period: Period,
        wanted: Vec<(CellId, Units)>,
    ) -> BoxFuture<'_, Result<(), StoreAway>>;
}
