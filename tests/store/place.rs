//! A store in a directory of its own, and the words in which tests speak to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;
use taugate::clock::ManualClock;
use taugate::identity::hotkey::Hotkey;
use taugate::registry::declaration::{DeclarationStore as _, Subject};
use taugate::store::BookRow;
use taugate::store::sqlite::{OpenError, SqliteSettings, SqliteStore};
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, CellAsk, CellGrant, Engine as _, ExchangeAsk,
    ExchangeError, ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;

pub(crate) const LENGTH_S: u32 = 3600;
pub(crate) const PERIOD: Period = Period::starting_at(1_000 * 3600);
pub(crate) const NEXT: Period = Period::starting_at(1_001 * 3600);
/// A quarter into the period.
pub(crate) const NOW_MS: u64 = (1_000 * 3600 + 900) * 1000;

pub(crate) fn length() -> PeriodLength {
    PeriodLength::from_secs(LENGTH_S).expect("not zero")
}

/// A store in a directory of its own, with its clock.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a scratch directory"),
            clock: Arc::new(ManualClock::at(NOW_MS)),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    /// Opens it. A child that another test starts holds our lock between its fork and its
    /// exec, so that a lock is waited for a little.
    pub(crate) fn try_open(&self, settings: SqliteSettings) -> Result<SqliteStore, OpenError> {
        for _ in 0..100 {
            match self.open_once(settings) {
                Err(OpenError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
                opened => return opened,
            }
        }
        self.open_once(settings)
    }

    pub(crate) fn open_once(&self, settings: SqliteSettings) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(
            &self.path(),
            settings,
            Arc::<ManualClock>::clone(&self.clock),
            length(),
        )
    }

    pub(crate) fn open(&self) -> SqliteStore {
        self.try_open(settings()).expect("the store opens")
    }
}

pub(crate) fn settings() -> SqliteSettings {
    SqliteSettings {
        free_bytes_min: 0,
        ..SqliteSettings::default()
    }
}

pub(crate) fn hotkey(number: u8) -> Hotkey {
    Hotkey::from_bytes([number; 32])
}

pub(crate) fn units(amount: u64) -> Units {
    Units::new(amount)
}

/// A store with a miner's cell of that size and one incarnation.
pub(crate) async fn with_cell(place: &Place, wanted: u64) -> (SqliteStore, CellId, Incarnation) {
    let store = place.open();
    let cell = make_cell(&store, 1, wanted).await;
    let inc = store.new_incarnation("one").await.expect("an incarnation");
    (store, cell, inc)
}

pub(crate) async fn make_cell(store: &SqliteStore, number: u8, wanted: u64) -> CellId {
    let subject = Subject::Miner {
        hotkey: hotkey(number),
        task: "chat".into(),
    };
    let cell = store.subject(subject).await.expect("a subject");
    store
        .set_cells(PERIOD, vec![(cell, units(wanted))])
        .await
        .expect("a cell");
    cell
}

pub(crate) async fn exchange(
    store: &SqliteStore,
    inc: Incarnation,
    seq: u64,
    (cell, target, posted): (CellId, u64, u64),
) -> Result<CellGrant, ExchangeError> {
    exchange_in(store, PERIOD, inc, seq, (cell, target, posted)).await
}

pub(crate) async fn exchange_in(
    store: &SqliteStore,
    period: Period,
    incarnation: Incarnation,
    seq: u64,
    (cell, target, posted): (CellId, u64, u64),
) -> Result<CellGrant, ExchangeError> {
    let ask = ExchangeAsk {
        incarnation,
        period,
        seq,
        cells: vec![CellAsk {
            cell,
            target: units(target),
            posted: units(posted),
        }],
    };
    let ExchangeReply { cells, .. } = store.exchange(ask).await?;
    Ok(cells[0])
}

pub(crate) async fn append(
    store: &SqliteStore,
    incarnation: Incarnation,
    first_offset: u64,
    receipts: Vec<Receipt>,
) -> Result<u64, AppendError> {
    let ask = AppendAsk {
        incarnation,
        period: PERIOD,
        first_offset,
        receipts,
    };
    let AppendReply { next_offset } = store.append(ask).await?;
    Ok(next_offset)
}

/// A good call of some units.
pub(crate) fn good(call: u64, cell: CellId, amount: u64) -> Receipt {
    let attempt = Attempt {
        cell,
        outcome: Outcome::Good,
        units: units(amount),
        first_chunk_us: Some(1_000),
        duration_us: 5_000,
    };
    Receipt {
        call,
        origin: Origin::Organic,
        client: "client00".into(),
        task: "chat".into(),
        admitted_ms: NOW_MS,
        finish: Finish::Attempt(Outcome::Good),
        quality: Quality::Exact,
        units: units(amount),
        prompt_units: Units::ZERO,
        held: smallvec![cell],
        attempts: smallvec![attempt],
        digest: [7; 32],
        labels: vec![("team".to_owned(), "a".to_owned())],
        claim: None,
    }
}

pub(crate) fn part(call: u64, cell: CellId, amount: u64) -> Receipt {
    Receipt {
        finish: Finish::Running,
        ..good(call, cell, amount)
    }
}

pub(crate) fn id(incarnation: Incarnation, call: u64) -> RequestId {
    RequestId {
        period: PERIOD,
        incarnation,
        call,
    }
}

pub(crate) async fn row(store: &SqliteStore, cell: CellId) -> BookRow {
    let books = store.books(PERIOD).await.expect("books");
    assert!(books.iter().all(BookRow::closes), "{books:#?}");
    books
        .into_iter()
        .find(|row| row.cell == cell)
        .expect("the cell's row")
}
