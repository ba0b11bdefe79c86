//! The one place where a refusal becomes a gRPC status: code, reason, time to retry.
//!
//! Why no capacity is RESOURCE_EXHAUSTED: all gateways share the books, so that another one
//! rarely helps, and load balancers would eject a gateway that answers UNAVAILABLE.
//!
//! What the gRPC library and its health and reflection services refuse by themselves has no
//! reason; `Refusal::of_foreign` gives it one.

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
    /// Those that could take it have not proven their capacity.
    Unproven,
    /// A check gave its place at a miner to a client's request.
    Displaced,
}

/// What there may only be so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Declarations of one hotkey.
    Declarations,
    /// Changes of availability of one hotkey.
    Changes,
    /// Streams that watch, over all clients.
    Watches,
    /// What one hotkey asks of reports.
    Reports,
    /// Conversations with reflection, over all clients.
    Reflections,
    /// Keys that do not hold, from one address.
    WrongKeys,
}

/// What was delivered of an answer that broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The call.
    pub id: RequestId,
    /// Deltas that left for the client.
    pub chunks: u64,
}

/// Every refusal that a client can get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Fields are wrong; all that were found.
    Invalid(Vec<FieldFault>),
    /// The request is larger than what is taken.
    MessageTooLarge,
    /// No such task, or none that this client may ask for: what it asked for.
    UnknownTask(String),
    /// No such receipt of this client: what it asked for.
    UnknownReceipt(String),
    /// Nothing is known of such a period: what was asked for.
    UnknownPeriod(String),
    /// There is no such scoring profile: what was asked for.
    UnknownProfile(String),
    /// Health knows no such service.
    UnknownService,
    /// Reflection knows no such symbol or file.
    UnknownSymbol,
    /// There is no such method.
    UnknownMethod,
    /// Messages in a compression that is not spoken.
    UnknownEncoding,
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
    MinerStalled(Delivered),
    /// The miner was lost in mid-answer.
    MinerLost(Delivered),
    /// The miner broke the protocol in mid-answer.
    MinerProtocol(Delivered),
    /// The client's time was up, while this was done.
    Deadline(&'static str),
    /// The client took nothing for too long.
    SlowConsumer,
    /// Too much of something that everyone may do a little of.
    RateLimited(Excess, Duration),
    /// A cursor that cannot be acknowledged, and why.
    BadCursor(&'static str),
    /// A declaration is older than one that is known.
    Stale,
    /// A newer stream of the same hotkey took over.
    SessionSuperseded,
    /// Not served yet.
    Unimplemented(&'static str),
    /// The client broke its own request off; nobody reads this.
    Cancelled,
    /// A bug, in this call if it got so far as to be one.
    Internal(Option<RequestId>),
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

/// When what is short-lived may have passed.
const SOON: Duration = Duration::from_secs(1);

/// The longest text of a client's that a detail repeats, bytes.
const REPEATED_MAX: usize = 128;

// === impl Excess ===

impl Excess {
    /// Whom it counts for, and what it is.
    const fn violation(self) -> (&'static str, &'static str) {
        match self {
            Self::Declarations => ("hotkey", "declarations"),
            Self::Changes => ("hotkey", "changes of availability"),
            Self::Watches => ("gateway", "streams that watch"),
            Self::Reports => ("hotkey", "asks for reports"),
            Self::Reflections => ("gateway", "reflection streams"),
            Self::WrongKeys => ("address", "credentials that do not hold"),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// What a status means that none of our rooms made. Its text goes no further: it may
    /// repeat the client's.
    #[must_use]
    pub(super) fn of_foreign(code: Code, path: &str) -> Self {
        match code {
            // The library's word for a message above the limit.
            Code::OutOfRange | Code::ResourceExhausted => Self::MessageTooLarge,
            // Its word for what it cannot decode: handlers of ours say `Internal` themselves.
            Code::Internal | Code::InvalidArgument | Code::DataLoss => {
                Self::Invalid(vec![FieldFault {
                    field: "message".to_owned(),
                    fault: "must be one whole message of the method's type".to_owned(),
                }])
            }
            Code::Unimplemented => Self::UnknownMethod,
            Code::NotFound if path.starts_with("/grpc.health.") => Self::UnknownService,
            Code::NotFound if path.starts_with("/grpc.reflection.") => Self::UnknownSymbol,
            Code::Cancelled | Code::Unavailable => Self::Cancelled,
            Code::DeadlineExceeded => Self::Deadline("request"),
            Code::Ok
            | Code::Unknown
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unauthenticated => Self::Internal(None),
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::Stale => Code::InvalidArgument,
            Self::UnknownTask(_)
            | Self::UnknownReceipt(_)
            | Self::UnknownPeriod(_)
            | Self::UnknownProfile(_)
            | Self::UnknownService
            | Self::UnknownSymbol => Code::NotFound,
            Self::BadCursor(_) => Code::OutOfRange,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden | Self::NotRegistered => Code::PermissionDenied,
            Self::NoCapacity(..)
            | Self::TaskCeiling(_)
            | Self::RateLimited(..)
            | Self::MessageTooLarge
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
            Self::Unimplemented(_) | Self::UnknownMethod | Self::UnknownEncoding => {
                Code::Unimplemented
            }
            Self::Cancelled => Code::Cancelled,
            Self::Internal(_) => Code::Internal,
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_FIELD",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::UnknownTask(_) => "TASK_NOT_FOUND",
            Self::UnknownReceipt(_) => "RECEIPT_NOT_FOUND",
            Self::UnknownPeriod(_) => "PERIOD_NOT_FOUND",
            Self::UnknownProfile(_) => "PROFILE_NOT_FOUND",
            Self::UnknownService => "SERVICE_NOT_FOUND",
            Self::UnknownSymbol => "SYMBOL_NOT_FOUND",
            Self::UnknownMethod => "METHOD_NOT_FOUND",
            Self::UnknownEncoding => "ENCODING_NOT_FOUND",
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
            Self::RateLimited(..) => "RATE_LIMITED",
            Self::BadCursor(_) => "BAD_CURSOR",
            Self::Stale => "STALE",
            Self::SessionSuperseded => "SESSION_SUPERSEDED",
            Self::Unimplemented(_) => "UNIMPLEMENTED",
            Self::Cancelled => "CANCELLED",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn message(&self) -> String {
        let text = match self {
            Self::Invalid(_) => "fields are wrong; see the details",
            Self::MessageTooLarge => "the message is too large",
            Self::UnknownTask(_) => "no such task; ListTasks names the tasks",
            Self::UnknownReceipt(_) => "no such receipt",
            Self::UnknownPeriod(_) => "nothing is known of such a period",
            Self::UnknownProfile(_) => "no such scoring profile",
            Self::UnknownService => "no such service; \"\" is the whole gateway",
            Self::UnknownSymbol => "no such symbol or file",
            Self::UnknownMethod => "no such method; reflection names the methods",
            Self::UnknownEncoding => "no such compression; send identity",
            Self::Unauthenticated => "credentials are missing or wrong",
            Self::Forbidden => "not allowed",
            Self::NotRegistered => "the hotkey is not registered",
            Self::NoCapacity(Scarce::Busy, _) => "every miner of the task is busy",
            Self::NoCapacity(Scarce::Unproven, _) => {
                "no miner of the task has proven its capacity yet"
            }
            Self::NoCapacity(Scarce::Spent, _) => "the task's capacity of this period is spent",
            Self::NoCapacity(Scarce::Displaced, _) => "the check gave way to a client's request",
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
            Self::RateLimited(..) => "too many of these; wait",
            Self::BadCursor(_) => "the cursor cannot be acknowledged; go on from the last sent",
            Self::Stale => "a newer declaration is known",
            Self::SessionSuperseded => "a newer stream took over",
            Self::Unimplemented(what) => return format!("{what} are not served yet"),
            Self::Cancelled => "the request broke off",
            Self::Internal(_) => "unexpected error",
        };
        text.to_owned()
    }

    const fn retry(&self) -> Retry {
        match self {
            Self::NoCapacity(_, after) | Self::TaskCeiling(after) | Self::RateLimited(_, after) => {
                Retry::After(*after)
            }
            Self::NoMiner | Self::Overloaded | Self::EngineUnavailable => Retry::After(SOON),
            Self::Draining => Retry::After(Duration::ZERO),
            Self::Deadline(_) | Self::Cancelled => Retry::Unsaid,
            Self::Invalid(_)
            | Self::MessageTooLarge
            | Self::UnknownTask(_)
            | Self::UnknownReceipt(_)
            | Self::UnknownPeriod(_)
            | Self::UnknownProfile(_)
            | Self::BadCursor(_)
            | Self::UnknownService
            | Self::UnknownSymbol
            | Self::UnknownMethod
            | Self::UnknownEncoding
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
            | Self::Internal(_) => Retry::Never,
        }
    }

    /// The standard details; `retry` is when to try again.
    fn details(&self, retry: &Retry) -> ErrorDetails {
        let mut metadata = HashMap::new();
        let mut tell = |key: &str, value: &str| metadata.insert(key.to_owned(), value.to_owned());
        let mut details = ErrorDetails::new();
        match self {
            Self::Invalid(faults) => {
                let violations = faults
                    .iter()
                    .map(|fault| FieldViolation::new(&fault.field, &fault.fault));
                details.set_bad_request(violations.collect::<Vec<_>>());
            }
            Self::UnknownTask(name) => {
                details.set_resource_info("task", repeated(name), "", "");
            }
            Self::UnknownReceipt(name) => {
                details.set_resource_info("receipt", repeated(name), "", "");
            }
            Self::UnknownPeriod(name) => {
                details.set_resource_info("period", repeated(name), "", "");
            }
            Self::UnknownProfile(name) => {
                details.set_resource_info("profile", repeated(name), "", "");
            }
            Self::BadCursor(cause) => drop(tell("cause", cause)),
            Self::RateLimited(excess, _) => {
                let (subject, description) = excess.violation();
                details.add_quota_failure_violation(subject, description);
            }
            Self::NoCapacity(Scarce::Busy, _) => drop(tell("cause", "busy")),
            Self::NoCapacity(Scarce::Spent, _) => drop(tell("cause", "spent")),
            Self::NoCapacity(Scarce::Unproven, _) => drop(tell("cause", "unproven")),
            Self::NoCapacity(Scarce::Displaced, _) => drop(tell("cause", "displaced")),
            Self::MinerStalled(part) | Self::MinerLost(part) | Self::MinerProtocol(part) => {
                tell("chunks_delivered", &part.chunks.to_string());
                details.set_request_info(part.id.to_string(), "");
            }
            Self::Internal(Some(id)) => {
                details.set_request_info(id.to_string(), "");
            }
            Self::Deadline(phase) => drop(tell("phase", phase)),
            Self::MessageTooLarge
            | Self::UnknownService
            | Self::UnknownSymbol
            | Self::UnknownMethod
            | Self::UnknownEncoding
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotRegistered
            | Self::TaskCeiling(_)
            | Self::NoMiner
            | Self::Draining
            | Self::Overloaded
            | Self::EngineUnavailable
            | Self::AttemptsExhausted
            | Self::SlowConsumer
            | Self::Stale
            | Self::SessionSuperseded
            | Self::Unimplemented(_)
            | Self::Cancelled
            | Self::Internal(None) => {}
        }
        details.set_error_info(self.reason(), DOMAIN, metadata);
        if let Retry::After(after) = retry {
            details.set_retry_info(Some(*after));
        }
        if *self == Self::AttemptsExhausted {
            // The gateway has retried: no client library shall, a person may.
            details.set_retry_info(Some(SOON));
        }
        details
    }

    /// The status. `draw`, from 0 to 1, says where in the spread of the time to retry.
    fn status(&self, draw: f64) -> Status {
        let retry = self.retry().spread(draw);
        let pushback = match retry {
            Retry::Unsaid => None,
            Retry::Never => Some(-1),
            Retry::After(after) => Some(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
        };
        let mut metadata = MetadataMap::new();
        if let Some(pushback) = pushback {
            metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(pushback));
        }
        let reason = MetadataValue::from_static(self.reason());
        metadata.insert("taugate-reason", reason);
        let (code, message) = (self.code(), self.message());
        let details = self.details(&retry);
        Status::with_error_details_and_metadata(code, message, details, metadata)
    }
}

// === impl Retry ===

impl Retry {
    /// Later by up to a half, at most by some seconds: those who were refused together must
    /// not come back together.
    fn spread(self, draw: f64) -> Self {
        const SPREAD_MAX: Duration = Duration::from_secs(5);
        match self {
            Self::After(after) => {
                let spread = (after / 2).min(SPREAD_MAX).mul_f64(draw.clamp(0.0, 1.0));
                Self::After(after.saturating_add(spread))
            }
            Self::Unsaid | Self::Never => self,
        }
    }
}

/// A client's own words, cut: a status must stay small.
fn repeated(text: &str) -> &str {
    &text[..text.floor_char_boundary(REPEATED_MAX)]
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.status(rand::random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each, and more where details differ.
    fn every() -> Vec<Refusal> {
        let id = "tg-e10-1-2".parse().unwrap();
        let part = Delivered { id, chunks: 3 };
        let fault = FieldFault {
            field: "task".into(),
            fault: "is missing".into(),
        };
        let after = Duration::from_millis(700);
        vec![
            Refusal::Invalid(vec![fault]),
            Refusal::MessageTooLarge,
            Refusal::UnknownTask("../é".repeat(100)),
            Refusal::UnknownReceipt("tg-e10-1-2".into()),
            Refusal::UnknownPeriod("3600".into()),
            Refusal::UnknownProfile("vision".into()),
            Refusal::UnknownService,
            Refusal::UnknownSymbol,
            Refusal::UnknownMethod,
            Refusal::UnknownEncoding,
            Refusal::Unauthenticated,
            Refusal::Forbidden,
            Refusal::NotRegistered,
            Refusal::NoCapacity(Scarce::Busy, after),
            Refusal::NoCapacity(Scarce::Spent, after),
            Refusal::NoCapacity(Scarce::Unproven, after),
            Refusal::TaskCeiling(after),
            Refusal::NoMiner,
            Refusal::Draining,
            Refusal::Overloaded,
            Refusal::EngineUnavailable,
            Refusal::AttemptsExhausted,
            Refusal::MinerStalled(part),
            Refusal::MinerLost(part),
            Refusal::MinerProtocol(part),
            Refusal::Deadline("prefill"),
            Refusal::SlowConsumer,
            Refusal::RateLimited(Excess::Declarations, after),
            Refusal::RateLimited(Excess::Changes, after),
            Refusal::RateLimited(Excess::Watches, after),
            Refusal::RateLimited(Excess::Reports, after),
            Refusal::RateLimited(Excess::Reflections, after),
            Refusal::RateLimited(Excess::WrongKeys, after),
            Refusal::BadCursor("future"),
            Refusal::Stale,
            Refusal::SessionSuperseded,
            Refusal::Unimplemented("tasks of this kind"),
            Refusal::Cancelled,
            Refusal::Internal(None),
            Refusal::Internal(Some(id)),
        ]
    }

    #[test]
    fn every_refusal_has_its_code_reason_and_time_to_retry() {
        let table: Vec<String> = every()
            .into_iter()
            .map(|refusal| {
                let status = refusal.status(0.0);
                let pushback = status.metadata().get("grpc-retry-pushback-ms");
                let pushback = pushback.map_or("-", |value| value.to_str().unwrap());
                let reason = status.get_details_error_info().unwrap().reason;
                assert!(status.details().len() <= 4096 && status.message().len() <= 256);
                format!(
                    "{:?} {reason} {pushback}{}: {}",
                    status.code(),
                    detailed(&status.get_error_details()),
                    status.message()
                )
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    /// Which details there are, and what stands in them.
    fn detailed(details: &ErrorDetails) -> String {
        let mut text = String::new();
        let mut add = |part: String| text.push_str(&format!(" {part}"));
        if let Some(info) = details.error_info() {
            let mut metadata: Vec<_> = info.metadata.iter().collect();
            metadata.sort();
            for (key, value) in metadata {
                add(format!("{key}={value}"));
            }
        }
        if let Some(bad) = details.bad_request() {
            add(format!("fields={}", bad.field_violations.len()));
        }
        if let Some(resource) = details.resource_info() {
            let (kind, length) = (&resource.resource_type, resource.resource_name.len());
            add(format!("{kind}={length} bytes"));
        }
        if let Some(excess) = details.quota_failure() {
            let violation = &excess.violations[0];
            add(format!("{}: {}", violation.subject, violation.description));
        }
        if let Some(request) = details.request_info() {
            add(format!("request={}", request.request_id));
        }
        if let Some(retry) = details.retry_info() {
            add(format!("retry={:?}", retry.retry_delay));
        }
        text
    }

    #[test]
    fn the_list_for_clients_has_every_reason_with_its_code() {
        let list = include_str!("../../docs/STATUSES.md");
        let code = |refusal: &Refusal| {
            let name = format!("{:?}", refusal.code());
            let mut words = String::new();
            for letter in name.chars() {
                if letter.is_uppercase() && !words.is_empty() {
                    words.push('_');
                }
                words.push(letter.to_ascii_uppercase());
            }
            words
        };
        let rows: std::collections::BTreeSet<String> = every()
            .iter()
            .map(|refusal| format!("| `{}` | `{}` |", code(refusal), refusal.reason()))
            .collect();
        for row in &rows {
            assert!(list.contains(row), "{row} is missing");
        }
        let listed = list.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(
            listed.count(),
            rows.len(),
            "one is listed that is not refused with"
        );
    }

    #[test]
    fn times_to_retry_are_spread_and_say_the_same_twice() {
        let busy = Refusal::NoCapacity(Scarce::Busy, Duration::from_secs(1));
        let spent = Refusal::NoCapacity(Scarce::Spent, Duration::from_secs(3000));
        let said = |refusal: &Refusal, draw| {
            let status = refusal.status(draw);
            let delay = status.get_details_retry_info().unwrap().retry_delay;
            let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
            let ms = u64::try_from(delay.unwrap().as_millis()).unwrap();
            assert_eq!(pushback.to_str().unwrap(), ms.to_string());
            ms
        };
        assert_eq!((said(&busy, 0.0), said(&busy, 0.5)), (1_000, 1_250));
        assert_eq!(
            (said(&spent, 0.0), said(&spent, 1.0)),
            (3_000_000, 3_005_000)
        );
        assert_eq!(said(&Refusal::Draining, 1.0), 0);
        let drawn: std::collections::BTreeSet<_> = (0..50)
            .map(|_| Status::from(busy.clone()))
            .map(|status| status.get_details_retry_info().unwrap().retry_delay)
            .collect();
        assert!(drawn.len() > 10, "{drawn:?}");
    }
}
