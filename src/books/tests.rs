//! The tasks around the ledger, on the reference engine.

use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, BoxFuture, ExchangeAsk, ExchangeError, ExchangeReply,
};
use taugate_ledger::model::ModelStore;
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};

use super::*;
use crate::clock::ManualClock;

const P: Period = Period::starting_at(600);
const NEXT: Period = Period::starting_at(660);
const CELL: CellId = CellId(0);

/// Runs once, before an exchange reaches the engine.
type Before = Box<dyn FnOnce() + Send>;

/// The reference engine behind a wire: it can be away, slow, and have things happen first.
#[derive(Default)]
struct Wire {
    store: ModelStore,
    /// Exchanges that fail before the next one arrives.
    away: AtomicU32,
    closed: Mutex<Vec<Period>>,
    before: Mutex<Option<Before>>,
    /// While set, exchanges wait for a permit.
    gate: Option<Semaphore>,
}

// === impl Wire ===

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Engine for Wire {
    fn exchange(&self, ask: ExchangeAsk) -> BoxFuture<'_, Result<ExchangeReply, ExchangeError>> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.expect("an open gate").forget();
            }
            let before = self.before.lock().take();
            if let Some(before) = before {
                before();
            }
            let count = |away: u32| away.checked_sub(1);
            if self
                .away
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, count)
                .is_ok()
            {
                return Err(ExchangeError::Unavailable);
            }
            self.store.exchange(&ask)
        })
    }

    fn append(&self, ask: AppendAsk) -> BoxFuture<'_, Result<AppendReply, AppendError>> {
        Box::pin(async move { self.store.append(&ask) })
    }

    fn close_period(
        &self,
        incarnation: Incarnation,
        period: Period,
    ) -> BoxFuture<'_, Result<(), ExchangeError>> {
        self.closed.lock().push(period);
        Box::pin(async move { self.store.close_period(incarnation, period) })
    }

    fn close(&self, incarnation: Incarnation) -> BoxFuture<'_, Result<(), ExchangeError>> {
        Box::pin(async move { self.store.close(incarnation) })
    }
}

fn start(wire: Wire) -> (Arc<Wire>, Arc<Books>) {
    let wire = Arc::new(wire);
    wire.store
        .open_cell(P, CELL, Units::new(100))
        .expect("a check");
    let books = Books::new(
        BooksSettings::default(),
        wire.store.new_incarnation("one"),
        PeriodLength::from_secs(60).expect("a length"),
        Arc::new(ManualClock::at(600_000)),
        Arc::clone(&wire) as Arc<dyn Engine>,
    );
    (wire, books)
}

fn receipt(call: u64, units: Units) -> Receipt {
    let attempt = Attempt {
        cell: CELL,
        outcome: Outcome::Good,
        units,
        first_chunk_us: None,
        duration_us: 1,
    };
    Receipt {
        call,
        origin: Origin::Organic,
        client: Arc::from(""),
        task: Arc::from(""),
        admitted_ms: 0,
        finish: Finish::Attempt(Outcome::Good),
        quality: Quality::Exact,
        units,
        prompt_units: Units::ZERO,
        held: std::iter::once(CELL).collect(),
        attempts: std::iter::once(attempt).collect(),
        digest: [0; 32],
        labels: Vec::new(),
        claim: None,
    }
}

/// Holds units while the exchange task runs.
async fn hold(books: &Books, units: u64) -> Result<Reservation, HoldError> {
    let stop = CancellationToken::new();
    let held = async {
        let table = books.table();
        let held = books
            .hold(&table, &[CELL], Units::new(units), Origin::Organic)
            .await;
        stop.cancel();
        held
    };
    tokio::join!(held, books.run_exchange(stop.clone())).0
}

/// Hands over all receipts.
async fn append(books: &Books) {
    let stop = CancellationToken::new();
    stop.cancel();
    books.run_append(stop).await;
}

#[tokio::test(start_paused = true)]
async fn a_first_call_that_others_answers_wake_is_not_told_that_its_cell_is_spent() {
    let gate = Some(Semaphore::new(0));
    let (wire, books) = start(Wire {
        gate,
        ..Wire::default()
    });
    let others = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            books.answered.notify_waiters();
        }
        wire.gate.as_ref().expect("a gate").add_permits(9);
    };
    let (held, ()) = tokio::join!(hold(&books, 100), others);
    assert_eq!(held.expect("the whole cell").reserved(), Units::new(100));
}

#[tokio::test(start_paused = true)]
async fn a_spent_cell_is_told_from_an_engine_that_is_away() {
    let (wire, books) = start(Wire::default());
    let held = hold(&books, 100).await.expect("the whole cell");
    assert_eq!(
        hold(&books, 1).await.expect_err("spent"),
        HoldError::Spent(CELL)
    );
    drop(held);
    assert!(hold(&books, 1).await.is_ok());
    wire.away.store(u32::MAX, Ordering::SeqCst);
    assert_eq!(
        hold(&books, 101).await.expect_err("away"),
        HoldError::EngineAway
    );
}

