//! Rows to values and back, with their checksums.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use smallvec::SmallVec;
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;

use crate::store::StoreFault;

/// Why a row could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowFault {
    /// The engine says so.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// A row that cannot have been written like this.
    #[error("a row of table {0} is damaged")]
    Damaged(&'static str),
}

/// Why work within a transaction ended: the books refuse it, or the engine failed.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// Refused; nothing of it stays.
    Refused(E),
    /// The engine failed.
    Fault(RowFault),
}

/// A row of `cell`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CellRow {
    pub(super) wanted: Units,
    pub(super) allotment: Units,
    pub(super) granted: Units,
}

/// A row of `lease`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseRow {
    pub(super) seq: u64,
    pub(super) granted: Units,
    /// By origin.
    pub(super) posted: [Units; 2],
}

// === impl RowFault ===

impl RowFault {
    /// What it means for the store.
    ///
    /// A full disk and a lock that is not had in time leave the file whole. All else that an
    /// engine says of its file (an fsync that failed, a page that is no page) means that
    /// nothing it says can be trusted any more; trying again would only hide it.
    pub(super) fn meaning(&self) -> StoreFault {
        use rusqlite::ErrorCode as Code;
        let Self::Sql(error) = self else {
            return StoreFault::Damaged;
        };
        match error.sqlite_error_code() {
            Some(
                Code::DiskFull | Code::DatabaseBusy | Code::DatabaseLocked | Code::OutOfMemory,
            ) => StoreFault::Unavailable,
            _ => StoreFault::Damaged,
        }
    }

    /// Whether the disk (or the file's own limit) is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Sql(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }

    /// Whether a CHECK of the schema fired.
    pub(super) fn is_check(&self) -> bool {
        matches!(self, Self::Sql(rusqlite::Error::SqliteFailure(error, _))
            if error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_CHECK)
    }
}

// === impl Stop ===

impl<E> From<RowFault> for Stop<E> {
    fn from(fault: RowFault) -> Self {
        Self::Fault(fault)
    }
}

impl<E> From<rusqlite::Error> for Stop<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(RowFault::Sql(error))
    }
}

// === numbers ===

/// A number as the engine keeps it; what is beyond its range names no row.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as it was before [`int`].
pub(super) fn uint(number: i64, table: &'static str) -> Result<u64, RowFault> {
    u64::try_from(number).map_err(|_| RowFault::Damaged(table))
}

pub(super) fn period_int(period: Period) -> i64 {
    int(period.start_s())
}

pub(super) fn cell_int(cell: CellId) -> i64 {
    i64::from(cell.0)
}

pub(super) fn cell_id(number: i64, table: &'static str) -> Result<CellId, RowFault> {
    u32::try_from(number)
        .map(CellId)
        .map_err(|_| RowFault::Damaged(table))
}

fn units_int(units: Units) -> i64 {
    int(units.get())
}

pub(super) fn units(number: i64, table: &'static str) -> Result<Units, RowFault> {
    uint(number, table).map(Units::new)
}

pub(super) fn origin_int(origin: Origin) -> i64 {
    match origin {
        Origin::Organic => 0,
        Origin::Synthetic => 1,
    }
}

pub(super) fn origin(number: i64, table: &'static str) -> Result<Origin, RowFault> {
    match number {
        0 => Ok(Origin::Organic),
        1 => Ok(Origin::Synthetic),
        _ => Err(RowFault::Damaged(table)),
    }
}

fn crc(numbers: &[i64]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    i64::from(hasher.finalize())
}

// === impl CellRow ===

impl CellRow {
    fn crc(&self, period: i64, cell: i64) -> i64 {
        crc(&[
            period,
            cell,
            units_int(self.wanted),
            units_int(self.allotment),
            units_int(self.granted),
        ])
    }

    /// The row of a cell, proven by its checksum.
    pub(super) fn read(
        conn: &Connection,
        period: Period,
        cell: CellId,
    ) -> Result<Option<Self>, RowFault> {
        conn.prepare_cached(
            "SELECT period, cell, wanted, allotment, granted, crc FROM cell
             WHERE period = ?1 AND cell = ?2",
        )?
        .query_row((period_int(period), cell_int(cell)), |row| {
            Ok(Self::of(row))
        })
        .optional()?
        .transpose()
    }

