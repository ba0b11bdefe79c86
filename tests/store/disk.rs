//! A disk that is full, and one that gives back what was not written.

use std::io::{Seek as _, SeekFrom, Write as _};

use taugate::store::sqlite::{OpenError, SqliteSettings};
use taugate::store::{Health, StoreFault};
use taugate_ledger::engine::{AppendError, ExchangeError};

use crate::place::{Place, append, exchange, good, make_cell, row, settings, units, with_cell};

#[tokio::test]
async fn a_damaged_page_is_refused_with_its_reason() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100_000).await;
    exchange(&store, inc, 1, (cell, 100_000, 0)).await.unwrap();
    let receipts = (1..=500).map(|call| good(call, cell, 1)).collect();
    append(&store, inc, 0, receipts).await.unwrap();
    drop(store);
    let bytes = std::fs::metadata(place.path()).unwrap().len();
    let mut file = std::fs::File::options()
        .write(true)
        .open(place.path())
        .unwrap();
    // The last pages are those of receipts.
    file.seek(SeekFrom::Start((bytes / 4096 - 2) * 4096))
        .unwrap();
    file.write_all(&[0xff; 4096]).unwrap();
    drop(file);
    let refused = place.try_open(settings());
    assert!(
        matches!(&refused, Err(OpenError::Damaged { reason }) if !reason.is_empty()),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_flipped_digit_is_refused() {
    for change in [
        "UPDATE cell SET granted = granted - 1",
        "UPDATE lease SET organic = organic - 1",
        "UPDATE receipt SET units = units + 1",
        "UPDATE receipt SET body = zeroblob(length(body))",
    ] {
        let place = Place::new();
        let (store, cell, inc) = with_cell(&place, 100).await;
        exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
        append(&store, inc, 0, vec![good(1, cell, 5)])
            .await
            .unwrap();
        drop(store);
        let raw = rusqlite::Connection::open(place.path()).unwrap();
        assert_eq!(raw.execute(change, []).unwrap(), 1);
        drop(raw);
        let refused = place.try_open(settings());
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{change}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_row_that_is_damaged_while_open_stops_the_store_for_good() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
    let mut health = store.health();
    assert_eq!(*health.borrow(), Health::Ready);
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    raw.execute("UPDATE lease SET granted = 60", []).unwrap();
    let damaged = append(&store, inc, 0, vec![good(1, cell, 55)]).await;
    assert_eq!(damaged, Err(AppendError::Damaged));
    health
        .wait_for(|health| *health == Health::Damaged)
        .await
        .unwrap();
    // Even when the row is mended: what was acknowledged since is not known.
    raw.execute("UPDATE lease SET granted = 50", []).unwrap();
    let still = append(&store, inc, 0, vec![good(1, cell, 5)]).await;
    assert_eq!(still, Err(AppendError::Damaged));
    assert_eq!(store.heartbeat(inc).await, Err(StoreFault::Damaged));
}

#[tokio::test]
async fn a_full_file_refuses_and_keeps_what_it_acknowledged() {
    let place = Place::new();
    let small = SqliteSettings {
        bytes_max: Some(400 << 10),
        ..settings()
    };
    let store = place.try_open(small).unwrap();
    let cell = make_cell(&store, 1, 1_000_000).await;
    let inc = store.new_incarnation("one").await.unwrap();
    exchange(&store, inc, 1, (cell, 1_000_000, 0))
        .await
        .unwrap();
    let mut next = 0;
    let end = loop {
        let receipts = (0..50).map(|at| good(next + at + 1, cell, 1)).collect();
        match append(&store, inc, next, receipts).await {
            Ok(offset) => next = offset,
            Err(error) => break error,
        }
        assert!(next < 100_000, "it never filled up");
    };
    assert_eq!(end, AppendError::Unavailable);
    assert!(next > 0);
    assert_eq!(row(&store, cell).await.receipts[0], units(next));
    drop(store);
    // With more room it goes on where it was.
    let store = place.open();
    let more = append(&store, inc, next, vec![good(next + 1, cell, 1)]).await;
    assert_eq!(more, Ok(next + 1));
}

#[tokio::test]
async fn with_little_space_left_grants_are_refused_before_receipts() {
    let place = Place::new();
    let small = SqliteSettings {
        bytes_max: Some(1 << 20),
        free_bytes_min: 512 << 10,
        ..settings()
    };
    let store = place.try_open(small).unwrap();
    let cell = make_cell(&store, 1, 1_000_000).await;
    let inc = store.new_incarnation("one").await.unwrap();
    exchange(&store, inc, 1, (cell, 500_000, 0)).await.unwrap();
    let mut health = store.health();
    let mut next = 0;
    while *health.borrow_and_update() == Health::Ready {
        let receipts = (0..50).map(|at| good(next + at + 1, cell, 1)).collect();
        next = append(&store, inc, next, receipts).await.unwrap();
    }
    assert_eq!(*health.borrow(), Health::Full);
    let more = exchange(&store, inc, 2, (cell, 600_000, next)).await;
    assert_eq!(more, Err(ExchangeError::Unavailable));
    // Proof and giving back still pass.
    append(&store, inc, next, vec![good(next + 1, cell, 1)])
        .await
        .unwrap();
    let back = exchange(&store, inc, 2, (cell, 0, next + 1)).await.unwrap();
    assert_eq!(back.granted, units(next + 1));
}
