//! Reading: receipts, books and counters, on connections that cannot write.
//!
//! A read sees the state after some commit and keeps it until it ends; it never waits for
//! the writer, nor the writer for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Finish, Receipt};
use taugate_ledger::units::Units;
use tokio::sync::Semaphore;

use super::OpenError;
use super::cells::subject_of;
use super::exchange::{FirstOfThisProcess, is_live};
use super::receipts::{PlacedReceipt, RECEIPT_COLUMNS, receipt_of};
use super::rows::{CellRow, LeaseRow, RowFault, cell_id, int, origin, period_int, uint};
use super::schema::{self, Found};
use crate::store::{BookRow, StoreFault, StoredReceipt, TallyRow};

/// Reads at once, at most; more wait.
const READS_MAX: usize = 4;

/// Reads a store that another process may be writing: for an audit.
#[derive(Debug)]
pub struct StoreReader(Connection);

/// The reading side of an open store.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

/// Opens a store's file for reading only; refuses what is no store and what is newer.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    let conn = connect(path)?;
    match schema::look(&conn)? {
        Found::Store => Ok(conn),
        Found::Nothing => Err(OpenError::NotAStore),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    schema::tune(&conn)?;
    Ok(conn)
}

// === impl StoreReader ===

impl StoreReader {
    /// Opens the store at `path`.
    ///
    /// # Errors
    /// When there is none, or one of a newer schema, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        open_to_read(path).map(Self)
    }

    /// The periods that have rows, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read or a row is damaged.
    pub fn periods(&self) -> Result<Vec<Period>, RowFault> {
        periods(&self.0)
    }

    /// What the books say of each cell of a period.
    ///
    /// # Errors
    /// When the file cannot be read or a row is damaged.
    pub fn books(&self, period: Period) -> Result<Vec<BookRow>, RowFault> {
        books(&self.0, period)
    }

    /// Attempts and units of a period, by incarnation, cell and origin.
    ///
    /// # Errors
    /// When the file cannot be read or a row is damaged.
    pub fn tallies(&self, period: Period) -> Result<Vec<TallyRow>, RowFault> {
        tallies(&self.0, period)
    }
}

// === impl Readers ===

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// Reads on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, RowFault> + Send + 'static,
    ) -> Result<T, StoreFault> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| StoreFault::Unavailable)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let result = readers.read_now(read);
            drop(permit);
            result
        })
        .await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(fault)) => {
                tracing::error!(error = %fault, "the store could not be read");
                Err(fault.meaning())
            }
            Err(_) => Err(StoreFault::Unavailable),
        }
    }

    fn read_now<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, RowFault>,
    ) -> Result<T, RowFault> {
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => connect(&self.path)?,
        };
        let value = read(&conn)?;
        self.idle.lock().push(conn);
        Ok(value)
    }
}

// === what is read ===

/// The last receipt of a call.
pub(super) fn receipt(
    conn: &Connection,
    first: FirstOfThisProcess,
    id: RequestId,
) -> Result<Option<StoredReceipt>, RowFault> {
    let snapshot = conn.unchecked_transaction()?;
    let Some(placed) = last_receipt(&snapshot, id)? else {
        return Ok(None);
    };
    let mut receipt = placed.receipt;
    // Nobody is left who could end the call: its last part is what there will be.
    if receipt.is_part() && (id.incarnation < first.0 || !is_live(&snapshot, id.incarnation)?) {
        receipt.finish = Finish::GatewayLost;
    }
    Ok(Some(StoredReceipt {
        id,
        offset: placed.off,
        subjects: subjects(&snapshot, &receipt)?,
        receipt,
    }))
}

/// The last receipt of a call, as it was written: its end, or else its last part.
pub(super) fn last_receipt(
    conn: &Connection,
    id: RequestId,
) -> Result<Option<PlacedReceipt>, RowFault> {
    match last_of(conn, id, "receipt_end WHERE finish <> 0")? {
        Some(end) => Ok(Some(end)),
        None => last_of(conn, id, "receipt_part WHERE finish = 0"),
    }
}