    /// A row of `period, cell, wanted, allotment, granted, crc`.
    pub(super) fn of(row: &Row<'_>) -> Result<Self, RowFault> {
        let found = Self {
            wanted: units(row.get(2)?, "cell")?,
            allotment: units(row.get(3)?, "cell")?,
            granted: units(row.get(4)?, "cell")?,
        };
        if found.crc(row.get(0)?, row.get(1)?) == row.get::<_, i64>(5)? {
            Ok(found)
        } else {
            Err(RowFault::Damaged("cell"))
        }
    }

    /// Writes the row; the schema's checks may refuse it.
    pub(super) fn write(
        &self,
        conn: &Connection,
        period: Period,
        cell: CellId,
    ) -> Result<(), RowFault> {
        let (period, cell) = (period_int(period), cell_int(cell));
        conn.prepare_cached(
            "INSERT INTO cell (period, cell, wanted, allotment, granted, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET wanted = excluded.wanted,
                 allotment = excluded.allotment, granted = excluded.granted, crc = excluded.crc",
        )?
        .execute(params![
            period,
            cell,
            units_int(self.wanted),
            units_int(self.allotment),
            units_int(self.granted),
            self.crc(period, cell),
        ])?;
        Ok(())
    }
}

// === impl LeaseRow ===

impl LeaseRow {
    fn crc(&self, key: [i64; 3]) -> i64 {
        let [organic, synthetic] = self.posted;
        crc(&[
            key[0],
            key[1],
            key[2],
            int(self.seq),
            units_int(self.granted),
            units_int(organic),
            units_int(synthetic),
        ])
    }

    /// What was proven, over both origins.
    pub(super) fn proven(&self) -> Units {
        self.posted.into_iter().sum()
    }

    /// The lease of an incarnation in a cell, proven by its checksum.
    pub(super) fn read(
        conn: &Connection,
        period: Period,
        inc: Incarnation,
        cell: CellId,
    ) -> Result<Option<Self>, RowFault> {
        conn.prepare_cached(
            "SELECT period, inc, cell, seq, granted, organic, synthetic, crc FROM lease
             WHERE period = ?1 AND inc = ?2 AND cell = ?3",
        )?
        .query_row((period_int(period), int(inc.0), cell_int(cell)), |row| {
            Ok(Self::of(row))
        })
        .optional()?
        .transpose()
    }

    /// A row of `period, inc, cell, seq, granted, organic, synthetic, crc`.
    pub(super) fn of(row: &Row<'_>) -> Result<Self, RowFault> {
        let found = Self {
            seq: uint(row.get(3)?, "lease")?,
            granted: units(row.get(4)?, "lease")?,
            posted: [units(row.get(5)?, "lease")?, units(row.get(6)?, "lease")?],
        };
        if found.crc([row.get(0)?, row.get(1)?, row.get(2)?]) == row.get::<_, i64>(7)? {
            Ok(found)
        } else {
            Err(RowFault::Damaged("lease"))
        }
    }

    /// Writes the row; the schema's checks may refuse it.
    pub(super) fn write(
        &self,
        conn: &Connection,
        period: Period,
        inc: Incarnation,
        cell: CellId,
    ) -> Result<(), RowFault> {
        let key = [period_int(period), int(inc.0), cell_int(cell)];
        let [organic, synthetic] = self.posted;
        conn.prepare_cached(
            "INSERT INTO lease (period, inc, cell, seq, granted, organic, synthetic, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET seq = excluded.seq, granted = excluded.granted,
                 organic = excluded.organic, synthetic = excluded.synthetic,
                 crc = excluded.crc",
        )?
        .execute(params![
            key[0],
            key[1],
            key[2],
            int(self.seq),
            units_int(self.granted),
            units_int(organic),
            units_int(synthetic),
            self.crc(key),
        ])?;
        Ok(())
    }
}

// === receipts ===

/// The columns of a receipt, in the order that [`receipt_of`] reads.
pub(super) const RECEIPT_COLUMNS: &str = "period, inc, off, call, origin, finish, quality, units, \
     prompt_units, admitted_ms, client, task, held, attempts, digest, labels, claim, crc";

/// A receipt with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacedReceipt {
    pub(super) period: Period,
    pub(super) inc: Incarnation,
    pub(super) off: u64,
    pub(super) receipt: Receipt,
}

