//! The engines that are tried, behind one face: calls go to the engine, questions to what it
//! keeps.

use std::sync::Arc;

use parking_lot::Mutex;
use taugate::clock::ManualClock;
use taugate::identity::hotkey::Hotkey;
use taugate::registry::declaration::{DeclarationStore as _, Subject};
use taugate::store::sqlite::{SqliteSettings, SqliteStore};
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, BoxFuture, Engine, ExchangeAsk, ExchangeError,
    ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::model::{ModelCell, ModelStore};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Outcome, Receipt};
use taugate_ledger::units::Units;

use crate::PERIOD;

pub(crate) const LENGTH_S: u32 = 3600;

/// A quarter into the period.
pub(crate) const NOW_MS: u64 = (1_000 * LENGTH_S as u64 + 900) * 1000;

/// An engine and what it keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    rows: Rows,
    /// Where its file is, if it has one.
    _dir: Option<tempfile::TempDir>,
    /// All that were started, in order.
    incs: Mutex<Vec<Incarnation>>,
}

#[derive(Debug)]
enum Rows {
    Model(ModelStore),
    Sqlite(SqliteStore),
}

/// A cell and what is proven of it, by origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cell: ModelCell,
    pub(crate) posted: [Units; 2],
}

// === impl Kept ===

impl Kept {
    pub(crate) fn model() -> Self {
        Self::of(Rows::Model(ModelStore::new()), None)
    }

    pub(crate) fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let settings = SqliteSettings {
            free_bytes_min: 0,
            ..SqliteSettings::default()
        };
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let length = PeriodLength::from_secs(LENGTH_S).expect("not zero");
        let path = dir.path().join("store.db");
        let store = SqliteStore::open(&path, settings, clock, length).expect("the store opens");
        Self::of(Rows::Sqlite(store), Some(dir))
    }

    fn of(rows: Rows, dir: Option<tempfile::TempDir>) -> Self {
        Self {
            rows,
            _dir: dir,
            incs: Mutex::new(Vec::new()),
        }
    }

    fn engine(&self) -> &dyn Engine {
        match &self.rows {
            Rows::Model(store) => store,
            Rows::Sqlite(store) => store,
        }
    }

    pub(crate) async fn start(&self, gateway: &str) -> Incarnation {
        let inc = match &self.rows {
            Rows::Model(store) => store.new_incarnation(gateway),
            Rows::Sqlite(store) => store.new_incarnation(gateway).await.expect("it answers"),
        };
        self.incs.lock().push(inc);
        inc
    }

    /// A miner's cell. Numbers are given from 0, in order.
    pub(crate) async fn make_cell(&self, number: u8, wanted: u64) -> CellId {
        let cell = CellId(number.into());
        if let Rows::Sqlite(store) = &self.rows {
            let subject = Subject::Miner {
                hotkey: Hotkey::from_bytes([number; 32]),
                task: "chat".into(),
            };
            assert_eq!(store.subject(subject).await, Ok(cell));
        }
        self.set(cell, wanted).await;
        cell
    }

    pub(crate) async fn set(&self, cell: CellId, wanted: u64) {
        let wanted = Units::new(wanted);
        match &self.rows {
            Rows::Model(store) => store.set_wanted(PERIOD, cell, wanted).expect("a check"),
            Rows::Sqlite(store) => store
                .set_cells(PERIOD, vec![(cell, wanted)])
                .await
                .expect("it answers"),
        }
    }

    /// What stands of a cell; the books close.
    pub(crate) async fn row(&self, cell: CellId) -> Row {
        match &self.rows {
            Rows::Model(store) => {
                store.check().expect("the books close");
                let mut posted = [Units::ZERO; 2];
                for inc in self.incs.lock().iter() {
                    let lease = store.lease(PERIOD, cell, *inc).unwrap_or_default();
                    for (sum, more) in posted.iter_mut().zip(lease.posted) {
                        *sum = sum.saturating_add(more);
                    }
                }
                let cell = store.cell(PERIOD, cell).expect("the cell's row");
                Row { cell, posted }
            }
            Rows::Sqlite(store) => {
                let books = store.books(PERIOD).await.expect("it answers");
                assert!(books.iter().all(|row| row.closes()), "{books:#?}");
                let row = books.iter().find(|row| row.cell == cell);
                let row = row.expect("the cell's row");
                let cell = ModelCell {
                    wanted: row.wanted,
                    allotment: row.allotment,
                    granted: row.granted,
                };
                let posted = row.posted;
                Row { cell, posted }
            }
        }
    }

    /// Organic attempts that ended so.
    pub(crate) async fn attempts(&self, cell: CellId, outcome: Outcome) -> u64 {
        match &self.rows {
            Rows::Model(store) => store.tally(PERIOD, cell, Origin::Organic, outcome),
            Rows::Sqlite(store) => {
                let tallies = store.tallies(PERIOD).await.expect("it answers");
                let at = Outcome::ALL.iter().position(|it| *it == outcome);
                let at = at.expect("one of all");
                let of_cell = tallies.iter().filter(|tally| tally.cell == cell);
                of_cell.map(|tally| tally.attempts[at]).sum()
            }
        }
    }

    /// The last that was booked of a call.
    pub(crate) async fn receipt(&self, incarnation: Incarnation, call: u64) -> Option<Receipt> {
        match &self.rows {
            Rows::Model(store) => {
                let kept = store.receipts(PERIOD, incarnation);
                kept.into_iter().rfind(|receipt| receipt.call == call)
            }
            Rows::Sqlite(store) => {
                let period = PERIOD;
                let id = RequestId {
                    period,
                    incarnation,
                    call,
                };
                let stored = store.receipt(id).await.expect("it answers");
                stored.map(|stored| stored.receipt)
            }
        }
    }
}

impl Engine for Kept {
    fn exchange(&self, ask: ExchangeAsk) -> BoxFuture<'_, Result<ExchangeReply, ExchangeError>> {
        self.engine().exchange(ask)
    }

    fn append(&self, ask: AppendAsk) -> BoxFuture<'_, Result<AppendReply, AppendError>> {
        self.engine().append(ask)
    }

    fn close_period(
        &self,
        incarnation: Incarnation,
        period: Period,
    ) -> BoxFuture<'_, Result<(), ExchangeError>> {
        self.engine().close_period(incarnation, period)
    }

    fn close(&self, incarnation: Incarnation) -> BoxFuture<'_, Result<(), ExchangeError>> {
        self.engine().close(incarnation)
    }
}
