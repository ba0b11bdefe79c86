//! The embedded engine: one SQLite file, one process, one thread that writes.
//!
//! - `writer` gathers what is asked into commits;
//! - `exchange` and `append` are the engine of the ledger, rule by rule;
//! - `seals`, `reports` and `history` read the books for whoever is told, or scores;
//! - `cells`, `identity` and `plans` keep the rows of the registry, of identity and of checks,
//!   `key_table` those of keys beside the process that has the store open;
//! - `demonstrations` keeps the windows of bursts and what was shown in them;
//! - `reader` reads beside the writer, `backup` copies beside it;
//! - `opening` and `place` keep second processes, strange files and old copies out;
//! - `rows`, `receipts` and `schema` say how it looks on the disk, `packing` how it came to,
//!   `rules` which periods are open, `upkeep` what may go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
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
use self::upkeep::Upkeep;
use self::writer::{Asked, Class, Counts, Job, Writer};
use super::{BookRow, Health, StoreFault, StoredReceipt, TallyRow};
use crate::clock::SharedClock;
use crate::identity::StoreAway;
use crate::identity::api_key::{KeyStore, StoredKey};
use crate::identity::hotkey::Hotkey;
use crate::identity::nonce::{Nonce, NonceStore};
use crate::registry::declaration::{DeclarationRow, DeclarationStore, Put, Subject};
use crate::scoring::Profile;

pub use self::backup::{BackupError, BackupProgress, backup};
pub use self::key_table::KeyTable;
pub use self::opening::OpenError;
pub use self::reader::StoreReader;
pub use self::rows::RowFault;

mod append;
mod backup;
mod cells;
mod demonstrations;
mod exchange;
mod findings;
mod history;
mod identity;
mod key_table;
mod opening;
mod packing;
mod place;
mod plans;
mod reader;
mod receipts;
mod reports;
mod rows;
mod rules;
mod schema;
mod seals;
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
    /// How long what scores are made of is kept: ended periods, checked answers, what was shown.
    pub scores_kept: Duration,
    /// Opens a store that lost commits (a restored copy). No grant of the running period
    /// rises any more, so that what the lost commits gave away is not given twice.
    pub freeze: bool,
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
            scores_kept: Profile::longest_look_back(),
            freeze: false,
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
            grace_ms: Arc::default(),
            retention_periods: settings.retention_periods,
            scores_kept: settings.scores_kept,
        };
        rules.wait_at_least(settings.grace);
        let lock = Lock::take(path)?;
        let (conn, note) = opening::open_whole(path, &settings, &rules)?;
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

    /// Lets a period take exchanges for at least so long after its end, from now on: calls may
    /// take longer than when the store was opened. It never takes less, since calls run that
    /// began before.
    pub fn wait_at_least(&self, grace: Duration) {
        self.rules.wait_at_least(grace);
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

    /// Units of miners that earlier incarnations were granted in a period and neither proved
    /// nor gave back: what they delivered of it without a receipt, nobody knows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn in_doubt(&self, period: Period) -> Result<Units, StoreFault> {
        let first = self.first;
        self.readers
            .read(move |conn| reader::in_doubt(conn, first, period))
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
        Box::pin(self.ask(Class::Opens, 0, move |conn| {
            Ok(identity::put_key(conn, &key)?)
        }))
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
            Ok(identity::revoke_key(conn, &public_id, at_ms)?)
        }))
    }

    fn key_version(&self) -> BoxFuture<'_, Result<u64, StoreAway>> {
        Box::pin(async { Ok(self.readers.read(identity::key_version).await?) })
    }

    fn note_key_uses(&self, uses: Vec<(Arc<str>, u64)>) -> BoxFuture<'_, Result<(), StoreAway>> {
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            identity::note_key_uses(conn, &uses)
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
