//! Subjects, the cells that follow from declarations, and declarations themselves.
//!
//! This is the only writer that raises an allotment.

use rusqlite::{Connection, OptionalExtension as _, params};
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::rows::{CellRow, RowFault, Stop, cell_id, cell_int, int, uint};
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::registry::declaration::{DeclarationRow, Put, Subject};
use crate::store::StoreFault;

type Kept<T> = Result<T, Stop<StoreAway>>;

// === impl StoreFault ===

impl From<StoreFault> for StoreAway {
    fn from(_: StoreFault) -> Self {
        Self
    }
}

/// Starts an incarnation of a gateway of that name.
pub(super) fn new_incarnation(
    conn: &Connection,
    gateway: &str,
    now_ms: u64,
) -> Result<Incarnation, Stop<StoreFault>> {
    conn.prepare_cached(
        "INSERT INTO incarnation (gateway, live, last_seen_ms) VALUES (?1, 1, ?2)",
    )?
    .execute((gateway, int(now_ms)))?;
    Ok(Incarnation(uint(conn.last_insert_rowid(), "incarnation")?))
}

/// Says that an incarnation lives.
pub(super) fn heartbeat(
    conn: &Connection,
    incarnation: Incarnation,
    now_ms: u64,
) -> Result<(), Stop<StoreFault>> {
    conn.prepare_cached("UPDATE incarnation SET last_seen_ms = ?2 WHERE inc = ?1 AND live")?
        .execute((int(incarnation.0), int(now_ms)))?;
    Ok(())
}

/// A subject as columns: kind, name, task.
fn columns(subject: &Subject) -> (i64, &[u8], &str) {
    match subject {
        Subject::Miner { hotkey, task } => (0, hotkey.as_bytes(), task),
        Subject::Ceiling { task } => (1, &[], task),
        Subject::Client { key } => (2, key.as_bytes(), ""),
    }
}

/// The number of a subject, dense from 0, given once.
pub(super) fn subject(conn: &Connection, subject: &Subject) -> Kept<CellId> {
    let (kind, name, task) = columns(subject);
    let found: Option<i64> = conn
        .prepare_cached("SELECT id FROM subject WHERE kind = ?1 AND name = ?2 AND task = ?3")?
        .query_row((kind, name, task), |row| row.get(0))
        .optional()?;
    if let Some(id) = found {
        return Ok(cell_id(id, "subject")?);
    }
    let id: i64 = conn
        .prepare_cached(
            "INSERT INTO subject (id, kind, name, task)
             VALUES ((SELECT coalesce(max(id), -1) + 1 FROM subject), ?1, ?2, ?3) RETURNING id",
        )?
        .query_row((kind, name, task), |row| row.get(0))?;
    Ok(cell_id(id, "subject")?)
}

/// What a cell is about.
pub(super) fn subject_of(conn: &Connection, cell: CellId) -> Result<Option<Subject>, RowFault> {
    const DAMAGED: RowFault = RowFault::Damaged("subject");
    let found: Option<(i64, Vec<u8>, String)> = conn
        .prepare_cached("SELECT kind, name, task FROM subject WHERE id = ?1")?
        .query_row([cell_int(cell)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((kind, name, task)) = found else {
        return Ok(None);
    };
    Ok(Some(match kind {
        0 => Subject::Miner {
            hotkey: Hotkey::from_bytes(name.try_into().map_err(|_| DAMAGED)?),
            task: task.into(),
        },
        1 => Subject::Ceiling { task: task.into() },
        2 => Subject::Client {
            key: String::from_utf8(name).map_err(|_| DAMAGED)?.into(),
        },
        _ => return Err(DAMAGED),
    }))
}

/// Sets what cells may be spent to; makes those that are new in the period. What was granted
/// before a cut stands, so that the books are never wrong.
pub(super) fn set_cells(conn: &Connection, period: Period, wanted: &[(CellId, Units)]) -> Kept<()> {
    for (cell, wanted) in wanted {
        let granted = CellRow::read(conn, period, *cell)?
            .unwrap_or_default()
            .granted;
        CellRow {
            wanted: *wanted,
            allotment: granted.max(*wanted),
            granted,
        }
        .write(conn, period, *cell)?;
    }
    Ok(())
}

const DECLARATION_COLUMNS: &str =
    "hotkey, sequence, payload, signature, endpoint, accepted_ms, withdrawn";

/// All declarations, withdrawn ones included.
pub(super) fn declarations(conn: &Connection) -> Result<Vec<DeclarationRow>, RowFault> {
    conn.prepare_cached(&format!(
        "SELECT {DECLARATION_COLUMNS} FROM declaration ORDER BY hotkey"
    ))?
    .query_and_then([], declaration_of)?
    .collect()
}

fn declaration_of(row: &rusqlite::Row<'_>) -> Result<DeclarationRow, RowFault> {
    const T: &str = "declaration";
    Ok(DeclarationRow {
        hotkey: Hotkey::from_bytes(row.get(0)?),
        sequence: uint(row.get(1)?, T)?,
        payload: row.get::<_, Vec<u8>>(2)?.into(),
        signature: row.get(3)?,
        endpoint: row.get(4)?,
        accepted_ms: uint(row.get(5)?, T)?,
        withdrawn: row.get(6)?,
    })
}

/// Writes a declaration; the highest sequence wins.
pub(super) fn put_declaration(conn: &Connection, new: &DeclarationRow) -> Kept<Put> {
    let stored = conn
        .prepare_cached(&format!(
            "SELECT {DECLARATION_COLUMNS} FROM declaration WHERE hotkey = ?1"
        ))?
        .query_row([&new.hotkey.as_bytes()[..]], |row| Ok(declaration_of(row)))
        .optional()?
        .transpose()?;
    let put = match stored {
        Some(old)
            if old.sequence == new.sequence && !old.withdrawn && old.payload == new.payload =>
        {
            Put::Same
        }
        Some(old) if old.sequence >= new.sequence => return Ok(Put::Stale),
        _ => Put::Stored,
    };
    if put == Put::Same {
        conn.prepare_cached(
            "UPDATE declaration SET endpoint = ?2, accepted_ms = ?3 WHERE hotkey = ?1",
        )?
        .execute(params![
            &new.hotkey.as_bytes()[..],
            &*new.endpoint,
            int(new.accepted_ms)
        ])?;
        return Ok(put);
    }
    conn.prepare_cached(&format!(
        "INSERT OR REPLACE INTO declaration ({DECLARATION_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
    ))?
    .execute(params![
        &new.hotkey.as_bytes()[..],
        int(new.sequence),
        &new.payload[..],
        &new.signature[..],
        &*new.endpoint,
        int(new.accepted_ms),
        new.withdrawn,
    ])?;
    Ok(put)
}

/// Takes a declaration back unless a newer one is there.
pub(super) fn withdraw(conn: &Connection, hotkey: Hotkey, sequence: u64) -> Kept<bool> {
    let changed = conn
        .prepare_cached(
            "UPDATE declaration SET withdrawn = 1, sequence = ?2
             WHERE hotkey = ?1 AND sequence <= ?2",
        )?
        .execute((&hotkey.as_bytes()[..], int(sequence)))?;
    Ok(changed > 0)
}