/// The last receipt of a call among those of an index.
fn last_of(
    conn: &Connection,
    id: RequestId,
    among: &str,
) -> Result<Option<PlacedReceipt>, RowFault> {
    conn.prepare_cached(&format!(
        "SELECT {RECEIPT_COLUMNS} FROM receipt INDEXED BY {among}
         AND period = ?1 AND inc = ?2 AND call = ?3 ORDER BY off DESC LIMIT 1"
    ))?
    .query_row(
        (period_int(id.period), int(id.incarnation.0), int(id.call)),
        |row| Ok(receipt_of(row)),
    )
    .optional()?
    .transpose()
}

pub(super) fn subjects(
    conn: &Connection,
    receipt: &Receipt,
) -> Result<Vec<(CellId, crate::registry::declaration::Subject)>, RowFault> {
    let attempted = receipt.attempts.iter().map(|attempt| attempt.cell);
    let cells: BTreeSet<CellId> = receipt.held.iter().copied().chain(attempted).collect();
    cells
        .into_iter()
        .map(|cell| {
            let subject = subject_of(conn, cell)?.ok_or(RowFault::Damaged("subject"))?;
            Ok((cell, subject))
        })
        .collect()
}

/// The periods that have rows.
pub(super) fn periods(conn: &Connection) -> Result<Vec<Period>, RowFault> {
    conn.prepare_cached("SELECT DISTINCT period FROM cell ORDER BY period")?
        .query_and_then([], |row| {
            Ok(Period::starting_at(uint(row.get(0)?, "cell")?))
        })?
        .collect()
}

/// The sides of a period's books, cell by cell.
pub(super) fn books(conn: &Connection, period: Period) -> Result<Vec<BookRow>, RowFault> {
    let snapshot = conn.unchecked_transaction()?;
    let mut sides: BTreeMap<CellId, Sides> = BTreeMap::new();
    read_cells(&snapshot, period, &mut sides)?;
    read_leases(&snapshot, period, &mut sides)?;
    sum_receipts(&snapshot, period, &mut sides)?;
    sides
        .into_iter()
        .map(|(cell, sides)| {
            Ok(BookRow {
                cell,
                subject: subject_of(&snapshot, cell)?.ok_or(RowFault::Damaged("subject"))?,
                wanted: sides.cell.wanted,
                allotment: sides.cell.allotment,
                granted: sides.cell.granted,
                granted_by_leases: sides.granted_by_leases,
                posted: sides.posted,
                receipts: sides.receipts,
            })
        })
        .collect()
}

/// An incarnation of an earlier process that closed has granted what it posted, so that only
/// those count that never closed.
pub(super) fn in_doubt(
    conn: &Connection,
    first: FirstOfThisProcess,
    period: Period,
) -> Result<Units, RowFault> {
    let units: i64 = conn
        .prepare_cached(
            "SELECT coalesce(sum(granted - organic - synthetic), 0) FROM lease
             JOIN subject ON subject.id = lease.cell AND subject.kind = 0
             WHERE period = ?1 AND inc < ?2",
        )?
        .query_row((period_int(period), int(first.0.0)), |row| row.get(0))?;
    Ok(Units::new(u64::try_from(units).unwrap_or(0)))
}

#[derive(Default)]
struct Sides {
    cell: CellRow,
    granted_by_leases: Units,
    posted: [Units; 2],
    receipts: [Units; 2],
}

fn read_cells(
    conn: &Connection,
    period: Period,
    sides: &mut BTreeMap<CellId, Sides>,
) -> Result<(), RowFault> {
    let mut cells = conn.prepare_cached(
        "SELECT period, cell, wanted, allotment, granted, crc FROM cell WHERE period = ?1",
    )?;
    let mut rows = cells.query([period_int(period)])?;
    while let Some(row) = rows.next()? {
        let cell = cell_id(row.get(1)?, "cell")?;
        sides.entry(cell).or_default().cell = CellRow::of(row)?;
    }
    Ok(())
}

