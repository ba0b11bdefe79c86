//! What is told, as the protos have it.

use taugate_ledger::ids::{CellId, Origin, RequestId};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Finish, Outcome, Quality, Receipt};

use super::{Counter, PlacedReceipt};
use crate::proto::v1;
use crate::registry::declaration::Subject;

/// An origin.
#[must_use]
pub const fn origin(origin: Origin) -> v1::Origin {
    match origin {
        Origin::Organic => v1::Origin::Organic,
        Origin::Synthetic => v1::Origin::Synthetic,
    }
}

/// A period's start.
#[must_use]
pub fn period(period: Period) -> prost_types::Timestamp {
    let seconds = i64::try_from(period.start_s()).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: 0 }
}

/// A moment, of Unix milliseconds.
#[must_use]
pub fn instant(unix_ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(unix_ms % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// A counter, with the origin that its reader may know.
#[must_use]
pub fn consumption(row: &Counter, origin: v1::Origin) -> v1::Consumption {
    let [good, busy, refused, cancelled, failures @ ..] = row.attempts;
    v1::Consumption {
        incarnation: row.incarnation.0,
        period: Some(period(row.period)),
        miner: row.miner.to_string(),
        task: row.task.to_string(),
        origin: origin.into(),
        rev: row.rev,
        units: row.units.get(),
        good,
        busy,
        failed: failures.into_iter().fold(0, u64::saturating_add),
        refused,
        cancelled,
        first_chunk_sum: Some(micros(row.first_chunk_us)),
        duration_sum: Some(micros(row.duration_us)),
    }
}

/// A receipt with its place. A client's labels are its own affair.
#[must_use]
pub fn sequenced(placed: &PlacedReceipt) -> v1::SequencedReceipt {
    let id = RequestId {
        period: placed.period,
        incarnation: placed.incarnation,
        call: placed.receipt.call,
    };
    let receipt = v1::Receipt {
        labels: std::collections::HashMap::new(),
        ..receipt(id, &placed.receipt, &placed.subjects)
    };
    v1::SequencedReceipt {
        incarnation: placed.incarnation.0,
        offset: placed.offset,
        receipt: Some(receipt),
        origin: origin(placed.receipt.origin).into(),
    }
}

/// A receipt; `subjects` names its cells.
#[must_use]
pub fn receipt(id: RequestId, receipt: &Receipt, subjects: &[(CellId, Subject)]) -> v1::Receipt {
    let miner = |cell| {
        let subject = subjects.iter().find(|(known, _)| *known == cell);
        match subject {
            Some((_, Subject::Miner { hotkey, .. })) => hotkey.to_string(),
            Some((_, Subject::Ceiling { .. } | Subject::Client { .. })) | None => String::new(),
        }
    };
    let attempts = receipt.attempts.iter().map(|attempt| v1::ReceiptAttempt {
        miner: miner(attempt.cell),
        outcome: outcome(attempt.outcome).into(),
        units: attempt.units.get(),
        first_chunk: attempt.first_chunk_us.map(micros),
        duration: Some(micros(attempt.duration_us)),
    });
    v1::Receipt {
        request_id: id.to_string(),
        task: receipt.task.to_string(),
        period: Some(period(id.period)),
        admitted: Some(instant(receipt.admitted_ms)),
        outcome: finish(receipt.finish).into(),
        units: receipt.units.get(),
        quality: quality(receipt.quality).into(),
        attempts: attempts.collect(),
        part: receipt.is_part(),
        labels: receipt.labels.iter().cloned().collect(),
    }
}

fn micros(micros: u64) -> prost_types::Duration {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(micros % 1_000_000).unwrap_or(0) * 1000;
    prost_types::Duration { seconds, nanos }
}

const fn outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Good => v1::Outcome::Good,
        Outcome::Busy => v1::Outcome::Busy,
        Outcome::Refused => v1::Outcome::Refused,
        Outcome::Cancelled => v1::Outcome::Cancelled,
        Outcome::Lost => v1::Outcome::Lost,
        Outcome::Stalled => v1::Outcome::Stalled,
        Outcome::Protocol => v1::Outcome::Protocol,
    }
}

const fn finish(finish: Finish) -> v1::Outcome {
    match finish {
        Finish::Running => v1::Outcome::Unspecified,
        Finish::Attempt(ended) => outcome(ended),
        Finish::NoCapacity => v1::Outcome::NoCapacity,
        Finish::GatewayLost | Finish::Drained | Finish::Internal => v1::Outcome::GatewayLost,
        Finish::SlowConsumer => v1::Outcome::Cancelled,
    }
}

const fn quality(quality: Quality) -> v1::UsageQuality {
    match quality {
        Quality::Exact => v1::UsageQuality::Exact,
        Quality::Estimated => v1::UsageQuality::Estimated,
        Quality::Partial => v1::UsageQuality::Partial,
    }
}
