//! The windows of bursts, and what miners showed in them.

use rusqlite::{Connection, Row, params};
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::Incarnation;
use taugate_ledger::period::Period;

use super::SqliteStore;
use super::rows::{RowFault, Stop, cell_id, cell_int, int, period_int, uint, units, units_int};
use super::writer::Class;
use crate::identity::StoreAway;
use crate::synthetic::burst::{BurstStore, NumberedWindow, Window};
use crate::synthetic::demonstration::{Demonstration, DemonstrationStore};

/// Demonstrations of a cell that are kept: more than ever count, few enough for periods of
/// seconds.
pub(super) const KEPT: u32 = 16;

/// Who showed nothing for so long is as new: a week, milliseconds.
pub(super) const STALE_MS: u64 = 7 * 24 * 3600 * 1000;

impl BurstStore for SqliteStore {
    fn put_bursts(
        &self,
        period: Period,
        term: u64,
        windows: Vec<NumberedWindow>,
    ) -> BoxFuture<'_, Result<Vec<NumberedWindow>, StoreAway>> {
        Box::pin(self.ask(Class::Opens, 0, move |conn| {
            put_bursts(conn, period, term, &windows)
        }))
    }
}

impl DemonstrationStore for SqliteStore {
    fn put_demonstrations(
        &self,
        incarnation: Incarnation,
        rows: Vec<Demonstration>,
    ) -> BoxFuture<'_, Result<(), StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            rows.iter().try_for_each(|row| put(conn, incarnation, row))
        }))
    }

    fn demonstrations(
        &self,
        newest: usize,
    ) -> BoxFuture<'_, Result<Vec<Demonstration>, StoreAway>> {
        let from_ms = self.rules.now_ms().saturating_sub(STALE_MS);
        Box::pin(async move {
            let read = move |conn: &Connection| demonstrations(conn, newest, from_ms);
            Ok(self.readers.read(read).await?)
        })
    }
}

fn put_bursts(
    conn: &Connection,
    period: Period,
    term: u64,
    windows: &[NumberedWindow],
) -> Result<Vec<NumberedWindow>, Stop<StoreAway>> {
    let mut put = conn.prepare_cached(
        "INSERT INTO burst (period, number, term, begins_ms, length_ms, common)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?3 = (SELECT term FROM planner)
         ON CONFLICT DO NOTHING",
    )?;
    for one in windows {
        put.execute(params![
            period_int(period),
            one.number,
            int(term),
            int(one.window.begins_ms),
            int(one.window.length_ms),
            one.window.common,
        ])?;
    }
    let standing = conn
        .prepare_cached(
            "SELECT number, begins_ms, length_ms, common FROM burst WHERE period = ?1
             ORDER BY number",
        )?
        .query_and_then([period_int(period)], |row| {
            Ok(NumberedWindow {
                number: row.get(0)?,
                window: window_of(row, 1)?,
            })
        })?
        .collect::<Result<_, RowFault>>()?;
    Ok(standing)
}

/// A window from three columns: when it begins, how long it is, whether it is common.
fn window_of(row: &Row<'_>, first: usize) -> Result<Window, RowFault> {
    let number = |column: usize| uint(row.get(column)?, "burst");
    Ok(Window {
        begins_ms: number(first)?,
        length_ms: number(first.saturating_add(1))?,
        common: row.get(first.saturating_add(2))?,
    })
}

fn put(
    conn: &Connection,
    incarnation: Incarnation,
    row: &Demonstration,
) -> Result<(), Stop<StoreAway>> {
    conn.prepare_cached(
        "INSERT INTO demonstration (begins_ms, cell, inc, length_ms, common, asked, units)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        int(row.window.begins_ms),
        cell_int(row.cell),
        int(incarnation.0),
        int(row.window.length_ms),
        row.window.common,
        units_int(row.asked),
        units_int(row.units),
    ])?;
    conn.prepare_cached(
        "DELETE FROM demonstration WHERE cell = ?1 AND begins_ms < (
             SELECT min(begins_ms) FROM (SELECT DISTINCT begins_ms FROM demonstration
                 WHERE cell = ?1 ORDER BY begins_ms DESC LIMIT ?2))",
    )?
    .execute((cell_int(row.cell), KEPT))?;
    Ok(())
}

pub(super) fn demonstrations(
    conn: &Connection,
    newest: usize,
    from_ms: u64,
) -> Result<Vec<Demonstration>, RowFault> {
    const T: &str = "demonstration";
    conn.prepare_cached(
        "SELECT cell, asked, units, begins_ms, length_ms, common FROM (
             SELECT cell, begins_ms, max(length_ms) AS length_ms, max(common) AS common,
                 sum(asked) AS asked, sum(units) AS units,
                 row_number() OVER (PARTITION BY cell ORDER BY begins_ms DESC) AS place
             FROM demonstration WHERE begins_ms >= ?2
             GROUP BY cell, begins_ms HAVING sum(asked) > 0)
         WHERE place <= ?1 ORDER BY cell, begins_ms DESC",
    )?
    .query_and_then(
        (i64::try_from(newest).unwrap_or(i64::MAX), int(from_ms)),
        |row| {
            Ok(Demonstration {
                cell: cell_id(row.get(0)?, T)?,
                asked: units(row.get(1)?, T)?,
                units: units(row.get(2)?, T)?,
                window: window_of(row, 3)?,
            })
        },
    )?
    .collect()
}
