//! What consumers are told, and how far they are.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::Incarnation;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::SqliteStore;
use super::reader::subjects;
use super::receipts::{RECEIPT_COLUMNS, receipt_of};
use super::rows::{
    RowFault, Stop, cell_id, cell_int, int, origin, origin_int, period_int, uint, units,
};
use super::rules::Rules;
use super::seals::{SEAL_COLUMNS, seal_of};
use super::writer::Class;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::report::{Counter, CounterPage, PlacedReceipt, Reach, ReportStore, SealRow, Standing};

/// Consumers of one hotkey whose acks are kept; a validator has one or two.
const CONSUMERS_MAX: u32 = 8;

impl ReportStore for SqliteStore {
    fn standing(&self) -> BoxFuture<'_, Result<Standing, StoreAway>> {
        let rules = self.rules.clone();
        Box::pin(async move {
            let read = move |conn: &Connection| standing(conn, &rules);
            Ok(self.readers.read(read).await?)
        })
    }

    fn counters(&self, page: CounterPage) -> BoxFuture<'_, Result<Vec<Counter>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| counters(conn, page);
            Ok(self.readers.read(read).await?)
        })
    }

    fn receipts(
        &self,
        of: Reach,
        from: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<PlacedReceipt>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| receipts(conn, of, from, max);
            Ok(self.readers.read(read).await?)
        })
    }

    fn seals_after(&self, id: u64, max: usize) -> BoxFuture<'_, Result<Vec<SealRow>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| seals_after(conn, id, max);
            Ok(self.readers.read(read).await?)
        })
    }

    fn acked(
        &self,
        hotkey: Hotkey,
        consumer: &str,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreAway>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            let read = move |conn: &Connection| acked(conn, hotkey, &consumer);
            Ok(self.readers.read(read).await?)
        })
    }

    fn put_ack(
        &self,
        hotkey: Hotkey,
        consumer: &str,
        cursor: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), StoreAway>> {
        let (consumer, now_ms) = (consumer.to_owned(), self.rules.now_ms());
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            put_ack(conn, hotkey, &consumer, (&cursor, now_ms))
        }))
    }
}

fn standing(conn: &Connection, rules: &Rules) -> Result<Standing, RowFault> {
    // Before the snapshot: what is booked by then is in it.
    let now_ms = rules.now_ms();
    let snapshot = conn.unchecked_transaction()?;
    let store = snapshot.query_row("SELECT store_id FROM store", [], |row| row.get(0))?;
    // Of the seals that were ever kept, not of those that still are.
    let last_seal: Option<i64> = snapshot
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'seal'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let keep_from = rules.keep_from();
    let reaches = snapshot
        .prepare_cached(
            "SELECT period, inc, next_off FROM inc_period WHERE period >= ?1
             ORDER BY period, inc",
        )?
        .query_and_then([period_int(keep_from)], |row| {
            let number = |column: usize| uint(row.get(column)?, "inc_period");
            Ok(Reach {
                period: Period::starting_at(number(0)?),
                incarnation: Incarnation(number(1)?),
                next_offset: number(2)?,
            })
        })?
        .collect::<Result<_, RowFault>>()?;
    Ok(Standing {
        store,
        reaches,
        last_seal: uint(last_seal.unwrap_or(0), "seal")?,
        keep_from,
        settled: rules.settled(),
        now_ms,
    })
}

fn counters(conn: &Connection, page: CounterPage) -> Result<Vec<Counter>, RowFault> {
    let (cell, from) = page
        .after
        .map_or((-1, -1), |(cell, from)| (cell_int(cell), origin_int(from)));
    let miner = page.miner.map(|miner| miner.as_bytes().to_vec());
    conn.prepare_cached(
        "SELECT t.inc, t.period, t.cell, s.name, s.task, t.origin, rev,
             CASE t.origin WHEN 0 THEN organic ELSE synthetic END,
             good, busy, refused, cancelled, lost, stalled, protocol,
             first_chunk_us, duration_us
         FROM tally t JOIN subject s ON s.id = t.cell AND s.kind = 0
         LEFT JOIN lease l ON (l.period, l.inc, l.cell) = (t.period, t.inc, t.cell)
         WHERE t.period = ?1 AND t.inc = ?2 AND t.off > ?3 AND (t.cell, t.origin) > (?4, ?5)
             AND (?6 IS NULL OR s.name = ?6)
         ORDER BY t.cell, t.origin LIMIT ?7",
    )?
    .query_and_then(
        params![
            period_int(page.period),
            int(page.incarnation.0),
            int(page.changed_after),
            cell,
            from,
            miner,
            int(page.max as u64),
        ],
        counter_of,
    )?
    .collect()
}

