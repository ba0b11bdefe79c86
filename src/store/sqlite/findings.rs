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
    fn lengths(&self, task: TaskId, max: usize) -> BoxFuture<'_, Result<Vec<Length>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| lengths(conn, &task, max);
            Ok(self.readers.read(read).await?)
        })
    }
}

fn put_built_in(conn: &Connection, findings: &[Finding]) -> Kept<()> {
    let mut judged = conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM finding WHERE period = ?1 AND inc = ?2 AND call = ?3)",
    )?;
    for finding in findings {
        let call = key(finding.id);
        if !judged.query_row(call, |row| row.get::<_, bool>(0))? {
            put(conn, finding)?;
        }
    }
    Ok(())
}

fn put(conn: &Connection, finding: &Finding) -> Result<(), RowFault> {
    let (period, inc, call) = key(finding.id);
    conn.prepare_cached(
        "INSERT INTO finding (period, inc, call, checker, cell, quality, units, duration_us, at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT DO UPDATE SET quality = excluded.quality, at_ms = excluded.at_ms
         WHERE quality <> excluded.quality",
    )?
    .execute(params![
        period,
        inc,
        call,
        &*finding.checker,
        cell_int(finding.cell),
        millionths(finding.quality),
        units_int(finding.units),
        int(u64::try_from(finding.duration.as_micros()).unwrap_or(u64::MAX)),
        int(finding.at_ms),
    ])?;
    Ok(())
}

fn submit(
    conn: &Connection,
    id: RequestId,
    checker: &Arc<str>,
    (quality, at_ms): (f64, u64),
) -> Kept<Submitted> {
    let Some(placed) = reader::last_receipt(conn, id)? else {
        return Ok(Submitted::Unknown);
    };
    let attempts = placed.receipt.attempts.iter();
    let Some(attempt) = attempts
        .rev()
        .find(|attempt| attempt.outcome == Outcome::Good)
    else {
        return Ok(Submitted::NotWhole);
    };
    conn.prepare_cached(
        "DELETE FROM finding WHERE period = ?1 AND inc = ?2 AND call = ?3 AND checker = ?4",
    )?
    .execute(params![key(id).0, key(id).1, key(id).2, BUILT_IN])?;
    let finding = Finding {
        id,
        checker: Arc::clone(checker),
        cell: attempt.cell,
        quality,
        units: attempt.units,
        duration: Duration::from_micros(attempt.duration_us),
        at_ms,
    };
    put(conn, &finding)?;
    Ok(Submitted::Kept)
}

fn findings(
    conn: &Connection,
    cell: CellId,
    since_ms: u64,
    max: usize,
) -> Result<Vec<Finding>, RowFault> {
    conn.prepare_cached(
        "SELECT period, inc, call, checker, cell, quality, units, duration_us, at_ms FROM finding
         WHERE cell = ?1 AND at_ms >= ?2 ORDER BY at_ms DESC, period DESC, inc DESC, call DESC
         LIMIT ?3",
    )?
    .query_and_then(
        (
            cell_int(cell),
            int(since_ms),
            i64::try_from(max).unwrap_or(i64::MAX),
        ),
        finding_of,
    )?
    .collect()
}

fn finding_of(row: &Row<'_>) -> Result<Finding, RowFault> {
    let number = |column: usize| uint(row.get(column)?, T);
    let quality = u32::try_from(number(5)?).map_err(|_| RowFault::Damaged(T))?;
    Ok(Finding {
        id: RequestId {
            period: Period::starting_at(number(0)?),
            incarnation: Incarnation(number(1)?),
            call: number(2)?,
        },
        checker: row.get(3)?,
        cell: cell_id(row.get(4)?, T)?,
        quality: f64::from(quality) / 1e6,
        units: units(row.get(6)?, T)?,
        duration: Duration::from_micros(number(7)?),
        at_ms: number(8)?,
    })
}

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
