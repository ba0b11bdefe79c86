//! Plans of checks: who may draw, and that nothing is drawn twice.

use std::time::Duration;

use taugate::synthetic::draw::Part;
use taugate::synthetic::plan::{Attempts, Before, Drawn, PlanStore as _, Term};
use taugate_ledger::engine::Engine as _;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Receipt};
use taugate_ledger::units::Units;

use crate::place::{
    LENGTH_S, NEXT, NOW_MS, PERIOD, Place, append, exchange, good, make_cell, units, with_cell,
};

/// Longer than any test takes.
const SILENT_MS: u64 = 10_000;

const fn part(millionths: u32) -> Part {
    Part::from_millionths(millionths)
}

fn drawn(cell: CellId, millionths: u32) -> Drawn {
    Drawn {
        cell,
        part: part(millionths),
        newcomer: true,
    }
}

/// A check that ended so.
fn check(call: u64, cell: CellId, outcome: Outcome, amount: u64) -> Receipt {
    let receipt = good(call, cell, amount);
    let attempt = Attempt {
        outcome,
        ..receipt.attempts[0]
    };
    Receipt {
        origin: Origin::Synthetic,
        finish: Finish::Attempt(outcome),
        attempts: [attempt].into_iter().collect(),
        ..receipt
    }
}

#[tokio::test]
async fn a_cell_is_drawn_once_and_a_restart_keeps_it() {
    let place = Place::new();
    let (store, one, inc) = with_cell(&place, 100).await;
    let two = make_cell(&store, 2, 100).await;
    let term = store.take_term(inc, SILENT_MS).await.unwrap().unwrap();
    let first = store.draw(term, PERIOD, vec![(one, part(50_000))]).await;
    assert_eq!(first, Ok(Some(vec![drawn(one, 50_000)])));
    let again = vec![(one, part(900_000)), (two, part(70_000))];
    let stands = vec![drawn(one, 50_000), drawn(two, 70_000)];
    let second = store.draw(term, PERIOD, again.clone()).await;
    assert_eq!(second, Ok(Some(stands.clone())));
    drop(store);

    let store = place.open();
    let inc = store.new_incarnation("one").await.unwrap();
    let newer = store.take_term(inc, SILENT_MS).await.unwrap().unwrap();
    assert!(newer > term, "who is dead is not waited for");
    let third = vec![(one, part(1)), (two, part(2))];
    let kept = store.draw(newer, PERIOD, third.clone()).await;
    assert_eq!(kept, Ok(Some(stands)), "a restart draws nothing anew");
    let other = store.draw(newer, NEXT, third).await.unwrap().unwrap();
    assert_eq!(other, [drawn(one, 1), drawn(two, 2)]);
}

#[tokio::test]
async fn an_older_term_is_refused() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    let other = store.new_incarnation("two").await.unwrap();
    let old = store.take_term(inc, SILENT_MS).await.unwrap().unwrap();
    assert_eq!(store.take_term(other, SILENT_MS).await, Ok(None));
    assert_eq!(store.keep_term(old).await, Ok(true));
    // Silent for long.
    place.clock.set(NOW_MS + SILENT_MS);
    let new = store.take_term(other, SILENT_MS).await.unwrap().unwrap();
    assert_eq!(new, Term(old.0 + 1));
    assert_eq!(store.keep_term(old).await, Ok(false));
    assert_eq!(store.term_stands(old).await, Ok(false));
    assert_eq!(store.term_stands(new).await, Ok(true));
    let fenced = store.draw(old, PERIOD, vec![(cell, part(5))]).await;
    assert_eq!(fenced, Ok(None));
    let drawn_now = store.draw(new, PERIOD, vec![(cell, part(7))]).await;
    assert_eq!(drawn_now, Ok(Some(vec![drawn(cell, 7)])), "nothing stood");
    // Who says that it ended is not waited for.
    store.close(other).await.unwrap();
    assert!(store.take_term(inc, SILENT_MS).await.unwrap().is_some());
}

#[tokio::test]
async fn the_books_of_others_are_told_apart_from_ones_own() {
    let place = Place::new();
    let (store, cell, before) = with_cell(&place, 1000).await;
    exchange(&store, before, 1, (cell, 500, 0)).await.unwrap();
    let receipts = vec![
        good(1, cell, 40),
        check(2, cell, Outcome::Good, 30),
        check(3, cell, Outcome::Lost, 0),
        check(4, cell, Outcome::Cancelled, 5),
        check(5, cell, Outcome::Busy, 0),
    ];
    append(&store, before, 0, receipts).await.unwrap();
    let own = store.new_incarnation("two").await.unwrap();
    exchange(&store, own, 1, (cell, 300, 0)).await.unwrap();
    let receipts = vec![good(1, cell, 7), check(2, cell, Outcome::Good, 9)];
    append(&store, own, 0, receipts).await.unwrap();

    let books = store.cell_books(PERIOD, own).await.unwrap();
    assert_eq!(books.len(), 1);
    assert_eq!(
        (books[0].organic, books[0].synthetic),
        (units(40), units(35))
    );
    assert_eq!(books[0].others, Attempts { all: 3, good: 1 });
    assert_eq!(books[0].own, Attempts { all: 1, good: 1 });
    let seen = store.cell_books(PERIOD, before).await.unwrap();
    assert_eq!((seen[0].organic, seen[0].synthetic), (units(7), units(9)));
    assert_eq!(store.cell_books(NEXT, own).await, Ok(vec![]));

    let told = Before {
        ago: 0,
        cell,
        organic: Units::new(47),
    };
    assert_eq!(store.organic_before(NEXT, 3).await, Ok((1, vec![told])));
    assert_eq!(store.organic_before(PERIOD, 3).await, Ok((0, vec![])));
}

#[tokio::test]
async fn what_was_drawn_long_ago_goes_with_its_period() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    let term = store.take_term(inc, SILENT_MS).await.unwrap().unwrap();
    store
        .draw(term, PERIOD, vec![(cell, part(5))])
        .await
        .unwrap();
    let reader = rusqlite::Connection::open(place.path()).unwrap();
    let rows = || -> i64 {
        let count = reader.query_row("SELECT count(*) FROM plan", [], |row| row.get(0));
        count.unwrap()
    };
    assert_eq!(rows(), 1);
    place.clock.set(NOW_MS + 10 * u64::from(LENGTH_S) * 1000);
    let gone = async {
        while rows() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone);
    gone.await.expect("it goes");
}
