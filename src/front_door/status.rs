//! The one place where a refusal becomes a gRPC status: code, reason, time to retry.
//!
//! Why no capacity is RESOURCE_EXHAUSTED: all gateways share the books, so that another one
//! rarely helps, and load balancers would eject a gateway that answers UNAVAILABLE.

use std::collections::HashMap;
use std::time::Duration;

use taugate_ledger::ids::RequestId;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// The domain of our reasons.
const DOMAIN: &str = "taugate";

/// A field of a request and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// Its path, such as `chat.messages[0].role`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub fault: String,
}

/// Why there is no capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// Miners that have something left take no more at once.
    Busy,
    /// The allotments of the period are spent.
    Spent,
}

/// Every refusal that a client can get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Fields are wrong; all that were found.
    Invalid(Vec<FieldFault>),
    /// No such task, or none that this client may ask for.
    UnknownTask,
    /// No such receipt of this client.
    UnknownReceipt,
    /// No or wrong credentials; one text for all causes.
    Unauthenticated,
    /// Known, but not allowed.
    Forbidden,
    /// A hotkey that is not registered.
    NotRegistered,
    /// No miner can take the call now.
    NoCapacity(Scarce, Duration),
    /// The validator's own ceiling of the task is reached.
    TaskCeiling(Duration),
    /// The task has no live miner.
    NoMiner,
    /// This gateway ends; another one helps.
    Draining,
    /// This gateway has too much to do.
    Overloaded,
    /// The engine is away and nothing is held.
    EngineUnavailable,
    /// Every attempt failed before the first delta.
    AttemptsExhausted,
    /// The miner stalled in mid-answer.
    MinerStalled(RequestId),
    /// The miner was lost in mid-answer.
    MinerLost(RequestId),
    /// The miner broke the protocol in mid-answer.
    MinerProtocol(RequestId),
    /// The client's time was up, while this was done.
    Deadline(&'static str),
    /// The client took nothing for too long.
    SlowConsumer,
    /// Too much of something that everyone may do a little of.
    RateLimited(Duration),
    /// A declaration is older than one that is known.
    Stale,
    /// A newer stream of the same hotkey took over.
    SessionSuperseded,
    /// Not served yet.
    Unimplemented(&'static str),
    /// A bug.
    Internal,
}

/// When to try again.
enum Retry {
    /// Nothing is said.
    Unsaid,
    /// Never.
    Never,
    /// After this long.
    After(Duration),
}

// === impl Refusal ===

impl Refusal {
    const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::Stale => Code::InvalidArgument,
            Self::UnknownTask | Self::UnknownReceipt => Code::NotFound,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden | Self::NotRegistered => Code::PermissionDenied,
            Self::NoCapacity(..)
            | Self::TaskCeiling(_)
            | Self::RateLimited(_)
            | Self::SlowConsumer => Code::ResourceExhausted,
            Self::NoMiner
            | Self::Draining
            | Self::Overloaded
            | Self::EngineUnavailable
            | Self::AttemptsExhausted
            | Self::MinerStalled(_)
            | Self::MinerLost(_)
            | Self::MinerProtocol(_) => Code::Unavailable,
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::SessionSuperseded => Code::Aborted,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_FIELD",
            Self::UnknownTask => "TASK_NOT_FOUND",
            Self::UnknownReceipt => "RECEIPT_NOT_FOUND",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotRegistered => "NOT_REGISTERED",
            Self::NoCapacity(..) => "NO_CAPACITY",
            Self::TaskCeiling(_) => "TASK_CEILING",
            Self::NoMiner => "NO_MINER",
            Self::Draining => "DRAINING",
            Self::Overloaded => "OVERLOADED",
            Self::EngineUnavailable => "ENGINE_UNAVAILABLE",
            Self::AttemptsExhausted => "ATTEMPTS_EXHAUSTED",
            Self::MinerStalled(_) => "MINER_STALLED",
            Self::MinerLost(_) => "MINER_LOST",
            Self::MinerProtocol(_) => "MINER_PROTOCOL",
            Self::Deadline(_) => "DEADLINE",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::RateLimited(_) => "RATE_LIMITED",
            Self::Stale => "STALE",
            Self::SessionSuperseded => "SESSION_SUPERSEDED",
            Self::Unimplemented(_) => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
        }
    }

    fn message(&self) -> String {
        let text = match self {
            Self::Invalid(_) => "fields are wrong; see the details",
            Self::UnknownTask => "no such task; ListTasks names the tasks",
            Self::UnknownReceipt => "no such receipt",
            Self::Unauthenticated => "credentials are missing or wrong",
            Self::Forbidden => "not allowed",
            Self::NotRegistered => "the hotkey is not registered",
            Self::NoCapacity(Scarce::Busy, _) => "every miner of the task is busy",
            Self::NoCapacity(Scarce::Spent, _) => "the task's capacity of this period is spent",
            Self::TaskCeiling(_) => "the task's ceiling of this period is reached",
            Self::NoMiner => "no miner of the task is there",
            Self::Draining => "this gateway ends; try another",
            Self::Overloaded => "this gateway has too much to do",
            Self::EngineUnavailable => "the books cannot be reached",
            Self::AttemptsExhausted => "every miner that was tried failed",
            Self::MinerStalled(_) => "the miner stalled in mid-answer",
            Self::MinerLost(_) => "the miner was lost in mid-answer",
            Self::MinerProtocol(_) => "the miner broke the protocol in mid-answer",
            Self::Deadline(_) => "the deadline passed",
            Self::SlowConsumer => "the client reads too slowly",
            Self::RateLimited(_) => "too many of these; wait",
            Self::Stale => "a newer declaration is known",
            Self::SessionSuperseded => "a newer stream took over",
            Self::Unimplemented(what) => return format!("{what} are not served yet"),
            Self::Internal => "unexpected error",
        };
        text.to_owned()
    }

    const fn retry(&self) -> Retry {
        const SOON: Duration = Duration::from_secs(1);
        match self {
            Self::NoCapacity(_, after) | Self::TaskCeiling(after) | Self::RateLimited(after) => {
                Retry::After(*after)
            }
            Self::NoMiner | Self::Overloaded | Self::EngineUnavailable => Retry::After(SOON),
            Self::Draining => Retry::After(Duration::ZERO),
            Self::Deadline(_) => Retry::Unsaid,
            Self::Invalid(_)
            | Self::UnknownTask
            | Self::UnknownReceipt
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotRegistered
            | Self::AttemptsExhausted
            | Self::MinerStalled(_)
            | Self::MinerLost(_)
            | Self::MinerProtocol(_)
            | Self::SlowConsumer
            | Self::Stale
            | Self::SessionSuperseded
            | Self::Unimplemented(_)
            | Self::Internal => Retry::Never,
        }
    }

    fn details(&self) -> ErrorDetails {
        let mut metadata = HashMap::new();
        let mut details = ErrorDetails::new();
        match self {
            Self::Invalid(faults) => {
                let violations = faults
                    .iter()
                    .map(|fault| FieldViolation::new(&fault.field, &fault.fault));
                details.set_bad_request(violations.collect::<Vec<_>>());
            }
            Self::NoCapacity(scarce, _) => {
                let cause = match scarce {
                    Scarce::Busy => "busy",
                    Scarce::Spent => "spent",
                };
                metadata.insert("cause".to_owned(), cause.to_owned());
            }
            Self::MinerStalled(id) | Self::MinerLost(id) | Self::MinerProtocol(id) => {
                details.set_request_info(id.to_string(), "");
            }
            Self::Deadline(phase) => {
                metadata.insert("phase".to_owned(), (*phase).to_owned());
            }
            Self::UnknownTask
            | Self::UnknownReceipt
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotRegistered
            | Self::TaskCeiling(_)
            | Self::NoMiner
            | Self::Draining
            | Self::Overloaded
            | Self::EngineUnavailable
            | Self::AttemptsExhausted
            | Self::RateLimited(_)
            | Self::SlowConsumer
            | Self::Stale
            | Self::SessionSuperseded
            | Self::Unimplemented(_)
            | Self::Internal => {}
        }
        details.set_error_info(self.reason(), DOMAIN, metadata);
        if let Retry::After(after) = self.retry() {
            details.set_retry_info(Some(after));
        }
        details
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let details = refusal.details();
        let mut metadata = MetadataMap::new();
        let pushback = match refusal.retry() {
            Retry::Unsaid => None,
            Retry::Never => Some(-1),
            Retry::After(after) => Some(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
        };
        if let Some(pushback) = pushback {
            metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(pushback));
        }
        metadata.insert(
            "taugate-reason",
            MetadataValue::from_static(refusal.reason()),
        );
        let (code, message) = (refusal.code(), refusal.message());
        Self::with_error_details_and_metadata(code, message, details, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_code_reason_and_time_to_retry() {
        let id = "tg-e10-1-2".parse().unwrap();
        let fault = FieldFault {
            field: "task".into(),
            fault: "is missing".into(),
        };
        let after = Duration::from_millis(700);
        let table: Vec<String> = [
            Refusal::Invalid(vec![fault]),
            Refusal::UnknownTask,
            Refusal::UnknownReceipt,
            Refusal::Unauthenticated,
            Refusal::Forbidden,
            Refusal::NotRegistered,
            Refusal::NoCapacity(Scarce::Busy, after),
            Refusal::NoCapacity(Scarce::Spent, after),
            Refusal::TaskCeiling(after),
            Refusal::NoMiner,
            Refusal::Draining,
            Refusal::Overloaded,
            Refusal::EngineUnavailable,
            Refusal::AttemptsExhausted,
            Refusal::MinerStalled(id),
            Refusal::MinerLost(id),
            Refusal::MinerProtocol(id),
            Refusal::Deadline("prefill"),
            Refusal::SlowConsumer,
            Refusal::RateLimited(after),
            Refusal::Stale,
            Refusal::SessionSuperseded,
            Refusal::Unimplemented("tasks of this kind"),
            Refusal::Internal,
        ]
        .into_iter()
        .map(|refusal| {
            let status = Status::from(refusal);
            let pushback = status.metadata().get("grpc-retry-pushback-ms");
            let pushback = pushback.map_or("-", |value| value.to_str().unwrap());
            let reason = status.get_details_error_info().unwrap().reason;
            assert!(status.details().len() <= 4096 && status.message().len() <= 256);
            format!(
                "{:?} {reason} {pushback}: {}",
                status.code(),
                status.message()
            )
        })
        .collect();
        insta::assert_snapshot!(table.join("\n"));
    }
}
