//! Windows of bursts, and what was shown in them.

use taugate::synthetic::burst::{BurstStore as _, NEWCOMERS, NumberedWindow, Window};
use taugate::synthetic::demonstration::{Demonstration, DemonstrationStore as _};
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use crate::place::{NOW_MS, Place};

fn window(begins_ms: u64) -> Window {
    Window {
        begins_ms,
        length_ms: 10_000,
        common: true,
    }
}

/// Another process writes.
fn write(place: &Place, sql: &str) {
    let conn = rusqlite::Connection::open(place.path()).expect("the file opens");
    conn.execute_batch(sql).expect("it is written");
}

fn shown(cell: u32, begins_ms: u64, asked: u64, units: u64) -> Demonstration {
    Demonstration {
        cell: CellId(cell),
        window: window(begins_ms),
        asked: Units::new(asked),
        units: Units::new(units),
    }
}

#[tokio::test]
async fn what_was_shown_is_summed_over_incarnations_and_the_newest_is_read() {
    let place = Place::new();
    let store = place.open();
    let (one, two) = (Incarnation(1), Incarnation(2));
    let rows = (0..20).map(|at| shown(5, NOW_MS + at, 10, at)).collect();
    store.put_demonstrations(one, rows).await.unwrap();
    // Told again it changes nothing; another incarnation that asked for nothing adds to it.
    let last = NOW_MS + 19;
    let again = vec![shown(5, last, 10, 99)];
    store.put_demonstrations(one, again).await.unwrap();
    let other = vec![shown(5, last, 0, 4)];
    store.put_demonstrations(two, other).await.unwrap();
    // Nobody asked: what came by chance shows nothing.
    let unasked = vec![shown(6, NOW_MS, 0, 50)];
    store.put_demonstrations(one, unasked).await.unwrap();
    drop(store);
    let store = place.open();
    let newest = store.demonstrations(2).await.unwrap();
    let expected = [shown(5, last, 10, 23), shown(5, last - 1, 10, 18)];
    assert_eq!(newest, expected);
    // Of each cell only so many are kept, however short its periods.
    let all = store.demonstrations(100).await.unwrap();
    assert_eq!(all.len(), 16);
}

#[tokio::test]
async fn who_showed_nothing_for_a_week_is_new_again() {
    let place = Place::new();
    let store = place.open();
    let week_ms = 7 * 24 * 3600 * 1000;
    let rows = vec![
        shown(5, NOW_MS - week_ms - 1, 10, 10),
        shown(6, NOW_MS - week_ms, 10, 10),
    ];
    store
        .put_demonstrations(Incarnation(1), rows)
        .await
        .unwrap();
    let newest = store.demonstrations(5).await.unwrap();
    assert_eq!(newest.len(), 1);
    assert_eq!(newest[0].cell, CellId(6));
}

#[tokio::test]
async fn only_the_planner_of_the_day_adds_windows_and_none_is_moved() {
    let place = Place::new();
    let store = place.open();
    let period = Period::starting_at(NOW_MS / 1000);
    let numbered = |number, begins_ms| NumberedWindow {
        number,
        window: window(begins_ms),
    };
    let first = vec![numbered(0, NOW_MS + 5)];
    // There is no planner yet.
    let standing = store.put_bursts(period, 1, first.clone()).await;
    assert_eq!(standing, Ok(Vec::new()));
    write(
        &place,
        "INSERT INTO planner (one, term, inc, seen_ms) VALUES (1, 7, 1, 0)",
    );
    assert_eq!(
        store.put_bursts(period, 6, first.clone()).await,
        Ok(Vec::new())
    );
    let standing = store.put_bursts(period, 7, first.clone()).await;
    assert_eq!(standing, Ok(first.clone()));
    // After a restart others would be drawn: what stands is kept.
    write(&place, "UPDATE planner SET term = 8");
    let others = vec![numbered(0, NOW_MS + 9), numbered(NEWCOMERS, NOW_MS + 50)];
    let standing = store.put_bursts(period, 8, others).await;
    let both = vec![first[0], numbered(NEWCOMERS, NOW_MS + 50)];
    assert_eq!(standing, Ok(both.clone()));
    assert_eq!(store.put_bursts(period, 7, Vec::new()).await, Ok(both));
}
