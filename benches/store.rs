//! Durable receipts a second through the store, against bare inserts of rows as long into
//! a table without rules, on the same disk in the same run: what the books cost.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;
use taugate::clock::ManualClock;
use taugate::registry::declaration::{DeclarationStore as _, Subject};
use taugate::store::sqlite::{SqliteSettings, SqliteStore};
use taugate_ledger::engine::{AppendAsk, CellAsk, Engine as _, ExchangeAsk};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;
use tokio::time::Instant;

const PERIOD: Period = Period::starting_at(3_600_000);
const A_COMMIT: [u64; 4] = [1, 16, 64, 256];
const RUN: Duration = Duration::from_millis(500);
/// Runs of each, in turn; the median counts.
const PAIRS: usize = 7;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut out = std::io::stdout();
    for count in A_COMMIT {
        let mut pairs = Vec::new();
        for _ in 0..PAIRS {
            pairs.push((through_the_store(count).await, bare_inserts(count)));
        }
        // By ratio: what else the disk does in the meantime hits both of a pair alike.
        pairs.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
        let (store, bare) = pairs[PAIRS / 2];
        writeln!(
            out,
            "{count:4} a commit: store {store:8.0}/s, bare {bare:8.0}/s, ratio {:.2}",
            store / bare
        )
        .expect("standard output");
    }
}

/// Receipts a second, one append after the other.
async fn through_the_store(count: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let clock = Arc::new(ManualClock::at(PERIOD.start_s() * 1000));
    let length = PeriodLength::from_secs(3600).expect("not zero");
    let path = dir.path().join("store.db");
    let store = SqliteStore::open(&path, SqliteSettings::default(), clock, length)
        .expect("the store opens");
    let (incarnation, cell) = granted(&store).await;
    let began = Instant::now();
    let mut next = 0;
    while began.elapsed() < RUN {
        let ask = AppendAsk {
            incarnation,
            period: PERIOD,
            first_offset: next,
            receipts: (1..=count).map(|at| receipt(next + at, cell)).collect(),
        };
        next = store.append(ask).await.expect("durable").next_offset;
    }
    rate(next, began)
}

async fn granted(store: &SqliteStore) -> (Incarnation, CellId) {
    let incarnation = store.new_incarnation("bench").await.expect("the store");
    let task = "chat".into();
    let cell = store.subject(Subject::Ceiling { task }).await;
    let cell = cell.expect("the store");
    let all = Units::new(1 << 40);
    store
        .set_cells(PERIOD, vec![(cell, all)])
        .await
        .expect("the store");
    let ask = ExchangeAsk {
        incarnation,
        period: PERIOD,
        seq: 1,
        cells: vec![CellAsk {
            cell,
            target: all,
            posted: Units::ZERO,
        }],
    };
    store.exchange(ask).await.expect("a grant");
    (incarnation, cell)
}

fn receipt(call: u64, cell: CellId) -> Receipt {
    Receipt {
        call,
        origin: Origin::Organic,
        client: "client00".into(),
        task: "chat".into(),
        admitted_ms: PERIOD.start_s() * 1000,
        finish: Finish::Attempt(Outcome::Good),
        quality: Quality::Exact,
        units: Units::new(100),
        prompt_units: Units::new(10),
        held: smallvec![cell],
        attempts: smallvec![Attempt {
            cell,
            outcome: Outcome::Good,
            units: Units::new(100),
            first_chunk_us: Some(1_000),
            duration_us: 5_000,
        }],
        digest: [7; 32],
        labels: Vec::new(),
        claim: None,
    }
}

/// Rows a second of a receipt's length, by its place alone.
fn bare_inserts(count: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let conn = rusqlite::Connection::open(dir.path().join("bare.db")).expect("a file");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 4096;
         CREATE TABLE row (at INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT",
    )
    .expect("a table");
    let began = Instant::now();
    let mut next = 0;
    while began.elapsed() < RUN {
        conn.execute_batch("BEGIN IMMEDIATE")
            .expect("a transaction");
        for _ in 0..count {
            conn.prepare_cached("INSERT INTO row (bytes) VALUES (?1)")
                .and_then(|mut insert| insert.execute([&[7_u8; 133][..]]))
                .expect("a row");
            next += 1;
        }
        conn.execute_batch("COMMIT").expect("durable");
    }
    rate(next, began)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}
