//! Every interleaving of what two or three threads do to a cell, its table and the journal.
//! Run by `run.sh` beside this file; without loom there is nothing here.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use taugate_ledger::engine::{CellGrant, ExchangeAsk, ExchangeReply};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::journal::Journal;
use taugate_ledger::lease::{Lender, LenderSettings};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::reservation::{Cause, Reservation};
use taugate_ledger::table::{Room, Table, Tables};
use taugate_ledger::units::Units;

const P: Period = Period::starting_at(60);
const NEXT: Period = Period::starting_at(120);
const A: CellId = CellId(0);
const B: CellId = CellId(1);

fn u(units: u64) -> Units {
    Units::new(units)
}

/// Tables and a lender; what is asked is granted.
#[derive(Clone)]
struct Desk {
    tables: Arc<Tables>,
    lender: Arc<Lender>,
}

// === impl Desk ===

impl Desk {
    fn with(cells: &[(CellId, u64)]) -> Self {
        let tables = Arc::new(Tables::with_room(P, Room::of(2)));
        let length = PeriodLength::from_secs(60).expect("a length");
        let settings = LenderSettings::default();
        let lender = Lender::new(Incarnation(1), settings, Arc::clone(&tables), length);
        let desk = Self {
            tables,
            lender: Arc::new(lender),
        };
        for (cell, units) in cells {
            desk.draw(*cell, *units);
        }
        desk
    }

    fn table(&self) -> Arc<Table> {
        self.tables.current()
    }

    fn draw(&self, cell: CellId, units: u64) {
        self.lender.need(P, cell, u(units));
        self.lender.asks(1).iter().for_each(|ask| self.answer(ask));
    }

    fn answer(&self, ask: &ExchangeAsk) {
        let grant = |asked: &taugate_ledger::engine::CellAsk| CellGrant {
            cell: asked.cell,
            granted: asked.target,
            wanted: asked.target,
            sum_granted: asked.target,
        };
        let reply = ExchangeReply {
            seq: ask.seq,
            cells: ask.cells.iter().map(grant).collect(),
            live: 1,
            frozen: false,
        };
        self.lender.answered(ask, Ok(reply));
    }
}

fn take(table: &Arc<Table>, cells: &[CellId], units: u64) -> Option<Reservation> {
    Reservation::take(table, cells, u(units), Origin::Organic).ok()
}

fn closes(table: &Table, cell: CellId) {
    let sum = table.posted_total(cell).get() + table.reserved(cell).get() + table.free(cell).get();
    assert_eq!(
        table.granted(cell).get(),
        sum,
        "granted = posted + reserved + free"
    );
}

/// Every interleaving; `LOOM_MAX_PREEMPTIONS` bounds the switches where that takes too long.
fn model(threads: impl Fn() + Sync + Send + 'static) {
    loom::model(threads);
}

#[test]
fn two_that_reserve_never_get_more_than_there_is() {
    model(|| {
        let table = Desk::with(&[(A, 3)]).table();
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || take(&other, &[A], 2));
        let (mine, theirs) = (take(&table, &[A], 2), thread.join().expect("it ends"));
        assert!(mine.is_some() != theirs.is_some(), "one of them");
        assert_eq!((table.free(A), table.reserved(A)), (u(1), u(2)));
        closes(&table, A);
        drop((mine, theirs));
        assert_eq!((table.free(A), table.reserved(A)), (u(3), u(0)));
    });
}

#[test]
fn over_two_cells_it_is_all_or_nothing() {
    model(|| {
        let table = Desk::with(&[(A, 2), (B, 2)]).table();
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || take(&other, &[B, A], 2).map(|held| held.post(u(2))));
        let mine = take(&table, &[A, B], 2).map(|held| held.post(u(2)));
        let theirs = thread.join().expect("it ends");
        // Both may miss, each holding what the other lacks; both cannot get it.
        assert!(mine.is_none() || theirs.is_none());
        let posted = u(if mine.or(theirs).is_some() { 2 } else { 0 });
        for cell in [A, B] {
            assert_eq!(
                (table.posted_total(cell), table.reserved(cell)),
                (posted, u(0))
            );
            closes(&table, cell);
        }
    });
}

#[test]
fn post_void_and_extend_share_a_cell() {
    model(|| {
        let table = Desk::with(&[(A, 5)]).table();
        let posting = take(&table, &[A], 2).expect("units");
        let voiding = take(&table, &[A], 2).expect("units");
        let thread = thread::spawn(move || {
            let mut posting = posting;
            let grown = posting.extend(u(2)).is_ok();
            posting.post(u(if grown { 4 } else { 1 })).posted
        });
        voiding.void(Cause::Failover).expect("nothing was posted");
        let posted = thread.join().expect("it ends");
        assert!(posted == u(4) || posted == u(1));
        assert_eq!((table.posted_total(A), table.reserved(A)), (posted, u(0)));
        closes(&table, A);
    });
}

