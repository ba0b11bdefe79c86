//! The promises of the books in one process: nothing is spent twice, nothing leaks, a late
//! end stays in its period, and a gateway asks and gives back by the rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use taugate_ledger::audit::audit;
use taugate_ledger::engine::{CellAsk, CellGrant, ExchangeAsk, ExchangeError, ExchangeReply};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::lease::{Lender, LenderSettings};
use taugate_ledger::model::ModelStore;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::reservation::{Cause, Reservation};
use taugate_ledger::table::{Table, Tables};
use taugate_ledger::units::Units;

const P: Period = Period::starting_at(60);
const NEXT: Period = Period::starting_at(120);
const A: CellId = CellId(0);
const B: CellId = CellId(1);
const CEILING: CellId = CellId(5_000);

fn u(units: u64) -> Units {
    Units::new(units)
}

struct Desk {
    store: ModelStore,
    inc: Incarnation,
    tables: Arc<Tables>,
    lender: Lender,
}

// === impl Desk ===

impl Desk {
    fn new(cells: &[(CellId, u64)]) -> Self {
        let store = ModelStore::new();
        for (cell, wanted) in cells {
            store.open_cell(P, *cell, u(*wanted)).expect("a check");
        }
        let inc = store.new_incarnation("one");
        let tables = Arc::new(Tables::new(P));
        let length = PeriodLength::from_secs(60).expect("a length");
        let settings = LenderSettings::default();
        let lender = Lender::new(inc, settings, Arc::clone(&tables), length);
        Self {
            store,
            inc,
            tables,
            lender,
        }
    }

    fn table(&self) -> Arc<Table> {
        self.tables.current()
    }

    fn answer(&self, ask: &ExchangeAsk) -> bool {
        self.lender.answered(ask, self.store.exchange(ask))
    }

    /// Draws what is lacking until nothing is asked any more.
    fn draw(&self, cell: CellId, units: u64) {
        self.lender.need(P, cell, u(units));
        for ask in self.lender.asks(1) {
            self.answer(&ask);
        }
    }

    fn one_ask(&self) -> ExchangeAsk {
        let mut asks = self.lender.asks(1);
        assert_eq!(asks.len(), 1);
        asks.pop().expect("one ask")
    }

    /// An answer that grants so much, whatever the rules are.
    fn says(&self, ask: &ExchangeAsk, granted: u64) -> bool {
        let grant = |asked: &CellAsk| CellGrant {
            cell: asked.cell,
            granted: u(granted),
            wanted: u(100),
            sum_granted: u(granted),
        };
        let reply = ExchangeReply {
            seq: ask.seq,
            cells: ask.cells.iter().map(grant).collect(),
            live: 1,
            frozen: false,
        };
        self.lender.answered(ask, Ok(reply))
    }
}

