//! The durable record of one call, with all its attempts.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::ids::{CellId, Origin};
use crate::units::Units;

/// What became of one dispatch to one miner. Each attempt ends in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Delivered whole.
    Good,
    /// The miner had too many requests: back-pressure, no fault.
    Busy,
    /// The request was refused as invalid: nobody's fault.
    Refused,
    /// The client cancelled or its deadline passed: nobody's fault.
    Cancelled,
    /// The miner was not reached, or broke off.
    Lost,
    /// The miner did not keep the time limits.
    Stalled,
    /// The miner broke the protocol.
    Protocol,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finish {
    /// Still running; a part was booked on the way.
    Running,
    /// Ended as its last attempt did.
    Attempt(Outcome),
    /// No miner could take it.
    NoCapacity,
    /// Its gateway died after a part was booked.
    GatewayLost,
    /// The client did not read.
    SlowConsumer,
    /// The gateway drained.
    Drained,
    /// A bug in the gateway.
    Internal,
}

/// How units were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Counted on all that was delivered.
    Exact,
    /// Not counted but derived.
    Estimated,
    /// Counted on an answer that was cut short.
    Partial,
}

/// One dispatch to one miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The miner's cell.
    pub cell: CellId,
    /// What became of it; of the last attempt of a part, not yet meant.
    pub outcome: Outcome,
    /// Units booked, cumulative over parts; at most one attempt of a call has any.
    pub units: Units,
    /// From dispatch to the first delta, microseconds.
    pub first_chunk_us: Option<u64>,
    /// From dispatch to the end, microseconds.
    pub duration_us: u64,
}

/// The durable record of one call. One per admitted request, whatever its end; a long
/// call leaves parts on the way, each cumulative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The call's number among the incarnation's calls.
    pub call: u64,
    /// Where the work came from.
    pub origin: Origin,
    /// The public id of the client's key; empty for none.
    pub client: Arc<str>,
    /// The task's id.
    pub task: Arc<str>,
    /// When it was admitted, Unix milliseconds.
    pub admitted_ms: u64,
    /// How it ended; [`Finish::Running`] marks a part.
    pub finish: Finish,
    /// How its units were found.
    pub quality: Quality,
    /// Units booked so far, prompt and output; equal to the sum over attempts.
    pub units: Units,
    /// Of these, charged for the prompt.
    pub prompt_units: Units,
    /// Every cell that is charged with `units`; the miner's first, none where nothing was held.
    pub held: SmallVec<[CellId; 3]>,
    /// The attempts, in order.
    pub attempts: SmallVec<[Attempt; 2]>,
    /// SHA-256 of what was delivered; zeros where nothing was.
    pub digest: [u8; 32],
    /// The client's labels.
    pub labels: Vec<(String, String)>,
    /// The idempotency claim that this call fulfils.
    pub claim: Option<u64>,
}

// === impl Receipt ===

impl Receipt {
    /// Whether the call was still running when this was written.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.finish == Finish::Running
    }
}

// === impl Outcome ===

impl Outcome {
    /// All outcomes, in the order of their columns.
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::Busy,
        Self::Refused,
        Self::Cancelled,
        Self::Lost,
        Self::Stalled,
        Self::Protocol,
    ];

    /// Whether the miner is to blame.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Lost | Self::Stalled | Self::Protocol)
    }

    /// A word for logs, labels and columns.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Stalled => "stalled",
            Self::Protocol => "protocol",
        }
    }
}

// === impl Finish ===

impl Finish {
    /// A word for logs, labels and columns.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Attempt(outcome) => outcome.as_str(),
            Self::NoCapacity => "no_capacity",
            Self::GatewayLost => "gateway_lost",
            Self::SlowConsumer => "slow_consumer",
            Self::Drained => "drained",
            Self::Internal => "internal",
        }
    }
}