fn counter_of(row: &Row<'_>) -> Result<Counter, RowFault> {
    const T: &str = "tally";
    let number = |column: usize| uint(row.get(column)?, T);
    let mut attempts = [0; 7];
    for (column, count) in attempts.iter_mut().enumerate() {
        *count = number(column.saturating_add(8))?;
    }
    Ok(Counter {
        incarnation: Incarnation(number(0)?),
        period: Period::starting_at(number(1)?),
        cell: cell_id(row.get(2)?, T)?,
        miner: Hotkey::from_bytes(row.get(3)?),
        task: row.get(4)?,
        origin: origin(row.get(5)?, T)?,
        rev: number(6)?,
        units: row
            .get::<_, Option<i64>>(7)?
            .map_or(Ok(Units::ZERO), |posted| units(posted, T))?,
        attempts,
        first_chunk_us: number(15)?,
        duration_us: number(16)?,
    })
}

fn receipts(
    conn: &Connection,
    of: Reach,
    from: u64,
    max: usize,
) -> Result<Vec<PlacedReceipt>, RowFault> {
    let snapshot = conn.unchecked_transaction()?;
    let mut found = snapshot.prepare_cached(&format!(
        "SELECT {RECEIPT_COLUMNS} FROM receipt
         WHERE period = ?1 AND inc = ?2 AND off >= ?3 ORDER BY off LIMIT ?4"
    ))?;
    found
        .query_and_then(
            (
                period_int(of.period),
                int(of.incarnation.0),
                int(from),
                int(max as u64),
            ),
            |row| {
                let placed = receipt_of(row)?;
                Ok(PlacedReceipt {
                    incarnation: of.incarnation,
                    period: of.period,
                    offset: placed.off,
                    subjects: subjects(&snapshot, &placed.receipt)?,
                    receipt: placed.receipt,
                })
            },
        )?
        .collect()
}

fn seals_after(conn: &Connection, id: u64, max: usize) -> Result<Vec<SealRow>, RowFault> {
    conn.prepare_cached(&format!(
        "SELECT {SEAL_COLUMNS} FROM seal WHERE id > ?1 ORDER BY id LIMIT ?2"
    ))?
    .query_and_then((int(id), int(max as u64)), seal_of)?
    .collect()
}

fn acked(conn: &Connection, hotkey: Hotkey, consumer: &str) -> Result<Option<Vec<u8>>, RowFault> {
    Ok(conn
        .prepare_cached("SELECT cursor FROM ack WHERE hotkey = ?1 AND consumer = ?2")?
        .query_row((&hotkey.as_bytes()[..], consumer), |row| row.get(0))
        .optional()?)
}

fn put_ack(
    conn: &Connection,
    hotkey: Hotkey,
    consumer: &str,
    (cursor, now_ms): (&[u8], u64),
) -> Result<(), Stop<StoreAway>> {
    let hotkey = &hotkey.as_bytes()[..];
    conn.prepare_cached(
        "INSERT INTO ack (hotkey, consumer, cursor, at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET cursor = excluded.cursor, at_ms = excluded.at_ms",
    )?
    .execute((hotkey, consumer, cursor, int(now_ms)))?;
    conn.prepare_cached(
        "DELETE FROM ack WHERE hotkey = ?1 AND consumer IN
         (SELECT consumer FROM ack WHERE hotkey = ?1 AND consumer <> ?2
          ORDER BY at_ms DESC LIMIT -1 OFFSET ?3)",
    )?
    .execute((hotkey, consumer, CONSUMERS_MAX.saturating_sub(1)))?;
    Ok(())
}
