//! A choice that explains itself: who was looked at, and why each was taken or not.

use std::sync::Arc;

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

use super::settings::Policy;
use crate::proto::v1;

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Chosen,
    /// Another one was cheaper.
    HigherScore,
    /// Too little of its allotment is left.
    Exhausted,
    /// It takes no more at once.
    Busy,
    /// It is left out for a while.
    Ejected,
    /// It takes no new calls.
    Draining,
    /// It was tried before, or another one is meant.
    Excluded,
    /// It has not shown what it declares, and is asked by checks only.
    Unproven,
    /// Its units went to another call in between.
    LostRace,
}

/// A miner that was looked at.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub(super) hotkey: Arc<str>,
    pub(super) cell: CellId,
    pub(super) score: Option<f64>,
    pub(super) left: Units,
    pub(super) in_flight: u32,
    pub(super) verdict: Verdict,
}

/// How a miner was chosen.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub(super) policy: Policy,
    pub(super) candidates: Vec<Candidate>,
}

// === impl Verdict ===

impl Verdict {
    /// Its word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::HigherScore => "higher_score",
            Self::Exhausted => "exhausted",
            Self::Busy => "busy",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Excluded => "excluded",
            Self::Unproven => "unproven",
            Self::LostRace => "lost_race",
        }
    }
}

// === impl Explanation ===

impl Explanation {
    /// As a client gets it.
    #[must_use]
    pub fn to_proto(&self, waited_ms: u64) -> v1::Explanation {
        let candidates = self.candidates.iter().map(|candidate| v1::Candidate {
            miner: candidate.hotkey.to_string(),
            score: candidate.score,
            units_free: candidate.left.get(),
            in_flight: candidate.in_flight,
            verdict: candidate.verdict.as_str().to_owned(),
        });
        v1::Explanation {
            policy: self.policy.as_str().to_owned(),
            candidates: candidates.collect(),
            waited_ms,
        }
    }
}
