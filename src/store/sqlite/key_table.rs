//! The keys of a store, from any process: an operator makes and revokes keys while a gateway
//! has the store open.
//!
//! The lock beside a store protects its books, which one process keeps in memory and on the
//! disk alike. Keys are rows that nobody else derives anything from: a short transaction of
//! their own is enough, and SQLite lets writers of two processes come one after the other.
//! The gateway sees the change by [`crate::identity::api_key::KeyStore::key_version`].

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::OpenError;
use super::identity;
use super::place::Note;
use super::rows::RowFault;
use super::schema::{self, Found};
use crate::identity::api_key::StoredKey;

/// The keys of a store that another process may have open.
#[derive(Debug)]
pub struct KeyTable(Connection);

// === impl KeyTable ===

impl KeyTable {
    /// Opens the keys of the store at `path`; `None` when there is no store, or one that is
    /// still to be brought to today's schema: [`super::SqliteStore::open`] does both.
    ///
    /// # Errors
    /// When what is there is no store, is of a newer schema, or is not the store that was
    /// there before.
    pub fn open(path: &Path) -> Result<Option<Self>, OpenError> {
        if !path.try_exists()? {
            return Ok(None);
        }
        let noted = Note::read(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        schema::tune(&conn)?;
        if schema::look(&conn)? == Found::Nothing || !schema::is_of_today(&conn)? {
            return Ok(None);
        }
        let store_id: [u8; 16] =
            conn.query_row("SELECT store_id FROM store", [], |row| row.get(0))?;
        if noted.is_some_and(|noted| noted.store_id != store_id) {
            return Err(OpenError::OtherStore);
        }
        schema::tune_writer(&conn)?;
        Ok(Some(Self(conn)))
    }

    /// Whether there is a store at `path`, or was one whose file is missing.
    ///
    /// # Errors
    /// When that cannot be seen, or the note beside the store is unreadable.
    pub fn is_there(path: &Path) -> Result<bool, OpenError> {
        Ok(path.try_exists()? || Note::read(path)?.is_some())
    }

    /// Adds a key, or replaces the one of the same public id; durable when it returns.
    ///
    /// # Errors
    /// When the store is busy for seconds, full or damaged.
    pub fn put(&mut self, key: &StoredKey) -> Result<(), RowFault> {
        self.write(|conn| identity::put_key(conn, key))
    }

    /// All keys, revoked and expired ones included, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read or a row is damaged.
    pub fn all(&self) -> Result<Vec<StoredKey>, RowFault> {
        identity::keys(&self.0)
    }

    /// Revokes a key from `at_ms` (Unix milliseconds) on: `false` when there is none of that
    /// public id. A key that is revoked already keeps its earlier instant.
    ///
    /// # Errors
    /// When the store is busy for seconds, full or damaged.
    pub fn revoke(&mut self, public_id: &str, at_ms: u64) -> Result<bool, RowFault> {
        self.write(|conn| identity::revoke_key(conn, public_id, at_ms))
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, RowFault>,
    ) -> Result<T, RowFault> {
        // Takes the right to write at once: asked for later, it could be refused without
        // waiting.
        let tx = self
            .0
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&tx)?;
        tx.commit()?;
        Ok(done)
    }
}
