//! What a miner's behaviour means. Decided here once, by code and protocol only: a miner's
//! text decides nothing and goes nowhere.

use std::error::Error as _;

use taugate_ledger::receipt::Outcome;
use tonic::{Code, Status};

/// Why an attempt did not bring an answer's first piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// No connection.
    #[error("the miner was not reached")]
    Unreachable,
    /// The connection or the stream ended.
    #[error("{0}")]
    Fault(#[from] MinerFault),
}

/// How a miner let an attempt down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MinerFault {
    /// It has too many requests; no fault of its own.
    #[error("the miner has too many requests")]
    Busy,
    /// It opens no session for this gateway. Not held against it: its clock may be right and
    /// ours wrong, and it gains nothing, as it gets no work.
    #[error("the miner does not let this gateway in")]
    Closed,
    /// It refuses this request as invalid.
    #[error("the miner refuses the request")]
    Refused,
    /// It broke off.
    #[error("the miner was lost")]
    Lost,
    /// It kept a time limit not.
    #[error("the miner stalled")]
    Stalled,
    /// It broke the protocol.
    #[error("the miner broke the protocol")]
    Protocol,
}

// === impl MinerFault ===

impl MinerFault {
    /// Classifies a status that ended an attempt. `begun` says whether a delta had come:
    /// back-pressure and refusals exist only before it.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a miner may send any code; most mean the same"
    )]
    pub fn from_status(status: &Status, begun: bool) -> Self {
        // A status that this process made for a transport fault has a source; one that the
        // miner sent has none, whatever it says.
        let transport = status.source().is_some();
        match status.code() {
            Code::ResourceExhausted if !transport && !begun => Self::Busy,
            Code::InvalidArgument if !transport && !begun => Self::Refused,
            Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Internal
            | Code::InvalidArgument
            | Code::Unimplemented => Self::Protocol,
            _ => Self::Lost,
        }
    }

    /// Whether a miner says that it does not know who calls. A status of a transport fault
    /// says nothing of the kind.
    pub(super) fn is_stranger(status: &Status) -> bool {
        status.source().is_none()
            && matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied
            )
    }

    /// The attempt's outcome.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            // Both are passed over for a while, and not blamed.
            Self::Busy | Self::Closed => Outcome::Busy,
            Self::Refused => Outcome::Refused,
            Self::Lost => Outcome::Lost,
            Self::Stalled => Outcome::Stalled,
            Self::Protocol => Outcome::Protocol,
        }
    }
}

// === impl DispatchError ===

impl DispatchError {
    /// The attempt's outcome.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Unreachable => Outcome::Lost,
            Self::Fault(fault) => fault.outcome(),
        }
    }
}