/// The bytes of an attempt: cell, outcome, units, first chunk, duration.
const ATTEMPT_BYTES: usize = 4 + 1 + 8 + 8 + 8;

/// Stands for a first chunk that never came.
const NO_CHUNK: u64 = u64::MAX;

/// Writes a receipt at its place.
pub(super) fn insert_receipt(
    conn: &Connection,
    period: Period,
    inc: Incarnation,
    off: u64,
    receipt: &Receipt,
) -> Result<(), RowFault> {
    let key = [period_int(period), int(inc.0), int(off)];
    let (held, attempts, labels) = (
        held_bytes(&receipt.held),
        attempt_bytes(&receipt.attempts),
        label_bytes(&receipt.labels),
    );
    let numbers = receipt_numbers(receipt);
    let crc = receipt_crc(
        key,
        numbers,
        [&*receipt.client, &*receipt.task],
        [&held, &attempts, &receipt.digest, &labels],
    );
    conn.prepare_cached(
        "INSERT INTO receipt (period, inc, off, call, origin, finish, quality, units,
             prompt_units, admitted_ms, client, task, held, attempts, digest, labels, claim, crc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        key[0],
        key[1],
        key[2],
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
        numbers[5],
        numbers[6],
        &*receipt.client,
        &*receipt.task,
        held,
        attempts,
        &receipt.digest[..],
        labels,
        receipt.claim.map(int),
        crc,
    ])?;
    Ok(())
}

/// A receipt from a row of [`RECEIPT_COLUMNS`], proven by its checksum.
pub(super) fn receipt_of(row: &Row<'_>) -> Result<PlacedReceipt, RowFault> {
    const T: &str = "receipt";
    let damaged = || RowFault::Damaged(T);
    let client: Arc<str> = row.get(10)?;
    let task: Arc<str> = row.get(11)?;
    let blob = |column: usize| {
        row.get_ref(column)?
            .as_blob()
            .map_err(|_| RowFault::Damaged(T))
    };
    let (held, attempts, digest, labels) = (blob(12)?, blob(13)?, blob(14)?, blob(15)?);
    let receipt = Receipt {
        call: uint(row.get(3)?, T)?,
        origin: origin(row.get(4)?, T)?,
        client,
        task,
        admitted_ms: uint(row.get(9)?, T)?,
        finish: finish(row.get(5)?).ok_or_else(damaged)?,
        quality: quality(row.get(6)?).ok_or_else(damaged)?,
        units: units(row.get(7)?, T)?,
        prompt_units: units(row.get(8)?, T)?,
        held: held_of(held).ok_or_else(damaged)?,
        attempts: attempts_of(attempts).ok_or_else(damaged)?,
        digest: digest.try_into().map_err(|_| damaged())?,
        labels: labels_of(labels).ok_or_else(damaged)?,
        claim: row
            .get::<_, Option<i64>>(16)?
            .map(|claim| uint(claim, T))
            .transpose()?,
    };
    let key = [row.get(0)?, row.get(1)?, row.get(2)?];
    let wanted = receipt_crc(
        key,
        receipt_numbers(&receipt),
        [&*receipt.client, &*receipt.task],
        [held, attempts, digest, labels],
    );
    if wanted != row.get::<_, i64>(17)? {
        return Err(damaged());
    }
    Ok(PlacedReceipt {
        period: Period::starting_at(uint(key[0], T)?),
        inc: Incarnation(uint(key[1], T)?),
        off: uint(key[2], T)?,
        receipt,
    })
}

/// The whole-number columns: call, origin, finish, quality, units, prompt units, admission,
/// claim.
fn receipt_numbers(receipt: &Receipt) -> [i64; 8] {
    [
        int(receipt.call),
        origin_int(receipt.origin),
        finish_int(receipt.finish),
        quality_int(receipt.quality),
        units_int(receipt.units),
        units_int(receipt.prompt_units),
        int(receipt.admitted_ms),
        receipt.claim.map_or(-1, int),
    ]
}

fn receipt_crc(key: [i64; 3], numbers: [i64; 8], texts: [&str; 2], blobs: [&[u8]; 4]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for number in key.into_iter().chain(numbers) {
        hasher.update(&number.to_le_bytes());
    }
    for bytes in texts.map(str::as_bytes).into_iter().chain(blobs) {
        // The length first, so that bytes cannot move from one column to the next unseen.
        hasher.update(&bytes.len().to_le_bytes());
        hasher.update(bytes);
    }
    i64::from(hasher.finalize())
}