#[tokio::test(start_paused = true)]
async fn a_cell_whose_engine_is_slow_is_late_and_not_spent() {
    let gate = Some(Semaphore::new(0));
    let (wire, books) = start(Wire {
        gate,
        ..Wire::default()
    });
    books.expect(P, &[(CELL, Units::new(100))]);
    let gate = wire.gate.as_ref().expect("a gate");
    let open = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        gate.add_permits(9);
    };
    let (late, ()) = tokio::join!(hold(&books, 10), open);
    assert_eq!(late.expect_err("no answer"), HoldError::Late(CELL));
    assert!(hold(&books, 10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_period_is_closed_when_its_last_receipt_is_durable_and_its_returns_were_answered() {
    let (wire, books) = start(Wire::default());
    let held = hold(&books, 10).await.expect("units");
    let slot = books.slot(P).expect("a slot");
    books.turn(NEXT);
    let units = held.post(Units::new(4)).posted;
    books.close_past().await;
    assert!(wire.closed.lock().is_empty(), "a receipt is to come");
    slot.send(receipt(1, units), None);
    books.close_past().await;
    assert!(wire.closed.lock().is_empty(), "a receipt is not durable");
    append(&books).await;
    wire.away.store(1, Ordering::SeqCst);
    books.close_past().await;
    books.close_past().await;
    assert!(
        wire.closed.lock().is_empty(),
        "a return may not have arrived"
    );
    books.close_past().await;
    assert_eq!(*wire.closed.lock(), [P]);
    assert_eq!(books.tables().periods(), [NEXT]);
    assert!(books.slot(P).is_none());
    let lease = wire
        .store
        .lease(P, CELL, books.incarnation())
        .expect("a lease");
    assert_eq!((lease.granted, lease.proven()), (units, units));
}

#[tokio::test(start_paused = true)]
async fn an_ask_that_receipts_overtook_does_not_break_the_books() {
    let (wire, books) = start(Wire::default());
    let held = hold(&books, 10).await.expect("units");
    let slot = books.slot(P).expect("a slot");
    let (booking, engine) = (Arc::clone(&books), Arc::clone(&wire));
    *wire.before.lock() = Some(Box::new(move || {
        let units = held.post(Units::new(10)).posted;
        slot.send(receipt(1, units), None);
        let ask = booking.journal.next_append(9).expect("a receipt");
        engine.store.append(&ask).expect("an append");
    }));
    assert!(hold(&books, 90).await.is_ok());
    assert!(!books.broken().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_gives_back_what_an_ask_on_its_way_brings() {
    let gate = Some(Semaphore::new(0));
    let (wire, books) = start(Wire {
        gate,
        ..Wire::default()
    });
    let gate = wire.gate.as_ref().expect("a gate");
    let late = async {
        books.lender.need(P, CELL, Units::new(20));
        for ask in books.lender.asks(books.unix_ms()) {
            books.exchange(ask).await;
        }
    };
    let stop = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let open = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            gate.add_permits(9);
        };
        tokio::join!(books.close(), open).0
    };
    let ((), closed) = tokio::join!(late, stop);
    closed.expect("a clean stop");
    let cell = wire.store.cell(P, CELL).expect("a cell");
    assert_eq!(cell.granted, Units::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_a_receipt_to_come_closes_nothing() {
    let (wire, books) = start(Wire::default());
    let slot = books.slot(P).expect("a slot");
    assert_eq!(books.close().await, Err(ExchangeError::Unavailable));
    assert!(wire.closed.lock().is_empty());
    drop(slot);
    books.close().await.expect("a clean stop");
}

/// The task that turns periods wakes when it wakes.
#[test]
fn n10_a_call_after_the_end_of_a_period_is_not_charged_to_it_before_the_turn() {
    let clock = Arc::new(ManualClock::at(600_000));
    let books = Books::new(
        BooksSettings::default(),
        Incarnation(1),
        PeriodLength::from_secs(60).expect("a length"),
        Arc::clone(&clock) as _,
        Arc::new(Wire::default()),
    );
    let admitted = |unix_ms| {
        clock.set(unix_ms);
        let (table, at) = books.admit();
        assert_eq!(at, unix_ms);
        table.period().start_s()
    };
    assert_eq!(admitted(660_001), 600, "the next one is not open yet");
    drop(books.tables().open(Period::starting_at(660)));
    assert_eq!(admitted(659_999), 600);
    assert_eq!(admitted(660_000), 660);
    assert_eq!(admitted(659_999), 660, "it never steps back");
}
