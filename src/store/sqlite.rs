//! The embedded engine: one SQLite file, one process, one thread that writes.
//!
//! - `writer` gathers what is asked into commits;
//! - `exchange` and `append` are the engine of the ledger, rule by rule;
//! - `cells` and `identity` keep the rows of the registry and of identity;
//! - `reader` reads beside the writer, `backup` copies beside it;
//! - `place` keeps second processes, strange files and old copies out;
//! - `rows` and `schema` say how it looks on the disk, `rules` which periods are open,
//!   `upkeep` what may go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _};
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, BoxFuture, Engine, ExchangeAsk, ExchangeError,
    ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation, RequestId};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio::sync::{oneshot, watch};

use self::exchange::FirstOfThisProcess;
use self::place::{Lock, Note};
use self::reader::Readers;
use self::rows::Stop;
use self::rules::Rules;
use self::schema::Found;
use self::upkeep::Upkeep;
use self::writer::{Asked, Class, Counts, Job, Writer};
use super::{BookRow, Health, StoreFault, StoredReceipt, TallyRow};
use crate::clock::SharedClock;
use crate::identity::StoreAway;
use crate::identity::api_key::{KeyStore, StoredKey};
use crate::identity::hotkey::Hotkey;
use crate::identity::nonce::{Nonce, NonceStore};
use crate::registry::declaration::{DeclarationRow, DeclarationStore, Put, Subject};

pub use self::backup::{BackupError, BackupProgress, backup};
pub use self::reader::StoreReader;
pub use self::rows::RowFault;

mod append;
mod backup;
mod cells;
mod exchange;
mod identity;
mod place;
mod reader;
mod rows;
mod rules;
mod schema;
mod upkeep;
mod writer;

/// How a store is kept. [`Default`] has the values for production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteSettings {
    /// Pieces of work that wait for the writer, at most; more are refused as unavailable.
    pub queue_max: usize,
    /// With less than this free on the disk nothing more is granted, so that there is room
    /// for the receipts of what was.
    pub free_bytes_min: u64,
    /// The file grows to this, at most; `None`: as far as the disk goes.
    pub bytes_max: Option<u64>,
    /// How long after its end a period still takes exchanges; at least the longest deadline.
    pub grace: Duration,
    /// Ended periods whose rows are kept beyond the grace.
    pub retention_periods: u32,
    /// Opens a store that lost commits (a restored copy). No grant of the running period
    /// rises any more, so that what the lost commits gave away is not given twice.
    pub freeze: bool,
}

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

/// What a store counts of itself since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreCounts {
    /// Transactions that were committed for work.
    pub commits: u64,
    /// Receipts that were handed over and committed, repeats included.
    pub receipts: u64,
}

/// A store in an SQLite file. Dropping it finishes what was asked and closes the file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    rules: Rules,
    first: FirstOfThisProcess,
    note: Arc<Mutex<Note>>,
    readers: Arc<Readers>,
    health: watch::Receiver<Health>,
    counts: Arc<Counts>,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(|| "unknown".to_owned(), |pid| format!("process id {pid}"))
}

// === impl SqliteSettings ===

impl Default for SqliteSettings {
    fn default() -> Self {
        Self {
            // One ask a millisecond for a second that the disk takes.
            queue_max: 1024,
            free_bytes_min: 256 << 20,
            bytes_max: None,
            // The longest deadline (10 minutes) and 2 minutes.
            grace: Duration::from_mins(12),
            retention_periods: 3,
            freeze: false,
        }
    }
}

