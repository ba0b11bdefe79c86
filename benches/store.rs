//! Durable receipts a second through the store, against bare inserts of rows as long into
//! a table without rules, on the same disk in the same run: what the books cost. And cells
//! exchanged a second.

#[path = "harness/promise.rs"]
mod promise;
#[path = "harness/table.rs"]
mod table;

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

use self::promise::promise;
use self::table::{Samples, print, row};

const PERIOD: Period = Period::starting_at(3_600_000);
const A_COMMIT: [u64; 4] = [1, 16, 64, 256];
const RUN: Duration = Duration::from_millis(500);
/// Runs of each, in turn; the median counts.
const PAIRS: usize = 7;

/// Cells in one exchange.
const CELLS: [u64; 3] = [1, 16, 256];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    receipts().await;
    exchanges().await;
}

async fn receipts() {
    let mut rows = vec![row([
        "receipts a commit",
        "store, 1000/s",
        "bare inserts, 1000/s",
        "store / bare",
    ])];
    let mut at_64 = f64::NAN;
    for count in A_COMMIT {
        let (mut store, mut bare) = (Samples::default(), Samples::default());
        for _ in 0..PAIRS {
            store.add(through_the_store(count).await / 1000.0);
            bare.add(bare_inserts(count) / 1000.0);
        }
        // By pairs: what else the disk does in the meantime hits both alike.
        let ratio = store.over(&bare);
        rows.push(row([
            &count.to_string(),
            &store.told(1),
            &bare.told(1),
            &ratio.told(2),
        ]));
        if count == 64 {
            at_64 = ratio.median();
        }
    }
    print("Durable receipts, one append after the other", &rows);
    promise(
        at_64 >= 0.4,
        &format!("durable receipts at 64 a commit at least 0.4 of bare inserts ({at_64:.2})"),
    );
}

async fn exchanges() {
    let mut rows = vec![row(["cells an exchange", "1000 cells/s", "ms an exchange"])];
    for count in CELLS {
        let (mut cells, mut each) = (Samples::default(), Samples::default());
        for _ in 0..PAIRS {
            let rate = exchanged(count).await;
            cells.add(rate / 1000.0);
            each.add(float(count) / rate * 1000.0);
        }
        rows.push(row([&count.to_string(), &cells.told(1), &each.told(2)]));
    }
    print("Rights to spend, one exchange after the other", &rows);
}

/// Cells exchanged a second; each exchange raises each of them.
async fn exchanged(count: u64) -> f64 {
    let (_dir, store) = open();
    let incarnation = store.new_incarnation("bench").await.expect("the store");
    let mut cells = Vec::new();
    for at in 0..count {
        let task = format!("chat-{at}").into();
        cells.push(
            store
                .subject(Subject::Ceiling { task })
                .await
                .expect("the store"),
        );
    }
    let wanted = cells.iter().map(|cell| (*cell, Units::new(1 << 40)));
    let set = store.set_cells(PERIOD, wanted.collect()).await;
    set.expect("the store");
    let began = Instant::now();
    let mut seq = 0;
    while began.elapsed() < RUN {
        seq += 1;
        let asked = cells.iter().map(|cell| CellAsk {
            cell: *cell,
            target: Units::new(seq * 100),
            posted: Units::ZERO,
        });
        let ask = ExchangeAsk {
            incarnation,
            period: PERIOD,
            seq,
            cells: asked.collect(),
        };
        store.exchange(ask).await.expect("a grant");
    }
    rate(seq * count, began)
}

fn open() -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let clock = Arc::new(ManualClock::at(PERIOD.start_s() * 1000));
    let length = PeriodLength::from_secs(3600).expect("not zero");
    let path = dir.path().join("store.db");
    let store = SqliteStore::open(&path, SqliteSettings::default(), clock, length);
    (dir, store.expect("the store opens"))
}

/// Receipts a second, one append after the other.
async fn through_the_store(count: u64) -> f64 {
    let (_dir, store) = open();
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

fn rate(count: u64, began: Instant) -> f64 {
    float(count) / began.elapsed().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
