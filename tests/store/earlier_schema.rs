//! A store that an earlier program left, whose receipts had a column for each field.
//!
//! `schema_6.sql` is the dump of a store that such a program wrote: two incarnations, of which
//! the first ended, that each booked [`booked`].

use rusqlite::Connection;
use smallvec::smallvec;
use taugate::audit::{Kind, audit};
use taugate::report::{Reach, ReportStore as _};
use taugate::store::sqlite::{OpenError, SqliteStore};
use taugate_ledger::engine::AppendError;
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};

use crate::place::{PERIOD, Place, append, good, id, part, row, settings, units};

const DUMP: &str = include_str!("schema_6.sql");

const MINER: CellId = CellId(0);
const OTHER: CellId = CellId(1);
const CEILING: CellId = CellId(2);

/// Parts and their end, an answer after a failed attempt, a check, a refusal, labels, a claim,
/// and a call that still runs.
fn booked() -> Vec<Receipt> {
    let under_ceiling = |mut receipt: Receipt| {
        receipt.held.push(CEILING);
        receipt
    };
    let mut after_failures = good(3, MINER, 20);
    for outcome in [Outcome::Busy, Outcome::Stalled] {
        let failed = Attempt {
            cell: OTHER,
            outcome,
            units: units(0),
            first_chunk_us: None,
            duration_us: 9,
        };
        after_failures.attempts.insert(0, failed);
    }
    let mut check = good(4, OTHER, 10);
    check.origin = Origin::Synthetic;
    let mut refused = good(5, MINER, 0);
    refused.finish = Finish::NoCapacity;
    (refused.attempts, refused.held) = (smallvec![], smallvec![]);
    (refused.client, refused.labels, refused.digest) = ("".into(), Vec::new(), [0; 32]);
    let mut labelled = good(6, MINER, 7);
    labelled.labels = ["", "größe", "a\nb"]
        .map(|text| (text.to_owned(), text.to_owned()))
        .to_vec();
    labelled.prompt_units = units(2);
    labelled.quality = Quality::Partial;
    labelled.finish = Finish::SlowConsumer;
    labelled.claim = Some(1);
    vec![
        under_ceiling(part(1, MINER, 10)),
        under_ceiling(good(2, MINER, 30)),
        under_ceiling(part(1, MINER, 20)),
        under_ceiling(good(1, MINER, 40)),
        under_ceiling(after_failures),
        under_ceiling(check),
        refused,
        labelled,
        under_ceiling(part(7, MINER, 3)),
    ]
}

/// Puts the earlier store in place, with what else was done to it.
fn earlier_store(place: &Place, more: &str) {
    let raw = Connection::open(place.path()).expect("a file");
    raw.execute_batch(DUMP).expect("the dump is whole");
    raw.execute_batch(more).expect("what was done to it");
}

async fn receipts_of(store: &SqliteStore, incarnation: Incarnation) -> Vec<Receipt> {
    let reach = Reach {
        period: PERIOD,
        incarnation,
        next_offset: 9,
    };
    let placed = store
        .receipts(reach, 0, 100)
        .await
        .expect("the store answers");
    let offsets = placed.iter().map(|placed| placed.offset);
    assert!(offsets.eq(0..9));
    placed.into_iter().map(|placed| placed.receipt).collect()
}

#[tokio::test]
async fn receipts_of_an_earlier_program_are_what_they_were_and_the_books_still_close() {
    let place = Place::new();
    earlier_store(&place, "");
    let store = place.open();
    let mut expected = booked();
    assert_eq!(receipts_of(&store, Incarnation(1)).await, expected);
    expected[7].claim = None;
    assert_eq!(receipts_of(&store, Incarnation(2)).await, expected);
    for call in 1..=6 {
        let last = expected.iter().rfind(|receipt| receipt.call == call);
        let stored = store.receipt(id(Incarnation(2), call)).await.unwrap();
        assert_eq!(stored.map(|stored| stored.receipt).as_ref(), last);
    }
    let lost = store.receipt(id(Incarnation(2), 7)).await.unwrap().unwrap();
    assert_eq!(lost.receipt.finish, Finish::GatewayLost);
    assert_eq!(row(&store, CEILING).await.receipts[0], units(2 * 93));
    drop(store);
    assert_eq!(audit(&place.path(), |_| {}).unwrap().findings, []);
    let raw = Connection::open(place.path()).unwrap();
    let said: String = raw
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(said, "ok");
}

#[tokio::test]
async fn calls_of_an_earlier_program_go_on_and_end_once() {
    let place = Place::new();
    earlier_store(&place, "");
    let store = place.open();
    let two = Incarnation(2);
    for twice in [good(2, MINER, 30), part(2, MINER, 30)] {
        let refused = append(&store, two, 9, vec![twice]).await;
        assert_eq!(refused, Err(AppendError::BeyondGrant { cell: MINER }));
    }
    let shrunk = append(&store, two, 9, vec![good(7, MINER, 2)]).await;
    assert_eq!(shrunk, Err(AppendError::BeyondGrant { cell: MINER }));
    assert_eq!(
        append(&store, two, 9, vec![good(7, MINER, 5)]).await,
        Ok(10)
    );
    // Three were booked by the part already, and under the ceiling, too.
    assert_eq!(row(&store, MINER).await.receipts[0], units(100 + 102));
}

#[tokio::test]
async fn a_row_that_was_damaged_before_is_not_mended_by_the_way() {
    let place = Place::new();
    earlier_store(
        &place,
        "UPDATE receipt SET admitted_ms = admitted_ms + 1 WHERE inc = 1 AND off = 4;
         UPDATE receipt SET attempts = x'01' WHERE inc = 2 AND off = 4;",
    );
    let refused = place.try_open(settings());
    assert!(matches!(refused, Err(OpenError::Damaged { .. })));
    let report = audit(&place.path(), |_| {}).unwrap();
    for kind in [Kind::Checksum, Kind::Value] {
        let named = report.findings.iter().any(|found| found.kind == kind);
        assert!(named, "{kind:?} is missing in {report}");
    }
}

#[tokio::test]
async fn a_call_that_ended_twice_before_is_refused_and_nothing_changes() {
    let place = Place::new();
    earlier_store(
        &place,
        "UPDATE receipt SET call = 2 WHERE inc = 2 AND off = 4;",
    );
    let refused = place.try_open(settings());
    assert!(
        matches!(refused, Err(OpenError::Damaged { .. })),
        "{refused:?}"
    );
    drop(refused);
    let raw = Connection::open(place.path()).unwrap();
    let version: i64 = raw
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    let receipts: i64 = raw
        .query_row("SELECT count(attempts) FROM receipt", [], |row| row.get(0))
        .unwrap();
    assert_eq!((version, receipts), (6, 18));
}
