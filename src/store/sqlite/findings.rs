//! Findings of answers, and how long clients' requests were.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, params};
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::Outcome;

use super::SqliteStore;
use super::reader;
use super::receipts::{RECEIPT_COLUMNS, receipt_of};
use super::rows::{
    RowFault, Stop, cell_id, cell_int, int, origin_int, period_int, uint, units, units_int,
};
use super::writer::Class;
use crate::identity::StoreAway;
use crate::synthetic::finding::{BUILT_IN, Finding, FindingStore, Submitted};
use crate::synthetic::prompt::{Length, LengthStore};
use crate::task::TaskId;

const T: &str = "finding";

/// Receipts that are looked through for those of one task: a rare one among many is not
/// searched for in all of them.
const LOOKED_THROUGH: i64 = 5_000;

type Kept<R> = Result<R, Stop<StoreAway>>;

impl FindingStore for SqliteStore {
    fn put_findings(&self, findings: Vec<Finding>) -> BoxFuture<'_, Result<(), StoreAway>> {
        Box::pin(self.ask(Class::Opens, 0, move |conn| put_built_in(conn, &findings)))
    }

    fn submit(
        &self,
        id: RequestId,
        checker: Arc<str>,
        quality: f64,
    ) -> BoxFuture<'_, Result<Submitted, StoreAway>> {
        let now_ms = self.rules.now_ms();
        Box::pin(self.ask(Class::Opens, 0, move |conn| {
            submit(conn, id, &checker, (quality, now_ms))
        }))
    }

    fn findings(
        &self,
        cell: CellId,
        since_ms: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<Finding>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| findings(conn, cell, since_ms, max);
            Ok(self.readers.read(read).await?)
        })
    }
}

impl LengthStore for SqliteStore {
    fn lengths(conn: &Connection, task: &str, max: usize) -> Result<Vec<Length>, RowFault> {
    let mut newest = conn.prepare_cached(&format!(
        "SELECT {RECEIPT_COLUMNS} FROM receipt WHERE origin = ?1 AND units > 0 AND finish <> 0
         ORDER BY period DESC, inc DESC, off DESC LIMIT ?2"
    ))?;
    let mut rows = newest.query((origin_int(Origin::Organic), LOOKED_THROUGH))?;
    let mut lengths = Vec::new();
    while lengths.len() < max
        && let Some(row) = rows.next()?
    {
        let receipt = receipt_of(row)?.receipt;
        if *receipt.task == *task {
            lengths.push(Length {
                prompt: receipt.prompt_units,
                output: receipt.units.saturating_sub(receipt.prompt_units),
            });
        }
    }
    Ok(lengths)
}

fn key(id: RequestId) -> (i64, i64, i64) {
    (period_int(id.period), int(id.incarnation.0), int(id.call))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a part of one has seven digits here"
)]
fn millionths(part: f64) -> i64 {
    (part.clamp(0.0, 1.0) * 1e6).round() as i64
}