fn finish_int(finish: Finish) -> i64 {
    match finish {
        Finish::Running => 0,
        Finish::NoCapacity => 1,
        Finish::GatewayLost => 2,
        Finish::SlowConsumer => 3,
        Finish::Drained => 4,
        Finish::Internal => 5,
        Finish::Attempt(outcome) => 16 + i64::from(outcome_byte(outcome)),
    }
}

pub(super) fn finish(number: i64) -> Option<Finish> {
    Some(match number {
        0 => Finish::Running,
        1 => Finish::NoCapacity,
        2 => Finish::GatewayLost,
        3 => Finish::SlowConsumer,
        4 => Finish::Drained,
        5 => Finish::Internal,
        other => Finish::Attempt(outcome(u8::try_from(other.checked_sub(16)?).ok()?)?),
    })
}

fn quality_int(quality: Quality) -> i64 {
    match quality {
        Quality::Exact => 0,
        Quality::Estimated => 1,
        Quality::Partial => 2,
    }
}

fn quality(number: i64) -> Option<Quality> {
    Some(match number {
        0 => Quality::Exact,
        1 => Quality::Estimated,
        2 => Quality::Partial,
        _ => return None,
    })
}

/// The place of an outcome among [`Outcome::ALL`], spelled out because it is on disk.
fn outcome_byte(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Good => 0,
        Outcome::Busy => 1,
        Outcome::Refused => 2,
        Outcome::Cancelled => 3,
        Outcome::Lost => 4,
        Outcome::Stalled => 5,
        Outcome::Protocol => 6,
    }
}

fn outcome(byte: u8) -> Option<Outcome> {
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome_byte(*outcome) == byte)
}

fn held_bytes(held: &[CellId]) -> Vec<u8> {
    held.iter().flat_map(|cell| cell.0.to_le_bytes()).collect()
}

fn held_of(bytes: &[u8]) -> Option<SmallVec<[CellId; 3]>> {
    let (cells, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| {
        cells
            .iter()
            .map(|cell| CellId(u32::from_le_bytes(*cell)))
            .collect()
    })
}

fn attempt_bytes(attempts: &[Attempt]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(attempts.len().saturating_mul(ATTEMPT_BYTES));
    for attempt in attempts {
        bytes.extend_from_slice(&attempt.cell.0.to_le_bytes());
        bytes.push(outcome_byte(attempt.outcome));
        bytes.extend_from_slice(&attempt.units.get().to_le_bytes());
        bytes.extend_from_slice(&attempt.first_chunk_us.unwrap_or(NO_CHUNK).to_le_bytes());
        bytes.extend_from_slice(&attempt.duration_us.to_le_bytes());
    }
    bytes
}

fn attempts_of(bytes: &[u8]) -> Option<SmallVec<[Attempt; 2]>> {
    let (attempts, rest) = bytes.as_chunks::<ATTEMPT_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    attempts
        .iter()
        .map(|bytes| {
            let (cell, rest) = bytes.split_first_chunk::<4>()?;
            let (kind, rest) = rest.split_first()?;
            let (amounts, _) = rest.as_chunks::<8>();
            let [units, first_chunk, duration] = amounts else {
                return None;
            };
            Some(Attempt {
                cell: CellId(u32::from_le_bytes(*cell)),
                outcome: outcome(*kind)?,
                units: Units::new(u64::from_le_bytes(*units)),
                first_chunk_us: Some(u64::from_le_bytes(*first_chunk))
                    .filter(|first_chunk| *first_chunk != NO_CHUNK),
                duration_us: u64::from_le_bytes(*duration),
            })
        })
        .collect()
}

/// Each text after its length, four bytes.
fn label_bytes(labels: &[(String, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn labels_of(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        let more = !rest.is_empty();
        Some((str::from_utf8(text).ok()?.to_owned(), more))
    };
    let mut labels = Vec::new();
    loop {
        let (name, _) = next()?;
        let (value, more) = next()?;
        labels.push((name, value));
        if !more {
            return Some(labels);
        }
    }
}
