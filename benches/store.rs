//! Durable receipts a second through the store, against bare inserts of rows as long into
//! a table without rules, on the same disk in the same run: what the books cost. And cells
//! exchanged a second.

#[path = "harness/promise.rs"]
mod promise;
#[path = "harness/table.rs"]
mod table;

use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use taugate::clock::ManualClock;
use taugate::identity::hotkey::Hotkey;
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

/// Miners that receipts of one commit are spread over.
const MINERS: u8 = 200;

/// Cells in one exchange.
const CELLS: [u64; 3] = [1, 16, 256];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    receipts().await;
    exchanges().await;
}

/// What the receipts of a period are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// Each holds the cell of one of many miners, and the ceiling's beside it.
    OverMiners,
    /// The same, where a call of the period was booked in part: then it is looked up for each
    /// receipt whether its call was.
    WithParts,
    /// All hold one and the same cell.
    OneCell,
}

// === impl Spread ===

impl Spread {
    fn as_str(self) -> &'static str {
        match self {
            Self::OverMiners => "200 miners under a ceiling",
            Self::WithParts => "the same, parts in the period",
            Self::OneCell => "one cell",
        }
    }
}

async fn receipts() {
    let mut rows = vec![row([
        "receipts a commit",
        "of",
        "store, 1000/s",
        "bare inserts, 1000/s",
        "store / bare",
    ])];
    let all = A_COMMIT.map(|count| (count, Spread::OverMiners));
    let others = [Spread::WithParts, Spread::OneCell].map(|spread| (64, spread));
    let mut promised = f64::NAN;
    for (count, spread) in all.into_iter().chain(others) {
        let (mut store, mut bare) = (Samples::default(), Samples::default());
        for _ in 0..PAIRS {
            store.add(through_the_store(count, spread).await / 1000.0);
            bare.add(bare_inserts(count) / 1000.0);
        }
        // By pairs: what else the disk does in the meantime hits both alike.
        let ratio = store.over(&bare);
        rows.push(row([
            &count.to_string(),
            spread.as_str(),
            &store.told(1),
            &bare.told(1),
            &ratio.told(2),
        ]));
        if (count, spread) == (64, Spread::OverMiners) {
            promised = ratio.median();
        }
    }
    print("Durable receipts, one append after the other", &rows);
    promise(
        promised >= 0.4,
        &format!(
            "durable receipts at 64 a commit, spread over {MINERS} miners, at least 0.4 of bare \
             inserts ({promised:.2})"
        ),
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
async fn through_the_store(count: u64, spread: Spread) -> f64 {
    let (_dir, store) = open();
    let incarnation = store.new_incarnation("bench").await.expect("the store");
    let (miners, ceiling) = cells(&store, incarnation, spread).await;
    let held = |call: u64| {
        let at = usize::try_from(call).unwrap_or(0) % miners.len();
        [Some(miners[at]), ceiling].into_iter().flatten().collect()
    };
    let ask = |first_offset, receipts| AppendAsk {
        incarnation,
        period: PERIOD,
        first_offset,
        receipts,
    };
    let mut next = 0;
    if spread == Spread::WithParts {
        let part = Receipt {
            finish: Finish::Running,
            ..receipt(u64::from(u32::MAX), held(0))
        };
        let booked = store.append(ask(next, vec![part])).await;
        next = booked.expect("durable").next_offset;
    }
    let (before, began) = (next, Instant::now());
    while began.elapsed() < RUN {
        let receipts = (1..=count).map(|at| receipt(next + at, held(next + at)));
        let booked = store.append(ask(next, receipts.collect())).await;
        next = booked.expect("durable").next_offset;
    }
    rate(next - before, began)
}

/// Cells of miners that may spend much, and of the ceiling over them where there is one.
async fn cells(
    store: &SqliteStore,
    incarnation: Incarnation,
    spread: Spread,
) -> (Vec<CellId>, Option<CellId>) {
    let miners = if spread == Spread::OneCell { 1 } else { MINERS };
    let task = || "chat".into();
    let mut subjects: Vec<_> = (0..miners)
        .map(|number| Subject::Miner {
            hotkey: Hotkey::from_bytes([number; 32]),
            task: task(),
        })
        .collect();
    subjects.push(Subject::Ceiling { task: task() });
    let mut all = Vec::new();
    for subject in subjects {
        all.push(store.subject(subject).await.expect("the store"));
    }
    let much = Units::new(1 << 40);
    let wanted = all.iter().map(|cell| (*cell, much)).collect();
    store.set_cells(PERIOD, wanted).await.expect("the store");
    let asked = all.iter().map(|cell| CellAsk {
        cell: *cell,
        target: much,
        posted: Units::ZERO,
    });
    let ask = ExchangeAsk {
        incarnation,
        period: PERIOD,
        seq: 1,
        cells: asked.collect(),
    };
    store.exchange(ask).await.expect("a grant");
    let ceiling = all.pop().filter(|_| spread != Spread::OneCell);
    (all, ceiling)
}

fn receipt(call: u64, held: SmallVec<[CellId; 3]>) -> Receipt {
    let cell = held[0];
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
        held,
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