fn read_leases(
    conn: &Connection,
    period: Period,
    sides: &mut BTreeMap<CellId, Sides>,
) -> Result<(), RowFault> {
    let mut leases = conn.prepare_cached(
        "SELECT period, inc, cell, seq, granted, organic, synthetic, crc FROM lease
         WHERE period = ?1",
    )?;
    let mut rows = leases.query([period_int(period)])?;
    while let Some(row) = rows.next()? {
        let lease = LeaseRow::of(row)?;
        let side = sides.entry(cell_id(row.get(2)?, "lease")?).or_default();
        side.granted_by_leases = side.granted_by_leases.saturating_add(lease.granted);
        for (sum, posted) in side.posted.iter_mut().zip(lease.posted) {
            *sum = sum.saturating_add(posted);
        }
    }
    Ok(())
}

fn sum_receipts(
    conn: &Connection,
    period: Period,
    sides: &mut BTreeMap<CellId, Sides>,
) -> Result<(), RowFault> {
    let mut receipts = conn.prepare_cached(&format!(
        "SELECT {RECEIPT_COLUMNS} FROM receipt WHERE period = ?1 ORDER BY inc, off"
    ))?;
    let mut rows = receipts.query([period_int(period)])?;
    // Units of calls that are not ended yet; a later receipt repeats them.
    let mut parts: HashMap<(Incarnation, u64), Units> = HashMap::new();
    while let Some(row) = rows.next()? {
        let placed = receipt_of(row)?;
        let receipt = placed.receipt;
        let call = (placed.inc, receipt.call);
        let before = parts.remove(&call).unwrap_or_default();
        let added = receipt.units.saturating_sub(before);
        if receipt.is_part() {
            parts.insert(call, receipt.units);
        }
        for cell in receipt.held {
            let sum = &mut sides.entry(cell).or_default().receipts[receipt.origin.index()];
            *sum = sum.saturating_add(added);
        }
    }
    Ok(())
}

/// The counters of a period.
pub(super) fn tallies(conn: &Connection, period: Period) -> Result<Vec<TallyRow>, RowFault> {
    const T: &str = "tally";
    conn.prepare_cached(
        "SELECT t.inc, t.cell, t.origin, good, busy, refused, cancelled, lost, stalled,
             protocol, first_chunk_us, duration_us, rev,
             CASE t.origin WHEN 0 THEN organic ELSE synthetic END
         FROM tally t LEFT JOIN lease l USING (period, inc, cell)
         WHERE period = ?1 ORDER BY t.inc, t.cell, t.origin",
    )?
    .query_and_then([period_int(period)], |row| {
        let number = |column: usize| uint(row.get(column)?, T);
        let mut attempts = [0; 7];
        for (column, count) in attempts.iter_mut().enumerate() {
            *count = number(column.saturating_add(3))?;
        }
        let origin: Origin = origin(row.get(2)?, T)?;
        Ok(TallyRow {
            incarnation: Incarnation(number(0)?),
            cell: cell_id(row.get(1)?, T)?,
            origin,
            attempts,
            first_chunk_us: number(10)?,
            duration_us: number(11)?,
            rev: number(12)?,
            units: Units::new(uint(row.get::<_, Option<i64>>(13)?.unwrap_or(0), T)?),
        })
    })?
    .collect()
}

/// Reads every cell and lease, and the receipts from a period on, so that a flipped digit
/// shows now and not in a payment later.
pub(super) fn verify(conn: &Connection, receipts_from: Period) -> Result<(), RowFault> {
    let mut cells =
        conn.prepare("SELECT period, cell, wanted, allotment, granted, crc FROM cell")?;
    let mut rows = cells.query([])?;
    while let Some(row) = rows.next()? {
        CellRow::of(row)?;
    }
    let mut leases =
        conn.prepare("SELECT period, inc, cell, seq, granted, organic, synthetic, crc FROM lease")?;
    let mut rows = leases.query([])?;
    while let Some(row) = rows.next()? {
        LeaseRow::of(row)?;
    }
    let mut receipts = conn.prepare(&format!(
        "SELECT {RECEIPT_COLUMNS} FROM receipt WHERE period >= ?1"
    ))?;
    let mut rows = receipts.query([period_int(receipts_from)])?;
    while let Some(row) = rows.next()? {
        receipt_of(row)?;
    }
    Ok(())
}