#[test]
fn who_sees_units_that_came_back_sees_those_that_were_posted() {
    model(|| {
        let table = Desk::with(&[(A, 2)]).table();
        let held = take(&table, &[A], 2).expect("units");
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            let came_back = other.free(A);
            let posted = other.posted_total(A);
            assert!(came_back.is_zero() || posted == u(1));
        });
        held.post(u(1));
        thread.join().expect("it ends");
        closes(&table, A);
    });
}

#[test]
fn a_raise_and_a_reservation_meet() {
    model(|| {
        let desk = Desk::with(&[(A, 1)]);
        let table = desk.table();
        let other = desk;
        let thread = thread::spawn(move || other.draw(A, 2));
        let held = take(&table, &[A], 2);
        thread.join().expect("it ends");
        let reserved = u(if held.is_some() { 2 } else { 0 });
        assert_eq!((table.granted(A), table.reserved(A)), (u(3), reserved));
        closes(&table, A);
    });
}

#[test]
fn what_is_given_back_is_not_reserved_as_well() {
    model(|| {
        let desk = Desk::with(&[(A, 3)]);
        let table = desk.table();
        let other = desk;
        let thread = thread::spawn(move || {
            let asks = other.lender.give_back_all();
            asks.first()
                .map(|ask| (ask.cells[0].target, ask.cells[0].posted))
        });
        let held = take(&table, &[A], 2);
        let posted = held.map(|held| held.post(u(2)).posted).unwrap_or_default();
        if let Some((target, told)) = thread.join().expect("it ends") {
            assert!(
                target >= posted && told <= posted,
                "{target} kept of {posted} posted"
            );
        }
        assert_eq!(table.posted_total(A), posted);
        closes(&table, A);
    });
}

#[test]
fn a_call_ends_in_the_table_it_came_from_and_no_turn_steps_back() {
    model(|| {
        let desk = Desk::with(&[(A, 1)]);
        let (old, other) = (desk.table(), desk.clone());
        let thread = thread::spawn(move || other.tables.turn(NEXT));
        desk.tables.turn(P);
        let seen = desk.table();
        if let Some(held) = take(&seen, &[A], 1) {
            assert_eq!(seen.period(), P, "nothing is granted of the next");
            held.post(u(1));
        }
        thread.join().expect("it ends");
        assert_eq!(desk.table().period(), NEXT);
        assert_eq!(desk.table().posted_total(A), u(0));
        closes(&old, A);
    });
}

#[test]
fn a_period_is_not_sealed_before_a_dropped_call_settled_and_left_its_receipt() {
    model(|| {
        let desk = Desk::with(&[(A, 2)]);
        let table = desk.table();
        let journal = Arc::new(Journal::<()>::new(Incarnation(1), 2));
        let slot = journal.try_permit(P).expect("a slot");
        let mut held = take(&table, &[A], 2).expect("units");
        held.deliver(u(1)).expect("within");
        let thread = thread::spawn(move || {
            let delivered = held.delivered();
            drop(held);
            slot.send(receipt(delivered), None);
        });
        let mut proven = Units::ZERO;
        for _ in 0..2 {
            if let Some(ask) = journal.next_append(1) {
                proven = ask.receipts.iter().map(|it| it.units).sum();
                journal.acked(P, 1).expect("it was sent");
            }
            if journal.seal(P) {
                assert_eq!((table.posted_total(A), table.reserved(A)), (u(1), u(0)));
                assert_eq!(proven, u(1), "sealed with its receipt");
            }
        }
        thread.join().expect("it ends");
        closes(&table, A);
    });
}

fn receipt(units: Units) -> Receipt {
    let attempt = Attempt {
        cell: A,
        outcome: Outcome::Cancelled,
        units,
        first_chunk_us: None,
        duration_us: 1,
    };
    Receipt {
        call: 1,
        origin: Origin::Organic,
        client: Arc::default(),
        task: Arc::default(),
        admitted_ms: 0,
        finish: Finish::Attempt(Outcome::Cancelled),
        quality: Quality::Partial,
        units,
        prompt_units: Units::ZERO,
        held: std::iter::once(A).collect(),
        attempts: std::iter::once(attempt).collect(),
        digest: [0; 32],
        labels: Vec::new(),
        claim: None,
    }
}
