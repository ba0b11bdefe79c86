//! What scores are made of.

use rusqlite::Connection;
use taugate::registry::declaration::DeclarationStore as _;
use taugate::scoring::Rows;
use taugate::scoring::ScoreStore as _;
use taugate::scoring::rows::Since;
use taugate::store::sqlite::SqliteStore;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Outcome, Receipt};

use crate::place::{
    LENGTH_S, NEXT, NOW_MS, PERIOD, Place, append, exchange, good, hotkey, make_cell, units,
    with_cell,
};

const ALWAYS: Since = Since {
    periods: Period::starting_at(0),
    answers_ms: 0,
};

async fn rows(store: &SqliteStore) -> Rows {
    store.score_rows(ALWAYS).await.expect("the store answers")
}

/// One period of one cell: allotment, posted, from checks, good, busy, failed.
fn sums(rows: &Rows) -> Vec<[u64; 6]> {
    let periods = rows.periods.iter();
    periods
        .map(|row| {
            let tally = row.tally;
            [
                tally.allotment.get(),
                tally.posted.get(),
                row.synthetic.get(),
                tally.good,
                tally.busy,
                tally.failed,
            ]
        })
        .collect()
}

/// A call that failed at this cell before it was good, as a check.
fn retried(call: u64, cell: CellId, first: Outcome) -> Receipt {
    let mut receipt = good(call, cell, 7);
    receipt.origin = Origin::Synthetic;
    let attempt = Attempt {
        outcome: first,
        units: units(0),
        ..receipt.attempts[0]
    };
    receipt.attempts.insert(0, attempt);
    receipt
}

#[tokio::test]
async fn a_period_is_kept_for_scores_as_its_books_say_and_again_when_they_change() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    make_cell(&store, 2, 50).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
    assert_eq!(rows(&store).await.periods, [], "nothing happened yet");
    let outcomes = [
        Outcome::Busy,
        Outcome::Lost,
        Outcome::Stalled,
        Outcome::Protocol,
        Outcome::Refused,
        Outcome::Cancelled,
    ];
    let mut receipts = vec![good(1, cell, 25)];
    for (call, outcome) in (2..).zip(outcomes) {
        receipts.push(retried(call, cell, outcome));
    }
    append(&store, inc, 0, receipts).await.unwrap();
    let running = rows(&store).await;
    assert_eq!(sums(&running), [[100, 67, 42, 7, 1, 3]]);
    assert_eq!(running.periods[0].miner, hotkey(1));
    assert_eq!(&*running.periods[0].task, "chat");
    assert_eq!(running.periods[0].period, PERIOD);

    place.clock.set(NEXT.start_s() * 1000);
    store.keep_history(PERIOD).await.unwrap();
    assert_eq!(rows(&store).await, running, "kept, and counted once");
    append(&store, inc, 7, vec![good(8, cell, 5)])
        .await
        .unwrap();
    assert_eq!(
        rows(&store).await,
        running,
        "late proof comes with a revision"
    );
    store.keep_history(PERIOD).await.unwrap();
    store.keep_history(PERIOD).await.unwrap();
    assert_eq!(sums(&rows(&store).await), [[100, 72, 42, 8, 1, 3]]);

    // Long after the books are gone.
    let after = |periods: u64| (PERIOD.start_s() + periods * u64::from(LENGTH_S)) * 1000;
    place.clock.set(after(6));
    let emptied = async {
        while !store.periods().await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, emptied).await.unwrap();
    assert_eq!(sums(&rows(&store).await), [[100, 72, 42, 8, 1, 3]]);
    let later = Since {
        periods: NEXT,
        ..ALWAYS
    };
    assert_eq!(store.score_rows(later).await.unwrap(), Rows::default());
}

fn int(number: u64) -> i64 {
    i64::try_from(number).expect("a small number")
}

fn find(
    (raw, cell): (&Connection, CellId),
    call: u64,
    checker: &str,
    (quality, at_ms): (u64, u64),
) {
    raw.execute(
        "INSERT INTO finding (period, inc, call, checker, cell, quality, units, duration_us, at_ms)
         VALUES (?1, 1, ?2, ?3, ?6, ?4, 1200, 7000000, ?5)",
        (
            int(PERIOD.start_s()),
            int(call),
            checker,
            int(quality),
            int(at_ms),
            cell.0,
        ),
    )
    .expect("a row");
}

fn show((raw, cell): (&Connection, CellId), begins_ms: u64, inc: u64, units: u64) {
    raw.execute(
        "INSERT INTO demonstration (begins_ms, cell, inc, length_ms, common, asked, units)
         VALUES (?1, ?4, ?2, 10000, 1, 500, ?3)",
        (int(begins_ms), int(inc), int(units), cell.0),
    )
    .expect("a row");
}

#[tokio::test]
async fn the_newest_answers_and_all_windows_are_read_and_several_views_of_one_are_one() {
    let place = Place::new();
    let (store, cell, _) = with_cell(&place, 100).await;
    let raw = Connection::open(place.path()).unwrap();
    for call in 0..80 {
        find((&raw, cell), call, "built-in", (1_000_000, NOW_MS + call));
    }
    find((&raw, cell), 79, "outside", (250_000, NOW_MS + 500));
    show((&raw, cell), NOW_MS, 1, 300);
    show((&raw, cell), NOW_MS, 2, 100);
    show((&raw, cell), NOW_MS + 60_000, 2, 90);
    let read = rows(&store).await;
    assert_eq!(read.findings.len(), 50);
    let newest = read.findings.iter().max_by_key(|row| row.at_ms).unwrap();
    assert_eq!(newest.at_ms, NOW_MS + 500);
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
    close(newest.quality, 0.25);
    close(newest.seconds, 7.0);
    assert_eq!(newest.units, units(1200));
    let others = read.findings.iter().filter(|row| row.at_ms < NOW_MS + 500);
    assert!(
        others.clone().all(|row| row.at_ms >= NOW_MS + 30),
        "the oldest are left out"
    );
    assert_eq!(others.count(), 49, "an answer counts once");

    let mut shown: Vec<_> = read
        .demonstrations
        .iter()
        .map(|row| row.units.get())
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, [90, 400], "two gateways saw one window");
    let both = read
        .demonstrations
        .iter()
        .find(|row| row.begins_ms == NOW_MS);
    close(both.unwrap().rate(), 40.0);
    assert_eq!(both.unwrap().asked, units(1000));

    let since = Since {
        periods: NEXT,
        answers_ms: NOW_MS + 70,
    };
    let read = store.score_rows(since).await.unwrap();
    assert_eq!(read.findings.len(), 10);
}

#[tokio::test]
async fn what_no_score_looks_at_any_more_goes() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
    append(&store, inc, 0, vec![good(1, cell, 25)])
        .await
        .unwrap();
    store.keep_history(PERIOD).await.unwrap();
    let raw = Connection::open(place.path()).unwrap();
    find((&raw, cell), 1, "built-in", (1_000_000, NOW_MS));
    let kept_ms = 5 * 24 * 3600 * 1000;
    place.clock.set(NOW_MS + kept_ms);
    // A period is kept while its end counts: its rows are here still after some upkeep.
    let other = store.subject(taugate::registry::declaration::Subject::Ceiling {
        task: "chat".into(),
    });
    other.await.unwrap();
    assert_eq!(rows(&store).await.findings.len(), 1);
    place
        .clock
        .set(NOW_MS + kept_ms + 2 * u64::from(LENGTH_S) * 1000);
    let gone = async {
        while !rows(&store).await.findings.is_empty() || !rows(&store).await.periods.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, gone).await.unwrap();
}
