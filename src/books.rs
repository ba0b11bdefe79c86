//! The ledger at work: the one object that calls reserve on, and the tasks that keep it
//! supplied with rights to spend and rid of receipts.
//!
//! Nothing here counts: amounts live in the ledger's crate, durable ones in the engine.

mod append;
mod exchange;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taugate_ledger::audit::{Auditor, Divergence, audit};
use taugate_ledger::engine::Engine;
use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::journal::{Journal, Permit, Recorded};
use taugate_ledger::lease::Lender;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::reservation::{Reservation, ReserveError};
use taugate_ledger::table::{Table, Tables};
use taugate_ledger::units::Units;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;

/// Who waits for a receipt to be durable.
pub type Waiter = oneshot::Sender<Recorded>;

/// A slot of the journal, for one receipt.
pub type Slot = Permit<Waiter>;

/// How the books behave.
#[derive(Clone, Copy, Debug)]
pub struct BooksSettings {
    /// The longest that a call waits for the engine when its cells hold too little.
    pub draw_wait: Duration,
    /// Calls that may wait for the engine at once.
    pub draws_max: usize,
    /// Receipts that may wait for the engine; without a free slot no call is admitted.
    pub journal_slots: usize,
    /// Receipts in one append.
    pub append_max: usize,
    /// How often slices are looked at.
    pub exchange_every: Duration,
    /// The first pause after a failed call of the engine; it doubles up to `retry_max`.
    pub retry_min: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
}

/// The books of one incarnation.
#[derive(Debug)]
pub struct Books {
    settings: BooksSettings,
    incarnation: Incarnation,
    length: PeriodLength,
    clock: SharedClock,
    engine: Arc<dyn Engine>,
    tables: Arc<Tables>,
    lender: Lender,
    journal: Arc<Journal<Waiter>>,
    /// Numbers calls, from 1.
    calls: AtomicU64,
    /// Someone lacks units.
    lacking: Notify,
    /// Units came, or the engine said no.
    answered: Notify,
    /// Receipts became durable.
    recorded: Notify,
    auditor: Mutex<Auditor>,
    /// A receipt came.
    booked: Arc<Notify>,
    draws: Semaphore,
    exchanges: AtomicU64,
    appends: AtomicU64,
    /// Whether the engine answered last time.
    reachable: AtomicBool,
    /// Cancelled when the books are broken: stop admitting, alarm, exit.
    broken: CancellationToken,
}

/// How often the engine was called for the books since the start, whatever it answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCalls {
    /// For rights to spend.
    pub exchanges: u64,
    /// With receipts, any number in one.
    pub appends: u64,
}

/// Why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// The cell has not that much left in this period.
    #[error("cell {0:?} is spent")]
    Spent(CellId),
    /// The cell has that much left, but the engine did not grant it in time.
    #[error("cell {0:?} was not supplied in time")]
    Late(CellId),
    /// The engine is away and what is held is spent.
    #[error("the engine is away")]
    EngineAway,
    /// Too many calls wait for the engine already.
    #[error("too many calls wait for the engine")]
    Crowded,
}

// === impl BooksSettings ===

impl Default for BooksSettings {
    fn default() -> Self {
        Self {
            draw_wait: Duration::from_millis(50),
            draws_max: 1024,
            journal_slots: 16 * 1024,
            append_max: 1024,
            exchange_every: Duration::from_millis(100),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
        }
    }
}

// === impl Books ===

impl Books {
    /// The books of an incarnation that the engine has just given a number.
    #[must_use]
    pub fn new(
        settings: BooksSettings,
        incarnation: Incarnation,
        length: PeriodLength,
        clock: SharedClock,
        engine: Arc<dyn Engine>,
    ) -> Arc<Self> {
        let first = length.period_at(clock.unix_ms());
        let tables = Arc::new(Tables::new(first));
        let booked = Arc::new(Notify::new());
        let journal = Journal::new(incarnation, settings.journal_slots);
        let waker = Arc::clone(&booked);
        journal.set_waker(Box::new(move || waker.notify_one()));
        Arc::new(Self {
            settings,
            incarnation,
            length,
            clock,
            engine,
            lender: Lender::new(incarnation, Default::default(), Arc::clone(&tables), length),
            tables,
            journal: Arc::new(journal),
            calls: AtomicU64::new(0),
            lacking: Notify::new(),
            answered: Notify::new(),
            recorded: Notify::new(),
            auditor: Mutex::new(Auditor::default()),
            booked,
            draws: Semaphore::new(settings.draws_max),
            exchanges: AtomicU64::new(0),
            appends: AtomicU64::new(0),
            reachable: AtomicBool::new(true),
            broken: CancellationToken::new(),
        })
    }

