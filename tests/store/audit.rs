//! `taugate audit`: books that add up are said to, and every kind of damage is found.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output};

use rusqlite::Connection;
use smallvec::SmallVec;
use taugate::audit::{AuditError, Kind, Report, audit};
use taugate::registry::declaration::{DeclarationStore as _, Subject};
use taugate::store::sqlite::SqliteStore;
use taugate_ledger::engine::Engine as _;
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Receipt};
use taugate_ledger::units::Units;

use crate::place::{
    LENGTH_S, NEXT, PERIOD, Place, append, exchange, exchange_in, good, make_cell, part, units,
    with_cell,
};
use crate::processes::child;
use crate::seals::{seal, seal_of};

/// A period with everything in it: two miners and a ceiling, an incarnation that closed and
/// one that did not, parts, an answer after a failed attempt, a check, a refusal.
async fn full_store(place: &Place) -> (SqliteStore, CellId) {
    let (store, miner, one) = with_cell(place, 1_000).await;
    let other = make_cell(&store, 2, 1_000).await;
    let ceiling = Subject::Ceiling {
        task: "chat".into(),
    };
    let ceiling = store.subject(ceiling).await.expect("a subject");
    let wanted = vec![(ceiling, units(2_000))];
    store
        .set_cells(PERIOD, wanted)
        .await
        .expect("the store answers");
    fill(&store, one, [miner, other, ceiling]).await;
    for (cell, posted) in [(miner, 90), (other, 10), (ceiling, 100)] {
        exchange(&store, one, 2, (cell, posted, posted))
            .await
            .expect("the store answers");
    }
    store
        .close_period(one, PERIOD)
        .await
        .expect("the store answers");
    store.close(one).await.expect("the store answers");
    let two = store
        .new_incarnation("two")
        .await
        .expect("the store answers");
    fill(&store, two, [miner, other, ceiling]).await;
    assert!(seal(&store, 1).await.0);
    (store, miner)
}

async fn fill(store: &SqliteStore, inc: Incarnation, cells: [CellId; 3]) {
    let [miner, other, ceiling] = cells;
    for cell in cells {
        exchange(store, inc, 1, (cell, 300, 0))
            .await
            .expect("the store answers");
    }
    let under_ceiling = |mut receipt: Receipt| {
        receipt.held.push(ceiling);
        receipt
    };
    let mut after_failure = good(3, miner, 20);
    let failed = Attempt {
        cell: other,
        outcome: Outcome::Stalled,
        units: Units::ZERO,
        first_chunk_us: None,
        duration_us: 9,
    };
    after_failure.attempts.insert(0, failed);
    let mut check = good(4, other, 10);
    check.origin = Origin::Synthetic;
    let mut refused = good(5, miner, 0);
    refused.finish = Finish::Attempt(Outcome::Refused);
    refused.attempts[0].outcome = Outcome::Refused;
    refused.held = SmallVec::new();
    refused.held.push(miner);
    let receipts = vec![
        under_ceiling(part(1, miner, 10)),
        under_ceiling(good(2, miner, 30)),
        under_ceiling(good(1, miner, 40)),
        under_ceiling(after_failure),
        under_ceiling(check),
        refused,
    ];
    append(store, inc, 0, receipts)
        .await
        .expect("the store answers");
}

fn audited(place: &Place) -> Report {
    audit(&place.path(), |_| {}).expect("an audit")
}

fn run(place: &Place, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taugate"))
        .arg("audit")
        .arg(place.path())
        .args(more)
        .output()
        .expect("the binary runs")
}

#[tokio::test]
async fn whole_books_add_up_also_while_the_store_is_open() {
    let place = Place::new();
    let (store, _) = full_store(&place).await;
    let report = audited(&place);
    assert_eq!(report.findings, []);
    let sum = &report.periods[0];
    // Two incarnations; a miner's units and the same ones of the ceiling.
    assert_eq!((sum.receipts, sum.calls, sum.cells), (12, 10, 3));
    assert_eq!((sum.organic, sum.synthetic), (2 * 180, 2 * 20));
    assert_eq!(sum.in_doubt, 0);

    let said = run(&place, &[]);
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.ends_with("everything adds up\n"), "{text}");
    drop(store);
    assert_eq!(audited(&place).findings, []);
}