// === impl OpenError ===

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Self::Damaged {
                reason: error.to_string(),
            },
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

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the store at `path`, or makes a new one where none was. Checks the whole file:
    /// a second or so for each gigabyte.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed then, except that an older schema may have
    /// become today's.
    pub fn open(
        path: &Path,
        settings: SqliteSettings,
        clock: SharedClock,
        length: PeriodLength,
    ) -> Result<Self, OpenError> {
        let rules = Rules {
            clock,
            length,
            grace: settings.grace,
            retention_periods: settings.retention_periods,
        };
        let lock = Lock::take(path)?;
        let (conn, note) = open_whole(path, &settings, &rules)?;
        let first = FirstOfThisProcess(Incarnation(note.incarnation.saturating_add(1)));
        let (health_sender, health) = watch::channel(Health::Ready);
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            conn,
            path: path.to_owned(),
            free_bytes_min: settings.free_bytes_min,
            health: health_sender,
            counts: Arc::clone(&counts),
            upkeep: Upkeep::new(rules.clone()),
            _lock: lock,
        };
        let (jobs, queue) = sync_channel(settings.queue_max);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&queue))?;
        Ok(Self {
            path: path.to_owned(),
            rules,
            first,
            note: Arc::new(Mutex::new(note)),
            readers: Arc::new(Readers::new(path.to_owned())),
            health,
            counts,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// How the store is, now and after each change. When the sender is gone, the writer
    /// ended; unless the store was dropped, that is damage too.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// What it counts of itself.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            commits: self.counts.commits.load(Ordering::Relaxed),
            receipts: self.counts.receipts.load(Ordering::Relaxed),
        }
    }

    /// Starts an incarnation of the gateway of that name.
    ///
    /// # Errors
    /// When the store is unavailable or damaged.
    pub async fn new_incarnation(&self, gateway: &str) -> Result<Incarnation, StoreFault> {
        let (gateway, clock) = (gateway.to_owned(), Arc::clone(&self.rules.clock));
        let given = self
            .ask(Class::Opens, 0, move |conn| {
                cells::new_incarnation(conn, &gateway, clock.unix_ms())
            })
            .await?;
        // Noted before it is used: an older copy of the file that would give the same number
        // again is known by it.
        let (note, path) = (Arc::clone(&self.note), self.path.clone());
        let noted = tokio::task::spawn_blocking(move || {
            let mut note = note.lock();
            note.incarnation = note.incarnation.max(given.0);
            note.write(&path)
        })
        .await;
        match noted {
            Ok(Ok(())) => Ok(given),
            _ => Err(StoreFault::Unavailable),
        }
    }

    /// Says that an incarnation lives; to be said every few seconds.
    ///
    /// # Errors
    /// When the store is unavailable or damaged.
    pub async fn heartbeat(&self, incarnation: Incarnation) -> Result<(), StoreFault> {
        let clock = Arc::clone(&self.rules.clock);
        self.ask(Class::Proves, 0, move |conn| {
            cells::heartbeat(conn, incarnation, clock.unix_ms())
        })
        .await
    }

    /// The last receipt of a call, if there is one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn receipt(&self, id: RequestId) -> Result<Option<StoredReceipt>, StoreFault> {
        let first = self.first;
        self.readers
            .read(move |conn| reader::receipt(conn, first, id))
            .await
    }

    /// What the books say of each cell of a period. Reads all of its receipts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn books(&self, period: Period) -> Result<Vec<BookRow>, StoreFault> {
        self.readers
            .read(move |conn| reader::books(conn, period))
            .await
    }

    /// Attempts and units of a period, by incarnation, cell and origin.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tallies(&self, period: Period) -> Result<Vec<TallyRow>, StoreFault> {
        self.readers
            .read(move |conn| reader::tallies(conn, period))
            .await
    }

    /// The periods that have rows, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn periods(&self) -> Result<Vec<Period>, StoreFault> {
        self.readers.read(reader::periods).await
    }

    /// Hands work to the writer and waits for its commit. The work is done even when nobody
    /// waits any more.
    async fn ask<T, E, F>(&self, class: Class, receipts: usize, run: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreFault> + Send + 'static,
        F: FnMut(&Connection) -> Result<T, Stop<E>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            class,
            receipts,
            work: Box::new(Asked::new(run, reply)),
        };
        let sent = self.jobs.as_ref().map_or(Ok(()), |jobs| jobs.try_send(job));
        match sent {
            Ok(()) => answer
                .await
                .unwrap_or_else(|_| Err(StoreFault::Damaged.into())),
            Err(TrySendError::Full(_)) => Err(StoreFault::Unavailable.into()),
            Err(TrySendError::Disconnected(_)) => Err(StoreFault::Damaged.into()),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has said so already.
            drop(thread.join());
        }
    }
}

