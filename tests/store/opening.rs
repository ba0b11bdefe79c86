//! Which file is opened, and which is refused with its reason.

use std::sync::Arc;

use taugate::clock::ManualClock;
use taugate::registry::declaration::DeclarationStore as _;
use taugate::store::sqlite::{OpenError, SqliteSettings, SqliteStore, backup};
use taugate_ledger::engine::ExchangeError;
use taugate_ledger::period::PeriodLength;

use crate::place::{NEXT, PERIOD, Place, exchange, exchange_in, settings, units, with_cell};

#[tokio::test]
async fn an_empty_or_missing_file_in_its_place_is_refused() {
    let place = Place::new();
    drop(with_cell(&place, 100).await);
    let kept = place.dir.path().join("kept.db");
    std::fs::rename(place.path(), &kept).unwrap();
    assert!(matches!(
        place.try_open(settings()),
        Err(OpenError::Missing)
    ));
    assert!(!place.path().exists(), "it was made anew");
    std::fs::write(place.path(), b"").unwrap();
    assert!(matches!(
        place.try_open(settings()),
        Err(OpenError::Missing)
    ));
    std::fs::rename(&kept, place.path()).unwrap();
    assert_eq!(place.open().periods().await, Ok(vec![PERIOD]));
}

#[tokio::test]
async fn another_store_in_its_place_is_refused() {
    let (place, other) = (Place::new(), Place::new());
    drop(place.open());
    drop(other.open());
    std::fs::copy(other.path(), place.path()).unwrap();
    let refused = place.try_open(settings());
    assert!(matches!(refused, Err(OpenError::OtherStore)), "{refused:?}");
}

#[tokio::test]
async fn an_older_copy_is_opened_frozen_or_not_at_all() {
    let place = Place::new();
    let (store, cell, first) = with_cell(&place, 100).await;
    let copy = place.dir.path().join("copy.db");
    backup(&place.path(), &copy, |_| {}).unwrap();
    let lost = store.new_incarnation("two").await.unwrap();
    exchange(&store, lost, 1, (cell, 100, 0)).await.unwrap();
    drop(store);
    for gone in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!(
            "{}{gone}",
            place.path().display()
        )));
    }
    std::fs::rename(&copy, place.path()).unwrap();
    let refused = place.try_open(settings());
    assert!(
        matches!(refused, Err(OpenError::Older { found, noted })
            if (found, noted) == (first.0, lost.0)),
        "{refused:?}"
    );

    let frozen = SqliteSettings {
        freeze: true,
        ..settings()
    };
    let store = place.try_open(frozen).unwrap();
    let inc = store.new_incarnation("three").await.unwrap();
    assert!(inc > lost, "a number was given twice");
    let raised = exchange(&store, inc, 1, (cell, 1, 0)).await;
    assert_eq!(raised, Err(ExchangeError::LostCommits));
    drop(store);
    // It stays frozen when it is opened without the setting, until the period ends.
    let store = place.open();
    let inc = store.new_incarnation("four").await.unwrap();
    let raised = exchange(&store, inc, 1, (cell, 1, 0)).await;
    assert_eq!(raised, Err(ExchangeError::LostCommits));
    store.set_cells(NEXT, vec![(cell, units(5))]).await.unwrap();
    let next = exchange_in(&store, NEXT, inc, 1, (cell, 5, 0))
        .await
        .unwrap();
    assert_eq!(next.granted, units(5));
}

#[tokio::test]
async fn a_newer_schema_and_a_strange_file_are_refused() {
    let place = Place::new();
    drop(place.open());
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let refused = place.try_open(settings());
    assert!(
        matches!(refused, Err(OpenError::NewerSchema { found: 99, .. })),
        "{refused:?}"
    );

    let strange = Place::new();
    let raw = rusqlite::Connection::open(strange.path()).unwrap();
    raw.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(raw);
    let refused = strange.try_open(settings());
    assert!(matches!(refused, Err(OpenError::NotAStore)), "{refused:?}");
}

#[tokio::test]
async fn the_length_of_periods_changes_once_none_is_open() {
    let place = Place::new();
    drop(with_cell(&place, 100).await);
    let open = |place: &Place| {
        SqliteStore::open(
            &place.path(),
            settings(),
            Arc::<ManualClock>::clone(&place.clock),
            PeriodLength::from_secs(600).unwrap(),
        )
    };
    let refused = open(&place);
    assert!(
        matches!(refused, Err(OpenError::PeriodLength { until_s, .. })
            if until_s == NEXT.start_s()),
        "{refused:?}"
    );
    place.clock.set(NEXT.start_s() * 1000);
    open(&place).unwrap();
}