/// One statement of plain SQL each, and what an audit must call it. Where the row has a
/// checksum, that is found as well; the figures have to be found wrong without it, too.
const DAMAGES: [(&str, &[Kind]); 31] = [
    (
        "UPDATE cell SET granted = granted + 1 WHERE cell = 0",
        &[Kind::Checksum, Kind::Grant],
    ),
    (
        "UPDATE cell SET allotment = granted - 1, wanted = 0 WHERE cell = 1",
        &[Kind::Checksum, Kind::Bound],
    ),
    (
        "UPDATE cell SET wanted = wanted + 1 WHERE cell = 1",
        &[Kind::Bound],
    ),
    (
        "UPDATE cell SET crc = crc + 1 WHERE cell = 1",
        &[Kind::Checksum],
    ),
    ("DELETE FROM cell WHERE cell = 1", &[Kind::Orphan]),
    (
        "UPDATE lease SET granted = granted + 1 WHERE inc = 2 AND cell = 0",
        &[Kind::Checksum, Kind::Grant],
    ),
    (
        "UPDATE lease SET organic = organic - 1 WHERE inc = 2 AND cell = 0",
        &[Kind::Checksum, Kind::Counter, Kind::Seal],
    ),
    (
        "UPDATE lease SET synthetic = synthetic + 1 WHERE inc = 1 AND cell = 1",
        &[Kind::Counter, Kind::Bound],
    ),
    (
        "UPDATE lease SET seq = seq + 1 WHERE inc = 2 AND cell = 0",
        &[Kind::Checksum],
    ),
    (
        "DELETE FROM lease WHERE inc = 2 AND cell = 0",
        &[Kind::Orphan, Kind::Grant],
    ),
    (
        "UPDATE tally SET good = good + 1 WHERE inc = 2 AND cell = 0",
        &[Kind::Tally],
    ),
    (
        "UPDATE tally SET duration_us = duration_us - 1 WHERE inc = 2 AND cell = 0",
        &[Kind::Tally],
    ),
    (
        "UPDATE tally SET rev = 100 WHERE inc = 2 AND cell = 0",
        &[Kind::Tally],
    ),
    (
        "DELETE FROM tally WHERE inc = 2 AND cell = 1 AND origin = 0",
        &[Kind::Tally, Kind::Seal],
    ),
    (
        "UPDATE seal SET payload = CAST(replace(payload, 'chat', 'chut') AS BLOB)",
        &[Kind::Seal],
    ),
    ("UPDATE seal SET payload = x'ff'", &[Kind::Seal]),
    ("UPDATE seal SET revision = 2", &[Kind::Seal]),
    (
        "UPDATE receipt SET units = units + 1 WHERE inc = 2 AND off = 1",
        &[Kind::Checksum, Kind::Receipt, Kind::Counter],
    ),
    (
        "UPDATE receipt SET body = CAST(substr(body, 1, 2) || zeroblob(8) || substr(body, 11) \
         AS BLOB) WHERE inc = 1 AND off = 5",
        &[Kind::Checksum],
    ),
    (
        "UPDATE receipt SET body = CAST(replace(body, 'client00', 'somebody') AS BLOB) \
         WHERE inc = 1 AND off = 5",
        &[Kind::Checksum],
    ),
    (
        "UPDATE receipt SET call = 2, finish = 0 WHERE inc = 2 AND off = 3",
        &[Kind::Checksum, Kind::Outcome],
    ),
    (
        "UPDATE receipt SET body = CAST(replace(body, 'chat', 'none') AS BLOB) \
         WHERE inc = 2 AND off = 3",
        &[Kind::Orphan, Kind::Checksum],
    ),
    (
        "UPDATE receipt SET body = zeroblob(3) WHERE inc = 2 AND off = 3",
        &[Kind::Value, Kind::Counter],
    ),
    (
        "UPDATE receipt SET body = CAST(body || x'00' AS BLOB) WHERE inc = 2 AND off = 3",
        &[Kind::Value, Kind::Counter],
    ),
    (
        "UPDATE receipt SET body = CAST(x'02' || substr(body, 2) AS BLOB) \
         WHERE inc = 2 AND off = 3",
        &[Kind::Value, Kind::Counter],
    ),
    (
        "DELETE FROM receipt WHERE inc = 2 AND off = 1",
        &[Kind::Offset, Kind::Counter],
    ),
    ("DELETE FROM receipt WHERE inc = 2", &[Kind::Offset]),
    (
        "UPDATE inc_period SET next_off = next_off + 1 WHERE inc = 2",
        &[Kind::Offset],
    ),
    ("DELETE FROM incarnation WHERE inc = 1", &[Kind::Orphan]),
    (
        "UPDATE inc_period SET closed = 0 WHERE inc = 1",
        &[Kind::Orphan],
    ),
    (
        "INSERT INTO claim (client, key, body_sha256, inc, made_ms, period, call) \
         VALUES ('client00', 'k', x'00', 1, 0, 3600000, 99)",
        &[Kind::Claim],
    ),
];

