//! What was found of an answer, as it is kept.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use taugate_ledger::ids::{CellId, RequestId};
use taugate_ledger::units::Units;

use crate::identity::StoreAway;

/// The name under which the built-in checks judge; nobody else may use it.
pub const BUILT_IN: &str = "built-in";

/// What a checker found of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Names the call.
    pub id: RequestId,
    /// Who judged, 1 to 64 bytes.
    pub checker: Arc<str>,
    /// The cell of the miner that answered.
    pub cell: CellId,
    /// 0 (worthless) to 1 (as it should be); kept in millionths.
    pub quality: f64,
    /// What was delivered.
    pub units: Units,
    /// From dispatch to the end.
    pub duration: Duration,
    /// When it was found, Unix milliseconds.
    pub at_ms: u64,
}

/// What became of a finding that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is kept; the same again changes nothing, another one of the same checker replaces it.
    Kept,
    /// There is no such call, or none any more.
    Unknown,
    /// The call has no whole answer.
    NotWhole,
}

/// Keeps findings.
pub trait FindingStore: Send + Sync + std::fmt::Debug {
    /// Keeps what the built-in checks found, unless somebody else judged the call already.
    fn put_findings(&self, findings: Vec<Finding>) -> BoxFuture<'_, Result<(), StoreAway>>;

    /// Keeps what a checker found of a call, in place of what the built-in checks did: they see
    /// only the crudest faults. `quality` from 0 to 1.
    fn submit(
        &self,
        id: RequestId,
        checker: Arc<str>,
        quality: f64,
    ) -> BoxFuture<'_, Result<Submitted, StoreAway>>;

    /// The findings of a cell that are not older, newest first, at most so many.
    fn findings(
        &self,
        cell: CellId,
        since_ms: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<Finding>, StoreAway>>;
}
