//! Ended periods: when they are due for a seal, and what it says.

use taugate::identity::hotkey::Keypair;
use taugate::report::seal::{PeriodBooks, Sealer};
use taugate::report::{Closing, SealStore as _};
use taugate::store::sqlite::SqliteStore;
use taugate_ledger::engine::Engine as _;
use taugate_ledger::period::Period;

use crate::place::{
    NEXT, PERIOD, Place, append, exchange, good, length, row, settings, units, with_cell,
};

/// The one ended period, as far as its seal is concerned.
async fn closing(store: &SqliteStore) -> Closing {
    let ended = store.closing().await.expect("the store answers");
    assert_eq!(ended.len(), 1, "{ended:?}");
    ended[0]
}

/// Seals the period as it is.
pub(crate) async fn seal(store: &SqliteStore, revision: u32) -> (bool, PeriodBooks) {
    seal_of(store, PERIOD, revision).await
}

/// Seals a period as it is.
pub(crate) async fn seal_of(
    store: &SqliteStore,
    period: Period,
    revision: u32,
) -> (bool, PeriodBooks) {
    let books = store.period_books(period).await.expect("books");
    let keypair = Keypair::from_secret("//Validator").expect("a key");
    let sealer = Sealer {
        keypair: &keypair,
        network: "test",
        length: length(),
    };
    let seal = sealer.seal(period, revision, &books);
    (store.put_seal(seal).await.expect("it is kept"), books)
}

#[tokio::test]
async fn a_period_is_due_for_its_seal_once_all_closed_it_and_at_latest_after_its_grace() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0)).await.unwrap();
    append(&store, inc, 0, vec![good(1, cell, 25)])
        .await
        .unwrap();
    let running = store.closing().await.unwrap();
    assert_eq!(running, [], "it has not ended");
    place.clock.set(NEXT.start_s() * 1000);
    assert!(!closing(&store).await.due, "a lease is open");
    store.close_period(inc, PERIOD).await.unwrap();
    assert!(closing(&store).await.due);

    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0)).await.unwrap();
    let grace_ms = u64::try_from(settings().grace.as_millis()).unwrap();
    place.clock.set(NEXT.start_s() * 1000 + grace_ms - 1);
    assert!(!closing(&store).await.due);
    place.clock.set(NEXT.start_s() * 1000 + grace_ms);
    assert!(closing(&store).await.due);
    // Who is dead for certain is not waited for.
    place.clock.set(NEXT.start_s() * 1000);
    assert!(!closing(&store).await.due);
    drop(store);
    assert!(closing(&place.open()).await.due);
}

#[tokio::test]
async fn a_seal_names_what_is_in_doubt_and_late_proof_makes_a_revision() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0)).await.unwrap();
    append(&store, inc, 0, vec![good(1, cell, 25)])
        .await
        .unwrap();
    place.clock.set(NEXT.start_s() * 1000);
    let (kept, books) = seal(&store, 1).await;
    assert!(kept);
    assert_eq!(
        (books.totals[0].units, books.totals[0].attempts),
        (units(25), 1)
    );
    assert_eq!(books.in_doubt[0].units, units(35));
    let before = closing(&store).await;

    append(&store, inc, 1, vec![good(2, cell, 10)])
        .await
        .unwrap();
    assert_ne!(closing(&store).await.mark, before.mark);
    assert!(!seal(&store, 1).await.0, "a revision is written once");
    let (kept, books) = seal(&store, 2).await;
    assert!(kept);
    assert_eq!(books.totals[0].units, units(35));
    assert_eq!(books.in_doubt[0].units, units(25));
    drop(store);

    let store = place.open();
    let seals = store.seals(PERIOD).await.unwrap();
    let revisions: Vec<_> = seals.iter().map(|seal| seal.revision).collect();
    assert_eq!(revisions, [1, 2]);
    assert!(seals[0].id < seals[1].id);
    assert!(books.is_said_by(&seals[1].payload) && !books.is_said_by(&seals[0].payload));
    let sum: u64 = row(&store, cell)
        .await
        .receipts
        .iter()
        .map(|sum| sum.get())
        .sum();
    assert_eq!(sum, 35, "the seal is the sum of receipts");
}