#[test]
fn p1_threads_that_ask_for_more_than_there_is_get_exactly_what_there_is() {
    let desk = Desk::new(&[(A, 1_000), (B, 1_000), (CEILING, 1_500)]);
    for (cell, units) in [(A, 1_000), (B, 1_000), (CEILING, 1_500)] {
        desk.draw(cell, units);
    }
    let (table, spent) = (desk.table(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (table, spent) = (&table, &spent);
            scope.spawn(move || {
                let miner = if thread % 2 == 0 { A } else { B };
                for round in 0..2_000_u64 {
                    let units = u(1 + round % 3);
                    let taken = Reservation::take(table, &[miner, CEILING], units, Origin::Organic);
                    let Ok(held) = taken else { continue };
                    if round % 5 == 0 {
                        held.void(Cause::Failover).expect("nothing was posted");
                    } else {
                        spent.fetch_add(held.post(units).posted.get(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let spent = spent.into_inner();
    assert_eq!(
        spent, 1_500,
        "the ceiling is spent to the last unit, and no further"
    );
    assert_eq!(table.posted_total(CEILING), u(spent));
    assert_eq!(
        table.posted_total(A).saturating_add(table.posted_total(B)),
        u(spent)
    );
    assert!(table.posted_total(A).max(table.posted_total(B)) <= u(1_000));
    assert!(audit(&table).is_empty());
}

#[test]
fn p2_a_reservation_ends_once_and_a_void_after_a_part_posts_what_was_delivered() {
    let desk = Desk::new(&[(A, 10)]);
    desk.draw(A, 10);
    let table = desk.table();
    let mut held = Reservation::take(&table, &[A], u(6), Origin::Organic).expect("units");
    held.deliver(u(2)).expect("within");
    assert_eq!(held.post_part(), u(2));
    held.deliver(u(3)).expect("within");
    assert!(held.deliver(u(7)).is_err() && held.deliver(u(2)).is_err());
    let refused = held.void(Cause::Cancelled).expect_err("a part was posted");
    assert_eq!(refused.posted, u(3));
    assert_eq!((table.posted_total(A), table.free(A)), (u(3), u(7)));
}

#[test]
fn p4_nothing_is_reserved_when_no_call_lives_however_it_ended() {
    let desk = Desk::new(&[(A, 100), (CEILING, 100)]);
    desk.draw(A, 100);
    desk.draw(CEILING, 20);
    let table = desk.table();
    let cells = [A, CEILING];
    let take = |units| Reservation::take(&table, &cells, u(units), Origin::Synthetic);
    assert!(take(21).is_err(), "all or nothing");
    assert_eq!(table.reserved(A), Units::ZERO);
    let mut held = take(5).expect("units");
    held.deliver(u(1)).expect("within");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = held;
        std::panic::panic_any("a bug in a call");
    }));
    assert!(panicked.is_err());
    drop(take(5).expect("units"));
    for cell in cells {
        assert_eq!(
            (table.reserved(cell), table.in_flight(cell)),
            (Units::ZERO, 0)
        );
        assert_eq!(
            table.posted(cell, Origin::Synthetic),
            u(1),
            "what was delivered"
        );
    }
    assert!(audit(&table).is_empty());
}

#[test]
fn p5_a_late_end_is_charged_to_the_period_of_its_admission() {
    let desk = Desk::new(&[(A, 10)]);
    desk.draw(A, 10);
    let old = desk.table();
    let held = Reservation::take(&old, &[A], u(4), Origin::Organic).expect("units");
    desk.tables.turn(NEXT);
    desk.tables.turn(P);
    assert_eq!(desk.table().period(), NEXT, "no step back");
    held.post(u(4));
    assert_eq!(
        (old.posted_total(A), desk.table().posted_total(A)),
        (u(4), Units::ZERO)
    );
}

#[test]
fn a_need_that_is_on_its_way_is_not_asked_twice_and_a_newer_one_is_not_lost() {
    let desk = Desk::new(&[(A, 1_000)]);
    assert_eq!(desk.lender.need(P, A, u(10)), Some(1));
    let ask = desk.one_ask();
    assert_eq!(ask.cells[0].target, u(10));
    assert_eq!(
        desk.lender.need(P, A, u(5)),
        Some(2),
        "the ask does not carry it"
    );
    assert!(desk.lender.asks(1).is_empty(), "one ask a cell");
    desk.answer(&ask);
    assert_eq!(desk.lender.answers(P, A), 1);
    let ask = desk.one_ask();
    assert!(ask.cells[0].target >= u(15));
    desk.answer(&ask);
    assert!(
        desk.lender.asks(1).is_empty(),
        "nothing is lacking any more"
    );
}

#[test]
fn a_reply_below_what_is_held_freezes_the_period_and_returns_still_go_out() {
    let desk = Desk::new(&[(A, 1_000)]);
    desk.draw(A, 50);
    desk.lender.need(P, A, u(10));
    let ask = desk.one_ask();
    assert!(desk.says(&ask, 30), "it freezes");
    assert!(desk.lender.frozen(P));
    assert_eq!(desk.table().granted(A), u(30));
    assert_eq!(desk.lender.need(P, A, u(10)), None, "nothing can be drawn");
    assert!(desk.lender.asks(1).is_empty());
    let asks = desk.lender.asks(60_000);
    let returned: Vec<_> = asks.iter().flat_map(|ask| &ask.cells).collect();
    assert_eq!(returned.len(), 1);
    assert_eq!(returned[0].target, Units::ZERO);
    assert!(!desk.says(&asks[0], 40), "frozen already");
    assert_eq!(desk.table().granted(A), Units::ZERO, "nothing is raised");
}

#[test]
fn units_that_an_ask_on_its_way_brings_are_given_back_as_well() {
    let desk = Desk::new(&[(A, 1_000)]);
    desk.lender.need(P, A, u(10));
    let ask = desk.one_ask();
    assert!(desk.lender.give_back_all().is_empty());
    assert!(desk.lender.owes(), "an ask is on its way");
    desk.answer(&ask);
    for ask in desk.lender.give_back_all() {
        desk.answer(&ask);
    }
    assert!(!desk.lender.owes());
    assert!(desk.lender.give_back_all().is_empty());
    let lease = desk.store.lease(P, A, desk.inc).expect("a lease");
    assert_eq!(lease.granted, Units::ZERO);
}

#[test]
fn a_past_period_is_done_only_when_its_returns_were_answered() {
    let desk = Desk::new(&[(A, 1_000)]);
    desk.draw(A, 10);
    desk.tables.turn(NEXT);
    let asks = desk.lender.retire(P).expect("nothing is held");
    assert_eq!(asks.len(), 1);
    assert_eq!(desk.lender.retire(P), None, "on its way");
    desk.lender
        .answered(&asks[0], Err(ExchangeError::Unavailable));
    let again = desk.lender.retire(P).expect("an answer");
    assert_eq!(again.len(), 1, "whether it arrived is unknown");
    desk.answer(&again[0]);
    assert_eq!(desk.lender.retire(P), Some(Vec::new()));
}

#[test]
fn what_is_left_of_a_cell_follows_its_declaration_before_it_is_asked_for() {
    let desk = Desk::new(&[(A, 100), (B, 100)]);
    let table = desk.table();
    assert_eq!(table.left(A), Units::ZERO);
    desk.lender.expect(P, &[(A, u(100)), (B, u(100))]);
    assert_eq!(table.left(A), u(100));
    desk.draw(A, 10);
    desk.lender.expect(P, &[(A, u(100)), (B, u(100))]);
    assert_eq!(table.left(A), u(100), "held and rest");
    desk.lender.expect(P, &[(A, u(40))]);
    assert_eq!((table.left(A), table.left(B)), (u(40), Units::ZERO));
}

#[test]
fn a_cut_below_what_is_granted_sends_free_units_back() {
    let desk = Desk::new(&[(A, 100)]);
    desk.draw(A, 60);
    desk.store.set_wanted(P, A, u(20)).expect("a check");
    desk.lender.expect(P, &[(A, u(20))]);
    for ask in desk.lender.asks(2) {
        desk.answer(&ask);
    }
    let cell = desk.store.cell(P, A).expect("a cell");
    assert_eq!((cell.granted, cell.allotment), (u(20), u(20)));
}

#[test]
fn an_ask_that_receipts_overtook_is_told_from_a_bug() {
    let desk = Desk::new(&[(A, 100)]);
    desk.draw(A, 60);
    desk.lender.need(P, A, u(70));
    let mut ask = desk.one_ask();
    assert!(!desk.lender.overtaken(&ask, A));
    let table = desk.table();
    let held = Reservation::take(&table, &[A], u(3), Origin::Organic).expect("units");
    held.post(u(3));
    assert!(desk.lender.overtaken(&ask, A));
    desk.lender.refresh(&mut ask);
    assert_eq!(ask.cells[0].posted, u(3));
}

#[derive(Clone, Debug)]
enum Step {
    Take(u64, bool),
    Extend(usize, u64),
    Deliver(usize, u64),
    Part(usize),
    Post(usize, u64),
    Void(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..40_u64, any::<bool>()).prop_map(|(units, both)| Step::Take(units, both)),
        (0..9_usize, 0..20_u64).prop_map(|(at, by)| Step::Extend(at, by)),
        (0..9_usize, 0..60_u64).prop_map(|(at, to)| Step::Deliver(at, to)),
        (0..9_usize).prop_map(Step::Part),
        (0..9_usize, 0..60_u64).prop_map(|(at, units)| Step::Post(at, units)),
        (0..9_usize).prop_map(Step::Void),
        (0..9_usize).prop_map(Step::Drop),
    ]
}

/// The same in plain numbers: reserved, delivered, posted.
#[derive(Clone, Copy, Debug, Default)]
struct Plain {
    both: bool,
    reserved: u64,
    delivered: u64,
    posted: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reservations_do_what_plain_numbers_say(steps in prop::collection::vec(step(), 1..60)) {
        let desk = Desk::new(&[(A, 200), (CEILING, 120)]);
        desk.draw(A, 200);
        desk.draw(CEILING, 120);
        let table = desk.table();
        let mut live: Vec<(Reservation, Plain)> = Vec::new();
        let (mut free, mut booked) = ([200_u64, 120], [0_u64, 0]);
        for step in steps {
            let count = live.len().max(1);
            let sides = |both: bool| if both { 2 } else { 1 };
            match step {
                Step::Take(units, both) => {
                    let cells = &[A, CEILING][..sides(both)];
                    let fits = free[..sides(both)].iter().all(|free| *free >= units);
                    let taken = Reservation::take(&table, cells, u(units), Origin::Organic);
                    prop_assert_eq!(taken.is_ok(), fits);
                    if let Ok(held) = taken {
                        free[..sides(both)].iter_mut().for_each(|free| *free -= units);
                        live.push((held, Plain { both, reserved: units, ..Plain::default() }));
                    }
                }
                Step::Extend(at, by) => if let Some((held, plain)) = live.get_mut(at % count) {
                    let fits = free[..sides(plain.both)].iter().all(|free| *free >= by);
                    prop_assert_eq!(held.extend(u(by)).is_ok(), fits);
                    if fits {
                        free[..sides(plain.both)].iter_mut().for_each(|free| *free -= by);
                        plain.reserved += by;
                    }
                },
                Step::Deliver(at, to) => if let Some((held, plain)) = live.get_mut(at % count) {
                    let fits = to <= plain.reserved && to >= plain.delivered;
                    prop_assert_eq!(held.deliver(u(to)).is_ok(), fits);
                    if fits { plain.delivered = to; }
                },
                Step::Part(at) => if let Some((held, plain)) = live.get_mut(at % count) {
                    prop_assert_eq!(held.post_part(), u(plain.delivered));
                    let more = plain.delivered - plain.posted;
                    booked[..sides(plain.both)].iter_mut().for_each(|booked| *booked += more);
                    plain.posted = plain.delivered;
                },
                Step::Post(at, _) | Step::Void(at) | Step::Drop(at) => {
                    if live.is_empty() { continue; }
                    let (held, plain) = live.swap_remove(at % count);
                    let all = if let Step::Post(_, units) = step {
                        let all = units.min(plain.reserved).max(plain.posted);
                        prop_assert_eq!(held.post(u(units)).posted, u(all));
                        all
                    } else if matches!(step, Step::Void(_)) {
                        prop_assert_eq!(held.void(Cause::Failed).is_ok(), plain.posted == 0);
                        if plain.posted == 0 { 0 } else { plain.delivered }
                    } else {
                        drop(held);
                        plain.delivered
                    };
                    for side in 0..sides(plain.both) {
                        booked[side] += all - plain.posted;
                        free[side] += plain.reserved - all;
                    }
                }
            }
            for (side, cell) in [A, CEILING].into_iter().enumerate() {
                prop_assert_eq!(table.free(cell), u(free[side]));
                prop_assert_eq!(table.posted_total(cell), u(booked[side]));
            }
        }
        drop(live);
        prop_assert!(audit(&table).is_empty());
        prop_assert_eq!(table.reserved(A), Units::ZERO);
    }
}

#[test]
fn what_comes_for_a_call_that_lacks_it_is_not_idle_before_the_call_had_it() {
    let desk = Desk::new(&[(A, 1_000)]);
    let table = desk.table();
    desk.lender.expect(P, &[(A, u(1_000))]);
    desk.lender.need(P, A, u(10));
    for ask in desk.lender.asks(1_000) {
        desk.answer(&ask);
    }
    // Long unused: it goes back.
    let late_ms = 1_000 + 60_000;
    for ask in desk.lender.asks(late_ms) {
        desk.answer(&ask);
    }
    assert_eq!(table.free(A), Units::ZERO);
    desk.lender.need(P, A, u(10));
    for ask in desk.lender.asks(late_ms + 1) {
        desk.answer(&ask);
    }
    assert!(table.free(A) >= u(10));
    // Another cell's call wakes the asks before the first one has looked.
    assert_eq!(desk.lender.asks(late_ms + 2), []);
    assert!(table.free(A) >= u(10));
}