    /// The running period's table.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.tables.current()
    }

    /// The table that a call is charged to which is admitted now, and this moment in Unix
    /// milliseconds. A period that was opened ahead begins here with its first call: the task
    /// that turns periods may wake a little late, and a call must not be charged to a period
    /// that was over.
    #[must_use]
    pub fn admit(&self) -> (Arc<Table>, u64) {
        // The table first: a turn in between is seen by the clock, the other way round it is not.
        let table = self.tables.current();
        let now_ms = self.clock.unix_ms();
        let by_clock = self.length.period_at(now_ms);
        if by_clock <= table.period() || self.tables.get(by_clock).is_none() {
            return (table, now_ms);
        }
        self.tables.turn(by_clock);
        (self.tables.current(), now_ms)
    }

    /// All open tables.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The length of periods.
    #[must_use]
    pub const fn length(&self) -> PeriodLength {
        self.length
    }

    /// Which start of which gateway these books are of.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Wall time.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// Milliseconds until the running period ends.
    #[must_use]
    pub fn period_rest(&self) -> Duration {
        let end = self.length.end_ms(self.tables.current().period());
        Duration::from_millis(end.saturating_sub(self.clock.unix_ms()))
    }

    /// A slot of the journal for one receipt of that period, if one is free. The period
    /// stays open until it is used or dropped.
    #[must_use]
    pub fn slot(&self, period: Period) -> Option<Slot> {
        self.journal.try_permit(period)
    }

    /// Receipts that wait for the engine.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.journal.pending()
    }

    /// Whether the engine answered last time.
    #[must_use]
    pub fn reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// How often the engine was called.
    #[must_use]
    pub fn engine_calls(&self) -> EngineCalls {
        EngineCalls {
            exchanges: self.exchanges.load(Ordering::Relaxed),
            appends: self.appends.load(Ordering::Relaxed),
        }
    }

    /// Cancelled when the books are broken; nothing may be admitted then.
    #[must_use]
    pub const fn broken(&self) -> &CancellationToken {
        &self.broken
    }

    /// Names a new call of a period.
    #[must_use]
    pub fn next_call(&self, period: Period) -> RequestId {
        let call = self.calls.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        RequestId {
            period,
            incarnation: self.incarnation,
            call,
        }
    }

    /// What all cells of an open period may be spent to by the declarations, so that what is
    /// left is known of cells that the engine was never asked for. Call it when a period was
    /// opened and whenever declarations changed, with all cells that stand.
    pub fn expect(&self, period: Period, wanted: &[(CellId, Units)]) {
        self.lender.expect(period, wanted);
    }

    /// Compares every open table with what is held of it. Empty when the books close; tells
    /// what did not close a while ago either, so call it about once a second.
    #[must_use]
    pub fn audit(&self) -> Vec<Divergence> {
        let found = self
            .tables
            .periods()
            .into_iter()
            .filter_map(|period| self.tables.get(period))
            .flat_map(|table| audit(&table))
            .collect();
        self.auditor.lock().look(self.clock.unix_ms(), found)
    }

    /// Reserves over all cells or none. What the cells lack is drawn from the engine, which
    /// may take up to `draw_wait`. Cancel-safe: nothing is held until it answers.
    ///
    /// # Errors
    /// When a cell is spent, or the engine did not answer in time.
    pub async fn hold(
        &self,
        table: &Arc<Table>,
        cells: &[CellId],
        units: Units,
        origin: Origin,
    ) -> Result<Reservation, HoldError> {
        match Reservation::take(table, cells, units, origin) {
            Ok(reservation) => return Ok(reservation),
            Err(ReserveError::Short { .. }) => {}
        }
        let waiting = self.draws.try_acquire().map_err(|_| HoldError::Crowded)?;
        let held = self
            .draw(table, || Reservation::take(table, cells, units, origin))
            .await;
        drop(waiting);
        held
    }

    /// Makes a reservation larger, drawing what its cells lack.
    ///
    /// # Errors
    /// As [`Books::hold`]; what was held stays held.
    pub async fn grow(&self, held: &mut Reservation, by: Units) -> Result<(), HoldError> {
        if held.extend(by).is_ok() {
            return Ok(());
        }
        let waiting = self.draws.try_acquire().map_err(|_| HoldError::Crowded)?;
        let table = Arc::clone(held.table());
        let grown = self.draw(&table, || held.extend(by)).await;
        drop(waiting);
        grown
    }

    /// Tries until it works, the engine has no more, or the time is up.
    async fn draw<T>(
        &self,
        table: &Table,
        mut attempt: impl FnMut() -> Result<T, ReserveError>,
    ) -> Result<T, HoldError> {
        let deadline = Instant::now() + self.settings.draw_wait;
        let mut asked: Option<(CellId, u64)> = None;
        loop {
            // Listened to before the attempt, so that no answer is missed in between.
            let answered = self.answered.notified();
            let ReserveError::Short { cell, lacking } = match attempt() {
                Ok(done) => return Ok(done),
                Err(short) => short,
            };
            let due = asked.and_then(|(at, due)| (at == cell).then_some(due));
            let answers = || self.lender.answers(table.period(), cell);
            // Only an answer to what this call asked tells what the engine has left.
            if due.is_none_or(|due| answers() >= due) {
                let rest = table.left(cell).saturating_sub(table.free(cell));
                if due.is_some() && (rest < lacking || !self.reachable()) {
                    return Err(self.why_short(cell));
                }
                let Some(due) = self.lender.need(table.period(), cell, lacking) else {
                    return Err(self.why_short(cell));
                };
                asked = Some((cell, due));
                self.lacking.notify_one();
            }
            if tokio::time::timeout_at(deadline, answered).await.is_err() {
                let rest = table.left(cell).saturating_sub(table.free(cell));
                // An engine that is only slow must not make a client wait for the next period.
                return Err(if rest >= lacking && self.reachable() {
                    HoldError::Late(cell)
                } else {
                    self.why_short(cell)
                });
            }
        }
    }

    fn why_short(&self, cell: CellId) -> HoldError {
        if self.reachable() {
            HoldError::Spent(cell)
        } else {
            HoldError::EngineAway
        }
    }
}

#[cfg(test)]
mod tests;
