//! Seals, and what they are made of.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::SqliteStore;
use super::cells::subject_of;
use super::exchange::FirstOfThisProcess;
use super::reader;
use super::rows::{RowFault, Stop, cell_id, int, period_int, uint};
use super::rules::Rules;
use super::writer::Class;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::registry::declaration::Subject;
use crate::report::seal::{InDoubt, PeriodBooks, Total};
use crate::report::{Closing, ClosingMark, SealRow, SealStore};

/// The columns of a seal, in the order that [`seal_of`] reads.
pub(super) const SEAL_COLUMNS: &str = "id, period, revision, payload, signature, hotkey";

impl SealStore for SqliteStore {
    fn closing(&self) -> BoxFuture<'_, Result<Vec<Closing>, StoreAway>> {
        let (rules, first) = (self.rules.clone(), self.first);
        Box::pin(async move {
            let read = move |conn: &Connection| closing(conn, &rules, first);
            Ok(self.readers.read(read).await?)
        })
    }

    fn period_books(&self, period: Period) -> BoxFuture<'_, Result<PeriodBooks, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| period_books(conn, period);
            Ok(self.readers.read(read).await?)
        })
    }

    fn put_seal(&self, seal: SealRow) -> BoxFuture<'_, Result<bool, StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| put(conn, &seal)))
    }

    fn seals(&self, period: Period) -> BoxFuture<'_, Result<Vec<SealRow>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| seals(conn, period);
            Ok(self.readers.read(read).await?)
        })
    }
}

/// A lease is open while its incarnation neither closed the period nor is dead for certain:
/// of an earlier process on this file.
fn closing(
    conn: &Connection,
    rules: &Rules,
    first: FirstOfThisProcess,
) -> Result<Vec<Closing>, RowFault> {
    let running = rules.length.period_at(rules.now_ms());
    let snapshot = conn.unchecked_transaction()?;
    let mut ended = snapshot.prepare_cached(
        "SELECT period,
             (SELECT coalesce(sum(next_off), 0) FROM inc_period i WHERE i.period = c.period),
             (SELECT coalesce(sum(granted), 0) FROM lease l WHERE l.period = c.period),
             (SELECT coalesce(sum(closed), 0) FROM inc_period i WHERE i.period = c.period),
             EXISTS (SELECT 1 FROM lease l WHERE l.period = c.period AND l.inc >= ?3
                 AND NOT EXISTS (SELECT 1 FROM inc_period i
                     WHERE i.period = l.period AND i.inc = l.inc AND i.closed))
         FROM (SELECT DISTINCT period FROM cell WHERE period >= ?1 AND period < ?2) c
         ORDER BY period",
    )?;
    let keep_from = period_int(rules.keep_from());
    ended
        .query_and_then((keep_from, period_int(running), int(first.0.0)), |row| {
            let number = |column: usize| uint(row.get(column)?, "inc_period");
            let period = Period::starting_at(number(0)?);
            let open: bool = row.get(4)?;
            Ok(Closing {
                period,
                due: !open || rules.is_past_grace(period),
                mark: ClosingMark([number(1)?, number(2)?, number(3)?]),
            })
        })?
        .collect()
}

fn period_books(conn: &Connection, period: Period) -> Result<PeriodBooks, RowFault> {
    let snapshot = conn.unchecked_transaction()?;
    let mut sums: BTreeMap<_, (Units, u64)> = BTreeMap::new();
    for row in reader::tallies(&snapshot, period)? {
        let sum = sums.entry((row.cell, row.origin)).or_default();
        sum.0 = sum.0.saturating_add(row.units);
        sum.1 = sum.1.saturating_add(row.attempts.iter().sum());
    }
    let mut books = PeriodBooks::default();
    for ((cell, origin), (units, attempts)) in sums {
        let (miner, task) = match subject_of(&snapshot, cell)? {
            Some(Subject::Miner { hotkey, task }) => (hotkey, task),
            Some(Subject::Ceiling { .. } | Subject::Client { .. }) | None => {
                return Err(RowFault::Damaged("tally"));
            }
        };
        let row = Total {
            miner,
            task,
            origin,
            units,
            attempts,
        };
        books.totals.push(row);
    }
    let mut unproven = snapshot.prepare_cached(
        "SELECT l.cell, sum(granted - organic - synthetic) FROM lease l
         JOIN subject s ON s.id = l.cell AND s.kind = 0
         WHERE l.period = ?1 AND NOT EXISTS (SELECT 1 FROM inc_period i
             WHERE i.period = l.period AND i.inc = l.inc AND i.closed)
         GROUP BY l.cell HAVING sum(granted - organic - synthetic) > 0",
    )?;
    let mut rows = unproven.query([period_int(period)])?;
    while let Some(row) = rows.next()? {
        let cell = cell_id(row.get(0)?, "lease")?;
        if let Some(Subject::Miner { hotkey, task }) = subject_of(&snapshot, cell)? {
            books.in_doubt.push(InDoubt {
                miner: hotkey,
                task,
                units: Units::new(uint(row.get(1)?, "lease")?),
            });
        }
    }
    books.sort();
    Ok(books)
}

fn put(conn: &Connection, seal: &SealRow) -> Result<bool, Stop<StoreAway>> {
    let changed = conn
        .prepare_cached(
            "INSERT INTO seal (period, revision, payload, signature, hotkey)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?2 = 1 +
                 (SELECT coalesce(max(revision), 0) FROM seal WHERE period = ?1)",
        )?
        .execute(params![
            period_int(seal.period),
            seal.revision,
            seal.payload,
            &seal.signature[..],
            &seal.hotkey.as_bytes()[..],
        ])?;
    Ok(changed > 0)
}

fn seals(conn: &Connection, period: Period) -> Result<Vec<SealRow>, RowFault> {
    conn.prepare_cached(&format!(
        "SELECT {SEAL_COLUMNS} FROM seal WHERE period = ?1 ORDER BY revision"
    ))?
    .query_and_then([period_int(period)], seal_of)?
    .collect()
}

/// A seal from a row of [`SEAL_COLUMNS`].
pub(super) fn seal_of(row: &Row<'_>) -> Result<SealRow, RowFault> {
    const T: &str = "seal";
    Ok(SealRow {
        id: uint(row.get(0)?, T)?,
        period: Period::starting_at(uint(row.get(1)?, T)?),
        revision: row.get(2)?,
        payload: row.get(3)?,
        signature: row.get(4)?,
        hotkey: Hotkey::from_bytes(row.get(5)?),
    })
}
