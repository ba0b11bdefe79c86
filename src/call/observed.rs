//! What a call leaves for those who watch: counts, a line in the log, a trace.

use taugate_ledger::receipt::Finish;
use taugate_ledger::units::Units;

use super::record::{Attempt, Record};
use super::trace::{self, TraceSettings};
use crate::telemetry::Instruments;

/// Counts the call, logs it, and leaves its trace where that is kept.
pub(super) fn observe(
    record: &Record,
    instruments: &Instruments,
    trace: &TraceSettings,
    finish: Finish,
) {
    let mut units = Units::ZERO;
    for attempt in &record.attempts {
        instruments.attempt(attempt.number, attempt.outcome);
        units = units.saturating_add(attempt.units);
    }
    if let Some(first) = record.attempts.last().and_then(Attempt::to_first_chunk) {
        instruments.first_chunk(&record.task.id, first);
    }
    instruments.call_ended(&record.task.id, record.origin, finish, units);
    let took_ms = u64::try_from(record.admitted_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        id = %record.id,
        task = %record.task.id,
        client = %record.client,
        finish = finish.as_str(),
        attempts = record.attempts.len(),
        miner = record.attempts.last().map_or("", |attempt| &attempt.hotkey),
        units = units.get(),
        took_ms,
        "call ended"
    );
    if trace.keeps(record, finish) {
        trace::export(record, finish);
    }
}
