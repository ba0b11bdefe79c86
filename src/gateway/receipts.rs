//! Receipts as clients read them.

use std::sync::Arc;

use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::RequestId;
use taugate_ledger::receipt::{Finish, Outcome, Quality};

use crate::front_door::inference::Receipts;
use crate::identity::StoreAway;
use crate::proto::v1;
use crate::registry::declaration::Subject;
use crate::store::StoredReceipt;
use crate::store::sqlite::SqliteStore;

/// Reads receipts from the store.
#[derive(Clone, Debug)]
pub(super) struct StoreReceipts(pub(super) Arc<SqliteStore>);

impl Receipts for StoreReceipts {
    fn receipt<'a>(
        &'a self,
        id: RequestId,
        client: &'a str,
    ) -> BoxFuture<'a, Result<Option<v1::Receipt>, StoreAway>> {
        Box::pin(async move {
            let stored = self.0.receipt(id).await.map_err(|_| StoreAway)?;
            let own = stored.filter(|stored| *stored.receipt.client == *client);
            Ok(own.map(to_proto))
        })
    }
}

fn to_proto(stored: StoredReceipt) -> v1::Receipt {
    let StoredReceipt {
        id,
        receipt,
        subjects,
        ..
    } = stored;
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
        period: Some(prost_types::Timestamp {
            seconds: i64::try_from(id.period.start_s()).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        admitted: Some(prost_types::Timestamp {
            seconds: i64::try_from(receipt.admitted_ms / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(receipt.admitted_ms % 1000).unwrap_or(0) * 1_000_000,
        }),
        outcome: finish(receipt.finish).into(),
        units: receipt.units.get(),
        quality: quality(receipt.quality).into(),
        attempts: attempts.collect(),
        part: receipt.is_part(),
        labels: receipt.labels.into_iter().collect(),
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
