//! Rows to values and back, with their checksums.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::period::Period;
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
        self.is_extended(rusqlite::ffi::SQLITE_CONSTRAINT_CHECK)
    }

    /// Whether a UNIQUE index of the schema forbade it.
    pub(super) fn is_doubled(&self) -> bool {
        self.is_extended(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
    }

    fn is_extended(&self, code: i32) -> bool {
        matches!(self, Self::Sql(rusqlite::Error::SqliteFailure(error, _))
            if error.extended_code == code)
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

pub(super) fn units_int(units: Units) -> i64 {
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