#[tokio::test]
async fn each_kind_of_damage_is_found_and_named() {
    let place = Place::new();
    drop(full_store(&place).await);
    let whole = std::fs::read(place.path()).unwrap();
    for (damage, kinds) in DAMAGES {
        // What the damage before left is gone.
        for rest in ["-wal", "-shm"] {
            let mut name = place.path().into_os_string();
            name.push(rest);
            drop(std::fs::remove_file(name));
        }
        std::fs::write(place.path(), &whole).unwrap();
        let raw = Connection::open(place.path()).unwrap();
        raw.pragma_update(None, "ignore_check_constraints", true)
            .unwrap();
        assert!(raw.execute(damage, []).unwrap() > 0, "{damage}");
        drop(raw);
        let report = audited(&place);
        for kind in kinds {
            let named = report.findings.iter().any(|found| found.kind == *kind);
            assert!(named, "{damage}: {kind:?} is missing in {report}");
        }
    }
}

/// Whether an audit finds anything, and that it is the seal.
fn seal_is_found(place: &Place) -> bool {
    let report = audited(place);
    let all = report.findings.iter();
    let seals = all.filter(|found| found.kind == Kind::Seal).count();
    assert_eq!(report.findings.len(), seals, "{report}");
    seals > 0
}

/// One miner of whose 100 units 60 are granted, and 25 are proven by the first receipt.
async fn with_a_receipt(place: &Place) -> (SqliteStore, CellId, Incarnation) {
    let (store, cell, inc) = with_cell(place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0))
        .await
        .expect("the store answers");
    append(&store, inc, 0, vec![good(1, cell, 25)])
        .await
        .expect("the store answers");
    (store, cell, inc)
}

#[tokio::test]
async fn a_seal_may_lag_behind_proof_that_came_out_of_what_was_in_doubt() {
    let place = Place::new();
    let (store, cell, inc) = with_a_receipt(&place).await;
    assert!(seal(&store, 1).await.0);
    append(&store, inc, 1, vec![good(2, cell, 10)])
        .await
        .unwrap();
    assert!(!seal_is_found(&place), "it is sealed anew soon");
    exchange(&store, inc, 2, (cell, 60, 35)).await.unwrap();
    assert!(!seal_is_found(&place));
    // Of a period that was sealed nobody is granted more.
    exchange(&store, inc, 3, (cell, 80, 35)).await.unwrap();
    assert!(seal_is_found(&place));
    assert!(seal(&store, 2).await.0);
    assert!(!seal_is_found(&place));
    // An older revision is held to its digest, too.
    let raw = Connection::open(place.path()).unwrap();
    let damage = "UPDATE seal SET payload = CAST(replace(payload, 'chat', 'chut') AS BLOB)
                  WHERE revision = 1";
    assert_eq!(raw.execute(damage, []).unwrap(), 1);
    drop(raw);
    assert!(seal_is_found(&place));
}

#[tokio::test]
async fn units_of_a_seal_are_those_of_the_books_where_nothing_was_in_doubt() {
    let place = Place::new();
    let (store, cell, inc) = with_a_receipt(&place).await;
    exchange(&store, inc, 2, (cell, 25, 25)).await.unwrap();
    assert!(seal(&store, 1).await.0);
    exchange(&store, inc, 3, (cell, 26, 25)).await.unwrap();
    append(&store, inc, 1, vec![good(2, cell, 1)])
        .await
        .unwrap();
    assert!(seal_is_found(&place));
}

#[tokio::test]
async fn a_seal_says_what_the_books_do_once_a_later_period_was_sealed_by_another() {
    let place = Place::new();
    let (store, cell, one) = with_a_receipt(&place).await;
    assert!(seal(&store, 1).await.0);
    append(&store, one, 1, vec![good(2, cell, 10)])
        .await
        .unwrap();
    // Another spends in the next period, and that one is sealed.
    place.clock.set(NEXT.start_s() * 1000);
    let two = store.new_incarnation("two").await.unwrap();
    let wanted = vec![(cell, units(100))];
    store.set_cells(NEXT, wanted).await.unwrap();
    exchange_in(&store, NEXT, two, 1, (cell, 10, 0))
        .await
        .unwrap();
    assert!(!seal_is_found(&place));
    assert!(seal_of(&store, NEXT, 1).await.0);
    assert!(seal_is_found(&place), "this one was to be sealed before");
    assert!(seal(&store, 2).await.0);
    assert!(!seal_is_found(&place));
    // Now also what is in doubt is known for good.
    store.close_period(one, PERIOD).await.unwrap();
    assert!(seal_is_found(&place));
}

