//! Opening a store: making or migrating the file, and proving that it is whole and the one
//! that was here before.

use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};

use super::SqliteSettings;
use super::place::{self, Note};
use super::reader;
use super::rows::{self, RowFault};
use super::rules::Rules;
use super::schema::{self, Found};

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file could not be read or written.
    #[error("the store's files cannot be used")]
    Io(#[from] io::Error),
    /// Another process writes this store.
    #[error("another process ({}) uses this store", pid_text(*pid))]
    InUse {
        /// Which, if it left its number.
        pid: Option<u32>,
    },
    /// The file holds something else.
    #[error("the file is no store")]
    NotAStore,
    /// A later program wrote the file.
    #[error("the store has schema {found}, this program knows up to {known}: use a newer one")]
    NewerSchema {
        /// The file's.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// The note beside the file is not readable.
    #[error("the note with the store's id beside the file is unreadable")]
    BadNote,
    /// There was a store here, and now there is an empty file or none.
    #[error(
        "the store is gone: its id is noted beside the file, which is empty or missing. \
         Restore it, or remove the note to start anew"
    )]
    Missing,
    /// Another store stands in this one's place.
    #[error("another store stands in the place of the one noted beside the file")]
    OtherStore,
    /// The store is an older copy of itself.
    #[error(
        "the store is older than when it was last used (incarnation {found} instead of \
         {noted}): it lost commits. Open it frozen to go on from the next period"
    )]
    Older {
        /// The largest incarnation that it knows.
        found: u64,
        /// The largest that it ever gave.
        noted: u64,
    },
    /// The store is a backup, put in place.
    #[error(
        "the store is a backup: what was granted since it was made is not in it. Open it frozen \
         to go on from the next period"
    )]
    Copy,
    /// What is read is wrong.
    #[error("the store is damaged: {reason}. Restore it from a backup")]
    Damaged {
        /// As the engine says it.
        reason: String,
    },
    /// The file has open periods of another length.
    #[error(
        "the store has periods of {stored_s} s that are open until {until_s} (Unix time); \
         their length cannot become {asked_s} s before"
    )]
    PeriodLength {
        /// The file's, seconds.
        stored_s: u32,
        /// As configured, seconds.
        asked_s: u32,
        /// When the last of them ends.
        until_s: u64,
    },
    /// The engine failed.
    #[error("the engine failed")]
    Engine(#[source] rusqlite::Error),
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(|| "unknown".to_owned(), |pid| format!("process id {pid}"))
}

// === impl OpenError ===

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            // An older file's rows break a rule that no program that wrote them did.
            Some(Code::DatabaseCorrupt | Code::NotADatabase | Code::ConstraintViolation) => {
                Self::Damaged {
                    reason: error.to_string(),
                }
            }
            _ => Self::Engine(error),
        }
    }
}

impl From<RowFault> for OpenError {
    fn from(fault: RowFault) -> Self {
        match fault {
            RowFault::Sql(error) => error.into(),
            RowFault::Damaged(_) => Self::Damaged {
                reason: fault.to_string(),
            },
        }
    }
}

// === opening ===

/// Opens the file, makes or migrates it, proves that it is the store that was here and that
/// it is whole.
pub(super) fn open_whole(
    path: &Path,
    settings: &SqliteSettings,
    rules: &Rules,
) -> Result<(Connection, Note), OpenError> {
    let noted = Note::read(path)?;
    if noted.is_some() && !path.try_exists()? {
        return Err(OpenError::Missing);
    }
    let mut conn = Connection::open(path)?;
    schema::tune(&conn)?;
    let found = schema::look(&conn)?;
    if found == Found::Nothing && noted.is_some() {
        return Err(OpenError::Missing);
    }
    if found == Found::Store {
        check_pages(&conn)?;
    }
    schema::tune_writer(&conn)?;
    limit_size(&conn, settings.bytes_max)?;
    let (store_id, length_s) = (rand::random::<[u8; 16]>(), rules.length.secs());
    schema::migrate(&mut conn, |tx| {
        tx.execute(
            "INSERT INTO store (one, store_id, period_s) VALUES (1, ?1, ?2) ON CONFLICT DO NOTHING",
            (&store_id[..], length_s),
        )
        .map(drop)
    })?;
    place::sync_directory_of(path)?;
    let recent = rules.length.period_at(
        rules
            .now_ms()
            .saturating_sub(u64::from(length_s).saturating_mul(1000)),
    );
    reader::verify(&conn, recent)?;
    take_length(&conn, rules)?;
    let note = same_store(&mut conn, noted, settings, rules)?;
    note.write(path)?;
    Ok((conn, note))
}

