//! A call's trace, made from its record once it is over, with the true instants.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, global};
use taugate_ledger::receipt::{Finish, Outcome};
use tokio::time::Instant;

use super::record::{Attempt, Record};

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceSettings {
    /// Part of the good and quick calls that are kept, 0 to 1.
    pub ratio: f64,
    /// A call that took longer is always kept.
    pub slow: Duration,
}

// === impl TraceSettings ===

impl TraceSettings {
    /// Whether a call's trace is kept: always when it failed or was slow, else by ratio.
    #[must_use]
    pub fn keeps(&self, record: &Record, finish: Finish) -> bool {
        let good = finish == Finish::Attempt(Outcome::Good) && record.attempts.len() == 1;
        let quick = record.admitted_at.elapsed() < self.slow;
        !good || !quick || by_ratio(record.id.call, self.ratio)
    }
}

/// Keeps the same part of any run of calls, without a draw.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a ratio needs no more digits"
)]
fn by_ratio(call: u64, ratio: f64) -> bool {
    let kept = |calls: u64| (calls as f64 * ratio.clamp(0.0, 1.0)).floor() as u64;
    kept(call) > kept(call.saturating_sub(1))
}

/// Exports the trace of a call that is over.
pub(super) fn export(record: &Record, finish: Finish) {
    let clock = Wall { record };
    let tracer = global::tracer("taugate");
    let builder = SpanBuilder::from_name(format!("chat {}", record.task.id))
        .with_kind(SpanKind::Server)
        .with_start_time(clock.at(record.admitted_at))
        .with_attributes([
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", "taugate"),
            KeyValue::new("gen_ai.request.model", record.task.id.to_string()),
            KeyValue::new("gen_ai.response.id", record.id.to_string()),
            KeyValue::new("taugate.finish", finish.as_str()),
            KeyValue::new("taugate.attempts", integer(record.attempts.len())),
        ]);
    let root = tracer.build_with_context(builder, &Context::new());
    let context = Context::new().with_span(root);
    for attempt in &record.attempts {
        let builder = SpanBuilder::from_name("attempt")
            .with_kind(SpanKind::Client)
            .with_start_time(clock.at(attempt.sent))
            .with_attributes([
                KeyValue::new("taugate.miner", attempt.hotkey.to_string()),
                KeyValue::new("taugate.outcome", attempt.outcome.as_str()),
                KeyValue::new(
                    "taugate.units",
                    i64::try_from(attempt.units.get()).unwrap_or(i64::MAX),
                ),
            ]);
        let mut span = tracer.build_with_context(builder, &context);
        if let Some(first) = attempt.first_chunk {
            span.add_event_with_timestamp("first chunk", clock.at(first), Vec::new());
        }
        if attempt.outcome.is_failure() {
            span.set_status(Status::error(attempt.outcome.as_str()));
        }
        span.end_with_timestamp(clock.at(ended(attempt)));
    }
    let span = context.span();
    if finish != Finish::Attempt(Outcome::Good) {
        span.set_status(Status::error(finish.as_str()));
    }
    span.end_with_timestamp(clock.at(Instant::now()));
}

fn ended(attempt: &Attempt) -> Instant {
    attempt.ended.unwrap_or_else(Instant::now)
}

fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Wall time of a record's monotonic instants.
struct Wall<'a> {
    record: &'a Record,
}

// === impl Wall ===

impl Wall<'_> {
    fn at(&self, instant: Instant) -> SystemTime {
        let since = instant.saturating_duration_since(self.record.admitted_at);
        UNIX_EPOCH + Duration::from_millis(self.record.admitted_ms) + since
    }
}