#[tokio::test]
async fn a_seal_says_what_the_books_do_once_all_closed_and_a_much_later_one_was_made() {
    let place = Place::new();
    let (store, cell, inc) = with_a_receipt(&place).await;
    exchange(&store, inc, 2, (cell, 25, 25)).await.unwrap();
    assert!(seal(&store, 1).await.0);
    // An attempt without units: only the attempts differ.
    let mut refused = good(2, cell, 0);
    refused.finish = Finish::Attempt(Outcome::Refused);
    refused.attempts[0].outcome = Outcome::Refused;
    append(&store, inc, 1, vec![refused]).await.unwrap();
    store.close_period(inc, PERIOD).await.unwrap();
    assert!(seal_of(&store, NEXT, 1).await.0);
    assert!(!seal_is_found(&place), "that is soon after");
    let much_later = Period::starting_at(PERIOD.start_s() + 3 * u64::from(LENGTH_S));
    assert!(seal_of(&store, much_later, 1).await.0);
    assert!(seal_is_found(&place));
    assert!(seal(&store, 2).await.0);
    assert!(!seal_is_found(&place));
}

#[tokio::test]
async fn a_second_end_of_a_call_is_found_also_where_no_index_forbids_it() {
    let place = Place::new();
    drop(full_store(&place).await);
    let raw = Connection::open(place.path()).unwrap();
    let second_end = "UPDATE receipt SET call = 2 WHERE inc = 2 AND off = 3";
    assert!(raw.execute(second_end, []).is_err(), "the index forbids it");
    raw.execute_batch(
        "DROP INDEX receipt_end;
         CREATE INDEX receipt_end ON receipt (period, inc, call) WHERE finish <> 0",
    )
    .unwrap();
    assert_eq!(raw.execute(second_end, []).unwrap(), 1);
    drop(raw);
    let report = audited(&place);
    for kind in [Kind::Checksum, Kind::Outcome] {
        let named = report.findings.iter().any(|found| found.kind == kind);
        assert!(named, "{kind:?} is missing in {report}");
    }
}

#[tokio::test]
async fn what_does_not_add_up_is_shown_with_its_row() {
    let place = Place::new();
    drop(full_store(&place).await);
    let raw = Connection::open(place.path()).unwrap();
    let damage = "UPDATE tally SET good = good + 1 WHERE inc = 2 AND cell = 0";
    assert_eq!(raw.execute(damage, []).unwrap(), 1);
    drop(raw);
    let said = run(&place, &[]);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("counters say good 4 "), "{text}");
    assert!(
        text.contains("    tally: period=3600000 inc=2 cell=0 origin=0 good=4 "),
        "{text}"
    );
    assert!(text.ends_with("1 thing does not add up\n"), "{text}");

    let said = run(&place, &["--json"]);
    assert_eq!(said.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(json["findings"][0]["kind"], "tally");
}

#[tokio::test]
async fn what_is_no_store_is_told_and_nothing_is_made() {
    let place = Place::new();
    assert!(matches!(
        audit(&place.path(), |_| {}),
        Err(AuditError::Missing(_))
    ));
    let said = run(&place, &[]);
    assert_eq!(said.status.code(), Some(2));
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("does not exist"), "{text}");
    assert!(!place.path().exists());

    std::fs::write(place.path(), "a text of some length that is no database").unwrap();
    assert!(matches!(
        audit(&place.path(), |_| {}),
        Err(AuditError::Unreadable(..) | AuditError::NotAStore(_))
    ));
    assert_eq!(run(&place, &[]).status.code(), Some(2));
    std::fs::remove_file(place.path()).unwrap();

    drop(place.open());
    let raw = Connection::open(place.path()).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    assert!(matches!(
        audit(&place.path(), |_| {}),
        Err(AuditError::OtherSchema { found: 99, .. })
    ));
}

#[tokio::test]
async fn a_store_that_another_process_writes_to_adds_up_at_every_look() {
    const LOOKS: usize = 10;
    let place = Place::new();
    let mut child = child("append", &place.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut seen, mut told) = (0, BTreeMap::new());
    for _ in 0..LOOKS {
        // Something was appended between two looks: what was told may be older than the last.
        while told.values().sum::<u64>() < seen + 5 {
            let line = lines.next().expect("the child goes on").unwrap();
            if let Some((inc, next)) = line.strip_prefix("ack ").and_then(|of| of.split_once(' ')) {
                told.insert(inc.to_owned(), next.parse().unwrap());
            }
        }
        let report = audited(&place);
        assert_eq!(report.findings, []);
        assert!(report.receipts() > seen, "{report}");
        seen = report.receipts();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let report = audited(&place);
    assert_eq!(report.findings, []);
}
