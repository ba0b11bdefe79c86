//! Measures requests: method, task, status, reason, and the time to the end of the answer.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::task::TaskId;
use crate::telemetry::Instruments;
use crate::telemetry::instruments::RequestEnd;

/// The task of a request, once it was read; in a request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<OnceLock<TaskId>>);

/// One request, measured when this is dropped: a client that leaves is measured too.
#[derive(Debug)]
pub(super) struct Measure {
    instruments: Arc<Instruments>,
    method: &'static str,
    asked: Asked,
    since: Instant,
    code: Code,
    reason: String,
}

// === impl Asked ===

impl Asked {
    /// Says which task was asked for, if it is one of ours: no client may make labels.
    pub(super) fn name(&self, task: Option<&TaskId>) {
        self.0
            .get_or_init(|| task.map_or_else(|| Arc::from("_other"), Arc::clone));
    }
}

// === impl Measure ===

impl Measure {
    /// A request of that method begins.
    pub(super) fn begin(
        instruments: &Arc<Instruments>,
        method: &'static str,
        asked: Asked,
    ) -> Self {
        instruments.inflight_streams.inc();
        Self {
            instruments: Arc::clone(instruments),
            method,
            asked,
            since: Instant::now(),
            // Until its end is seen: the client left.
            code: Code::Cancelled,
            reason: String::new(),
        }
    }

    /// Headers that hold a status, or trailers.
    pub(super) fn see(&mut self, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else {
            return;
        };
        self.code = status.code();
        let reason = headers
            .get("taugate-reason")
            .and_then(|reason| reason.to_str().ok());
        reason.unwrap_or_default().clone_into(&mut self.reason);
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.instruments.inflight_streams.dec();
        let took = self.since.elapsed();
        let task = self.asked.0.get().map_or("", AsRef::as_ref);
        let ended = RequestEnd {
            method: self.method,
            task,
            code: word(self.code),
            reason: &self.reason,
        };
        self.instruments.request(ended, took);
    }
}

/// A code's name, as the protocol spells it.
const fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
