//! Rows that go, and copies.

use std::time::Duration;

use taugate::registry::declaration::DeclarationStore as _;
use taugate::store::sqlite::{BackupError, OpenError, SqliteSettings, backup};
use taugate_ledger::engine::{AppendError, ExchangeError};
use taugate_ledger::period::Period;

use crate::place::{
    LENGTH_S, PERIOD, Place, append, exchange, good, id, row, settings, units, with_cell,
};

#[tokio::test]
async fn old_periods_are_dropped_and_open_ones_kept() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 10_000).await;
    exchange(&store, inc, 1, (cell, 10_000, 0)).await.unwrap();
    let receipts = (1..=3_000).map(|call| good(call, cell, 1)).collect();
    append(&store, inc, 0, receipts).await.unwrap();
    let at = |periods: u64, seconds: u64| {
        let start_s = PERIOD.start_s() + periods * u64::from(LENGTH_S);
        place.clock.set((start_s + seconds) * 1000);
        Period::starting_at(start_s)
    };
    // Three ended periods are kept, and the grace.
    let kept = at(4, 0);
    store.set_cells(kept, vec![(cell, units(1))]).await.unwrap();
    assert!(store.receipt(id(inc, 3_000)).await.unwrap().is_some());
    at(5, 0);
    let dropped = async {
        while store.periods().await.unwrap() != [kept] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped)
        .await
        .expect("the old period goes");
    assert!(store.receipt(id(inc, 3_000)).await.unwrap().is_none());
    let late = append(&store, inc, 3_000, vec![good(3_001, cell, 1)]).await;
    assert_eq!(late, Err(AppendError::PeriodNotOpen(PERIOD)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_store_in_use_is_whole() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 1_000_000).await;
    exchange(&store, inc, 1, (cell, 1_000_000, 0))
        .await
        .unwrap();
    let receipts = (1..=5_000).map(|call| good(call, cell, 1)).collect();
    append(&store, inc, 0, receipts).await.unwrap();
    let copy = Place::new();
    let (from, to) = (place.path(), copy.path());
    let copying = tokio::task::spawn_blocking(move || {
        let mut steps = Vec::new();
        backup(&from, &to, |progress| steps.push(progress)).map(|()| steps)
    });
    let mut next = 5_000;
    while !copying.is_finished() {
        next = append(&store, inc, next, vec![good(next + 1, cell, 1)])
            .await
            .unwrap();
    }
    let steps = copying.await.unwrap().unwrap();
    assert!(steps.last().is_some_and(|last| last.done == last.total));
    let again = backup(&place.path(), &copy.path(), |_| {});
    assert!(matches!(again, Err(BackupError::Exists)));

    // What was granted since is not in it.
    let refused = copy.try_open(settings());
    assert!(matches!(refused, Err(OpenError::Copy)), "{refused:?}");
    let frozen = SqliteSettings {
        freeze: true,
        ..settings()
    };
    let restored = copy.try_open(frozen).expect("it opens frozen");
    let started = restored.new_incarnation("two").await.unwrap();
    assert!(started.0 > inc.0 + 1_000, "a number may be given twice");
    let raised = exchange(&restored, started, 1, (cell, 1, 0)).await;
    assert_eq!(raised, Err(ExchangeError::LostCommits));
    drop(restored);
    // Once is enough.
    let restored = copy.open();
    let books = row(&restored, cell).await;
    assert!(books.receipts[0] >= units(5_000), "{books:?}");
    assert!(books.receipts[0] <= units(next));
    let missing = backup(
        &copy.dir.path().join("none"),
        &copy.dir.path().join("x"),
        |_| {},
    );
    assert!(matches!(missing, Err(BackupError::Source(_))));
    assert!(!copy.dir.path().join("x").exists());
}