fn check_pages(conn: &Connection) -> Result<(), OpenError> {
    let said: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said == "ok" {
        Ok(())
    } else {
        Err(OpenError::Damaged { reason: said })
    }
}

fn limit_size(conn: &Connection, bytes_max: Option<u64>) -> rusqlite::Result<()> {
    let Some(bytes) = bytes_max else {
        return Ok(());
    };
    let page: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = i64::try_from(bytes)
        .unwrap_or(i64::MAX)
        .checked_div(page)
        .unwrap_or(1)
        .max(1);
    conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
}

/// Takes a new length of periods over, once the last period of the old one has ended.
fn take_length(conn: &Connection, rules: &Rules) -> Result<(), OpenError> {
    let stored_s: u32 = conn.query_row("SELECT period_s FROM store", [], |row| row.get(0))?;
    let asked_s = rules.length.secs();
    if stored_s == asked_s {
        return Ok(());
    }
    let last: Option<i64> = conn
        .query_row("SELECT max(period) FROM cell", [], |row| row.get(0))
        .optional()?
        .flatten();
    let until_s = match last {
        Some(last) => rows::uint(last, "cell")?.saturating_add(u64::from(stored_s)),
        None => 0,
    };
    if rules.now_ms() < until_s.saturating_mul(1000) {
        return Err(OpenError::PeriodLength {
            stored_s,
            asked_s,
            until_s,
        });
    }
    conn.execute("UPDATE store SET period_s = ?1", [asked_s])?;
    Ok(())
}

/// A backup may stand where there is no note, on another machine. Its gateway started far less
/// often than this since the backup was made, so that no number is given twice.
const STARTS_SINCE_COPY: u64 = 10_000;

/// Compares the store with the note beside it. A store that knows fewer incarnations than
/// it gave is an older copy: it is opened frozen or not at all.
fn same_store(
    conn: &mut Connection,
    noted: Option<Note>,
    settings: &SqliteSettings,
    rules: &Rules,
) -> Result<Note, OpenError> {
    let store_id: [u8; 16] = conn.query_row("SELECT store_id FROM store", [], |row| row.get(0))?;
    let found: Option<i64> = conn
        .query_row(
            "SELECT seq FROM sqlite_sequence WHERE name = 'incarnation'",
            [],
            |row| row.get(0),
        )
        .optional()?;
    let found = rows::uint(found.unwrap_or(0), "sqlite_sequence")?;
    let mut note = noted.unwrap_or(Note {
        store_id,
        incarnation: found,
    });
    if note.store_id != store_id {
        return Err(OpenError::OtherStore);
    }
    if found < note.incarnation && !settings.freeze {
        return Err(OpenError::Older {
            found,
            noted: note.incarnation,
        });
    }
    let copied: bool = conn.query_row("SELECT copied FROM store", [], |row| row.get(0))?;
    if copied && !settings.freeze {
        return Err(OpenError::Copy);
    }
    if settings.freeze {
        let given = note.incarnation.max(found);
        let since = if copied { STARTS_SINCE_COPY } else { 0 };
        note.incarnation = given.saturating_add(since);
        freeze(conn, note.incarnation, rules)?;
    }
    note.incarnation = note.incarnation.max(found);
    Ok(note)
}

/// No grant of a period that has begun rises any more, and no number of an incarnation is
/// given again. What the next period's lost grants allowed, nobody had the time to spend.
fn freeze(conn: &mut Connection, incarnation: u64, rules: &Rules) -> rusqlite::Result<()> {
    let now = rules.length.period_at(rules.now_ms());
    let tx = conn.transaction()?;
    tx.execute(
        "INSERT INTO frozen (period) VALUES (?1) ON CONFLICT DO NOTHING",
        [rows::period_int(now)],
    )?;
    tx.execute("UPDATE store SET copied = 0", [])?;
    tx.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'incarnation', 0
         WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'incarnation')",
        [],
    )?;
    tx.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'incarnation'",
        [rows::int(incarnation)],
    )?;
    tx.commit()
}
