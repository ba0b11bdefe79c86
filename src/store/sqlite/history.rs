//! What scores are made of: ended periods, checked answers, what was shown.

use std::collections::HashMap;

use rusqlite::{Connection, Row};
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::SqliteStore;
use super::demonstrations::{KEPT, STALE_MS, demonstrations as newest_shown};
use super::rows::{RowFault, Stop, cell_int, int, period_int, uint};
use super::writer::Class;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::scoring::quality::ANSWERS_MAX;
use crate::scoring::reliability::Tally;
use crate::scoring::rows::{Demonstration, Finding, PeriodRow, Rows, ScoreStore, Since};
use crate::task::TaskId;

/// An answer that several checkers judged is one answer; with four checkers each is still seen
/// whole.
const FINDINGS_A_CELL: usize = 4 * ANSWERS_MAX;

/// A period as its books say it, by cell: allotment, units by origin, attempts that ended good,
/// busy and failed. Cells in which nothing happened say nothing.
const FROM_BOOKS: &str = "
    SELECT c.period, c.cell, c.allotment, coalesce(l.organic, 0), coalesce(l.synthetic, 0),
        coalesce(t.good, 0), coalesce(t.busy, 0), coalesce(t.failed, 0)
    FROM cell c JOIN subject s ON s.id = c.cell AND s.kind = 0
    LEFT JOIN (SELECT cell, sum(organic) AS organic, sum(synthetic) AS synthetic
        FROM lease WHERE period = ?1 GROUP BY cell) l ON l.cell = c.cell
    LEFT JOIN (SELECT cell, sum(good) AS good, sum(busy) AS busy,
            sum(lost + stalled + protocol) AS failed
        FROM tally WHERE period = ?1 GROUP BY cell) t ON t.cell = c.cell
    WHERE c.period = ?1 AND (t.good + t.busy + t.failed > 0 OR l.organic + l.synthetic > 0)";

impl ScoreStore for SqliteStore {
    fn keep_history(&self, period: Period) -> BoxFuture<'_, Result<(), StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| keep(conn, period)))
    }

    fn score_rows(&self, since: Since) -> BoxFuture<'_, Result<Rows, StoreAway>> {
        let now_ms = self.rules.now_ms();
        Box::pin(async move {
            let read = move |conn: &Connection| rows(conn, since, now_ms);
            Ok(self.readers.read(read).await?)
        })
    }
}

fn keep(conn: &Connection, period: Period) -> Result<(), Stop<StoreAway>> {
    conn.prepare_cached(&format!(
        "INSERT INTO history (period, cell, allotment, organic, synthetic, good, busy, failed)
         {FROM_BOOKS}
         ON CONFLICT DO UPDATE SET allotment = excluded.allotment, organic = excluded.organic,
             synthetic = excluded.synthetic, good = excluded.good, busy = excluded.busy,
             failed = excluded.failed"
    ))?
    .execute([period_int(period)])?;
    Ok(())
}

/// Who does what, by cell.
type Names = HashMap<i64, (Hotkey, TaskId)>;

fn rows(conn: &Connection, since: Since, now_ms: u64) -> Result<Rows, RowFault> {
    let snapshot = conn.unchecked_transaction()?;
    let names = names(&snapshot)?;
    Ok(Rows {
        periods: periods(&snapshot, since.periods, &names)?,
        findings: findings(&snapshot, since.answers_ms, &names)?,
        demonstrations: demonstrations(&snapshot, now_ms, &names)?,
    })
}

fn names(conn: &Connection) -> Result<Names, RowFault> {
    conn.prepare_cached("SELECT id, name, task FROM subject WHERE kind = 0")?
        .query_and_then([], |row| {
            let name: Vec<u8> = row.get(1)?;
            let name = name.try_into().map_err(|_| RowFault::Damaged("subject"))?;
            let task: String = row.get(2)?;
            Ok((row.get(0)?, (Hotkey::from_bytes(name), task.into())))
        })?
        .collect()
}