impl Engine for SqliteStore {
    fn exchange(&self, ask: ExchangeAsk) -> BoxFuture<'_, Result<ExchangeReply, ExchangeError>> {
        let (rules, first) = (self.rules.clone(), self.first);
        // Giving back needs no room that it does not have; asking for more leads to receipts.
        let class = if ask.cells.iter().all(|cell| cell.target <= cell.posted) {
            Class::Proves
        } else {
            Class::Opens
        };
        Box::pin(self.ask(class, 0, move |conn| {
            exchange::exchange(conn, &rules, first, &ask)
        }))
    }

    fn append(&self, ask: AppendAsk) -> BoxFuture<'_, Result<AppendReply, AppendError>> {
        let rules = self.rules.clone();
        Box::pin(self.ask(Class::Proves, ask.receipts.len(), move |conn| {
            append::append(conn, &rules, &ask)
        }))
    }

    fn close_period(
        &self,
        incarnation: Incarnation,
        period: Period,
    ) -> BoxFuture<'_, Result<(), ExchangeError>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            exchange::close_period(conn, incarnation, period)
        }))
    }

    fn close(&self, incarnation: Incarnation) -> BoxFuture<'_, Result<(), ExchangeError>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            exchange::close(conn, incarnation)
        }))
    }
}

impl DeclarationStore for SqliteStore {
    fn declarations(&self) -> BoxFuture<'_, Result<Vec<DeclarationRow>, StoreAway>> {
        Box::pin(async { Ok(self.readers.read(cells::declarations).await?) })
    }

    fn put_declaration(&self, row: DeclarationRow) -> BoxFuture<'_, Result<Put, StoreAway>> {
        Box::pin(self.ask(Class::Opens, 0, move |conn| {
            cells::put_declaration(conn, &row)
        }))
    }

    fn withdraw(&self, hotkey: Hotkey, sequence: u64) -> BoxFuture<'_, Result<bool, StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            cells::withdraw(conn, hotkey, sequence)
        }))
    }

    fn subject(&self, subject: Subject) -> BoxFuture<'_, Result<CellId, StoreAway>> {
        Box::pin(self.ask(Class::Opens, 0, move |conn| cells::subject(conn, &subject)))
    }

    fn set_cells(
        &self,
        period: Period,
        wanted: Vec<(CellId, Units)>,
    ) -> BoxFuture<'_, Result<(), StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            cells::set_cells(conn, period, &wanted)
        }))
    }
}

impl KeyStore for SqliteStore {
    fn put_key(&self, key: StoredKey) -> BoxFuture<'_, Result<(), StoreAway>> {
        Box::pin(self.ask(Class::Opens, 0, move |conn| identity::put_key(conn, &key)))
    }

    fn keys(&self) -> BoxFuture<'_, Result<Vec<StoredKey>, StoreAway>> {
        Box::pin(async { Ok(self.readers.read(identity::keys).await?) })
    }

    fn revoke_key(
        &self,
        public_id: Arc<str>,
        at_ms: u64,
    ) -> BoxFuture<'_, Result<bool, StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            identity::revoke_key(conn, &public_id, at_ms)
        }))
    }
}

impl NonceStore for SqliteStore {
    fn spend_nonce(
        &self,
        hotkey: Hotkey,
        nonce: Nonce,
        keep_until_ms: u64,
    ) -> BoxFuture<'_, Result<bool, StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            identity::spend_nonce(conn, hotkey, nonce, keep_until_ms)
        }))
    }
}

// === opening ===

/// Opens the file, makes or migrates it, proves that it is the store that was here and that
/// it is whole.
fn open_whole(
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
    if settings.freeze {
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
