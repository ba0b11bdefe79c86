//! The methods that are served, and how long each kind of them may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::deadline::Deadline;
use super::status::{Excess, Refusal};

/// A method, as far as the door tells methods apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// Its label, `package.Service/Method`; `_other` for what is not served, so that no
    /// client can make labels.
    pub(super) label: &'static str,
    pub(super) kind: Kind,
}

/// What a method's time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Inference: the call bounds itself.
    Call,
    /// One question, one answer, at once.
    Helper,
    /// A stream of answers without an end of its own.
    Watch,
    /// Questions and answers of reflection, without an end of their own.
    Reflection,
    /// A miner's stream of changes; a newer one of the same hotkey ends it.
    Changes,
}

/// How long what does not bound itself may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// For the whole body of a request that is not a conversation.
    pub(super) body: Duration,
    /// For the answer to a question.
    pub(super) helper: Duration,
    /// For a stream that watches.
    pub(super) watch: Duration,
}

/// Places for streams without an end of their own, over all connections of a listener.
#[derive(Debug)]
pub(super) struct Places {
    watches: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
}

/// Watchers at once: load balancers, each with a few connections.
const WATCHES_MAX: usize = 1024;

/// Tools at once that ask what there is; people start them.
const REFLECTIONS_MAX: usize = 64;

/// A tool has asked what it wanted long before this.
const REFLECTION: Duration = Duration::from_secs(300);

/// When someone who found no place tries again.
const LATER: Duration = Duration::from_secs(5);

const SERVED: [(&str, Kind); 19] = [
    ("taugate.v1.InferenceService/Generate", Kind::Call),
    ("taugate.v1.InferenceService/StreamGenerate", Kind::Call),
    ("taugate.v1.InferenceService/ListTasks", Kind::Helper),
    ("taugate.v1.InferenceService/GetReceipt", Kind::Helper),
    ("taugate.v1.CapacityService/GetGateway", Kind::Helper),
    ("taugate.v1.CapacityService/Declare", Kind::Helper),
    ("taugate.v1.CapacityService/Withdraw", Kind::Helper),
    ("taugate.v1.CapacityService/SetAvailability", Kind::Changes),
    ("taugate.v1.CapacityService/WatchCapacity", Kind::Watch),
    ("taugate.v1.ConsumptionService/Watch", Kind::Watch),
    ("taugate.v1.ConsumptionService/Ack", Kind::Helper),
    ("taugate.v1.ConsumptionService/GetPeriod", Kind::Helper),
    ("taugate.v1.ConsumptionService/WatchPlan", Kind::Watch),
    ("taugate.v1.ConsumptionService/SubmitCheck", Kind::Helper),
    ("taugate.v1.ConsumptionService/GetScores", Kind::Helper),
    ("grpc.health.v1.Health/Check", Kind::Helper),
    ("grpc.health.v1.Health/Watch", Kind::Watch),
    (
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Kind::Reflection,
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Kind::Reflection,
    ),
];

// === impl Method ===

impl Method {
    /// The method of a request's path.
    pub(super) fn of(path: &str) -> Self {
        let asked = path.strip_prefix('/').unwrap_or_default();
        let served = SERVED.into_iter().find(|(label, _)| *label == asked);
        let (label, kind) = served.unwrap_or(("_other", Kind::Helper));
        Self { label, kind }
    }
}

// === impl Kind ===

impl Kind {
    /// Whether requests go on for as long as both sides like.
    pub(super) const fn is_conversation(self) -> bool {
        matches!(self, Self::Reflection | Self::Changes)
    }

    /// When an answer must have ended, if the door has to see to it.
    pub(super) fn end(self, terms: &Terms, deadline: Option<Deadline>) -> Option<Instant> {
        let own = match self {
            Self::Call | Self::Changes => return None,
            Self::Helper => terms.helper,
            Self::Watch => terms.watch,
            Self::Reflection => REFLECTION,
        };
        let own = Instant::now() + own;
        Some(deadline.map_or(own, |deadline| deadline.at().min(own)))
    }
}

// === impl Places ===

impl Default for Places {
    fn default() -> Self {
        Self {
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            reflections: Arc::new(Semaphore::new(REFLECTIONS_MAX)),
        }
    }
}

impl Places {
    /// A place, where the kind needs one; dropping it gives it back.
    pub(super) fn take(&self, kind: Kind) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        let (places, excess) = match kind {
            Kind::Call | Kind::Helper | Kind::Changes => return Ok(None),
            Kind::Watch => (&self.watches, Excess::Watches),
            Kind::Reflection => (&self.reflections, Excess::Reflections),
        };
        let place = Arc::clone(places).try_acquire_owned();
        place
            .map(Some)
            .map_err(|_| Refusal::RateLimited(excess, LATER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_served_makes_no_label() {
        // Abuse case 20.
        for path in [
            "",
            "/",
            "/x",
            "taugate.v1.InferenceService/Generate",
            "/../",
        ] {
            assert_eq!(Method::of(path).label, "_other", "{path:?}");
        }
        let served = Method::of("/taugate.v1.InferenceService/Generate");
        assert_eq!(served.label, "taugate.v1.InferenceService/Generate");
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Places::default();
        let held: Vec<_> = (0..REFLECTIONS_MAX)
            .map(|_| places.take(Kind::Reflection).unwrap())
            .collect();
        let refused = places.take(Kind::Reflection).unwrap_err();
        assert_eq!(refused, Refusal::RateLimited(Excess::Reflections, LATER));
        assert!(places.take(Kind::Watch).is_ok() && places.take(Kind::Helper).is_ok());
        drop(held);
        assert!(places.take(Kind::Reflection).is_ok());
    }
}