/// Of periods that were not kept yet, the running one among them, the books themselves.
fn periods(conn: &Connection, from: Period, names: &Names) -> Result<Vec<PeriodRow>, RowFault> {
    let from = period_int(from);
    let mut kept = conn.prepare_cached(
        "SELECT period, cell, allotment, organic, synthetic, good, busy, failed FROM history
         WHERE period >= ?1",
    )?;
    let of_history = kept.query_and_then([from], |row| period_row(row, "history", names))?;
    let mut all: Vec<PeriodRow> = of_history.collect::<Result<_, _>>()?;
    let mut open = conn.prepare_cached(
        "SELECT DISTINCT period FROM cell WHERE period >= ?1
             AND NOT EXISTS (SELECT 1 FROM history h WHERE h.period = cell.period)",
    )?;
    let open = open.query_map([from], |row| row.get::<_, i64>(0))?;
    let mut books = conn.prepare_cached(FROM_BOOKS)?;
    for period in open {
        let rows = books.query_and_then([period?], |row| period_row(row, "cell", names))?;
        all.extend(rows.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(all)
}

fn period_row(row: &Row<'_>, table: &'static str, names: &Names) -> Result<PeriodRow, RowFault> {
    let number = |column: usize| uint(row.get(column)?, table);
    let (miner, task) = named(names, row.get(1)?)?;
    let synthetic = Units::new(number(4)?);
    Ok(PeriodRow {
        period: Period::starting_at(number(0)?),
        miner,
        task,
        tally: Tally {
            allotment: Units::new(number(2)?),
            posted: Units::new(number(3)?).saturating_add(synthetic),
            good: number(5)?,
            busy: number(6)?,
            failed: number(7)?,
        },
        synthetic,
    })
}

/// Who does what in a cell.
fn named(names: &Names, cell: i64) -> Result<(Hotkey, TaskId), RowFault> {
    let found = names.get(&cell);
    found.cloned().ok_or(RowFault::Damaged("subject"))
}

fn findings(conn: &Connection, since_ms: u64, names: &Names) -> Result<Vec<Finding>, RowFault> {
    let mut newest = conn.prepare_cached(
        "SELECT period, inc, call, quality, units, duration_us, at_ms FROM finding
         WHERE cell = ?1 AND at_ms >= ?2 ORDER BY at_ms DESC LIMIT ?3",
    )?;
    let max = int(FINDINGS_A_CELL as u64);
    let mut all = Vec::new();
    for (cell, (miner, task)) in names {
        let mut rows = newest.query((*cell, int(since_ms), max))?;
        let mut answers: HashMap<[i64; 3], usize> = HashMap::new();
        let mut found: Vec<Finding> = Vec::new();
        while let Some(row) = rows.next()? {
            let finding = finding(row, (*miner, task))?;
            let call = [row.get(0)?, row.get(1)?, row.get(2)?];
            match answers.get(&call) {
                // The checker that found most wrong is heard.
                Some(place) => {
                    found[*place].quality = found[*place].quality.min(finding.quality);
                }
                None => {
                    answers.insert(call, found.len());
                    found.push(finding);
                }
            }
        }
        found.truncate(ANSWERS_MAX);
        all.append(&mut found);
    }
    Ok(all)
}

fn finding(row: &Row<'_>, (miner, task): (Hotkey, &TaskId)) -> Result<Finding, RowFault> {
    let number = |column: usize| uint(row.get(column)?, "finding");
    Ok(Finding {
        miner,
        task: TaskId::clone(task),
        quality: Units::new(number(3)?).as_f64() / 1e6,
        units: Units::new(number(4)?),
        seconds: Units::new(number(5)?).as_f64() / 1e6,
        at_ms: number(6)?,
    })
}

/// What bursts keep of each cell.
fn demonstrations(
    conn: &Connection,
    now_ms: u64,
    names: &Names,
) -> Result<Vec<Demonstration>, RowFault> {
    let from_ms = now_ms.saturating_sub(STALE_MS);
    let kept = newest_shown(conn, KEPT as usize, from_ms)?;
    let named = kept.into_iter().map(|row| {
        let (miner, task) = named(names, cell_int(row.cell))?;
        Ok(Demonstration {
            miner,
            task,
            begins_ms: row.window.begins_ms,
            length_ms: row.window.length_ms,
            common: row.window.common,
            asked: row.asked,
            units: row.units,
        })
    });
    named.collect()
}
