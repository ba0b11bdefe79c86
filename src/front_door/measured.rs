//! Measures requests: method, status, reason, and the time to the end of the answer.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::telemetry::Instruments;

/// Methods that get a label of their own; what else is asked for is `_other`, so that no
/// client can make labels.
const METHODS: [&str; 13] = [
    "/taugate.v1.InferenceService/Generate",
    "/taugate.v1.InferenceService/StreamGenerate",
    "/taugate.v1.InferenceService/ListTasks",
    "/taugate.v1.InferenceService/GetReceipt",
    "/taugate.v1.CapacityService/GetGateway",
    "/taugate.v1.CapacityService/Declare",
    "/taugate.v1.CapacityService/Withdraw",
    "/taugate.v1.CapacityService/SetAvailability",
    "/taugate.v1.CapacityService/WatchCapacity",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// One request, measured when this is dropped: a client that leaves is measured too.
#[derive(Debug)]
pub(super) struct Measure {
    instruments: Arc<Instruments>,
    method: &'static str,
    since: Instant,
    code: Code,
    reason: String,
}

// === impl Measure ===

impl Measure {
    /// A request of this path begins.
    pub(super) fn begin(instruments: &Arc<Instruments>, path: &str) -> Self {
        let known = METHODS.into_iter().find(|known| *known == path);
        instruments.inflight_streams.inc();
        Self {
            instruments: Arc::clone(instruments),
            method: known.map_or("_other", |known| known.trim_start_matches('/')),
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
        self.instruments
            .request(self.method, word(self.code), &self.reason, took);
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
