//! The ledger's schedules of faults, with SQLite as the engine: each call goes to it and to
//! the reference engine, and both must answer alike; in the end their books are the same.
//!
//! `TAUGATE_SCHEDULES` says how many are tried; the rest is as in the ledger's own suite.

#[path = "../../crates/ledger/tests/schedules/consumer.rs"]
mod consumer;
#[path = "../../crates/ledger/tests/schedules/gateway.rs"]
mod gateway;
#[path = "../../crates/ledger/tests/schedules/plan.rs"]
mod plan;
#[path = "../../crates/ledger/tests/schedules/report.rs"]
mod report;
#[path = "../../crates/ledger/tests/schedules/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use taugate::clock::ManualClock;
use taugate::identity::hotkey::Hotkey;
use taugate::registry::declaration::{DeclarationStore as _, Subject};
use taugate::store::sqlite::{SqliteSettings, SqliteStore};
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, Engine as _, ExchangeAsk, ExchangeError, ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::model::{ModelCell, ModelStore};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio::runtime::Runtime;

use self::plan::Plan;
use self::report::{Proof, number, try_all};
use self::world::{Broken, CELLS, Store, Tally, World};

const LENGTH_S: u32 = 60;

/// One store that many schedules use, each in periods of its own.
struct Desk {
    runtime: Runtime,
    store: SqliteStore,
    clock: Arc<ManualClock>,
    first: Period,
    _dir: tempfile::TempDir,
}

/// SQLite and the model, asked alike.
struct Twins<'a> {
    desk: &'a Desk,
    model: ModelStore,
}

// === impl Desk ===

impl Desk {
    fn new() -> Self {
        // In memory where that is a folder: what a disk loses is tried elsewhere.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a scratch directory");
        let settings = SqliteSettings {
            free_bytes_min: 0,
            grace: Duration::from_secs(600),
            ..SqliteSettings::default()
        };
        let first = Period::starting_at(6_000);
        let clock = Arc::new(ManualClock::at(6_000_000));
        let length = PeriodLength::from_secs(LENGTH_S).expect("a length");
        let shared = Arc::<ManualClock>::clone(&clock);
        let store = SqliteStore::open(&dir.path().join("store.db"), settings, shared, length);
        let desk = Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            store: store.expect("the store opens"),
            clock,
            first,
            _dir: dir,
        };
        for (number, cell) in (0..).zip(CELLS) {
            let subject = Subject::Miner {
                hotkey: Hotkey::from_bytes([number; 32]),
                task: "chat".into(),
            };
            let subject = desk.runtime.block_on(desk.store.subject(subject));
            assert_eq!(subject, Ok(cell));
        }
        desk
    }

    fn run(&mut self, plan: &Plan) -> (Tally, Result<(), Broken>) {
        let start_s = self.first.start_s();
        self.first = Period::starting_at(start_s + 10 * u64::from(LENGTH_S));
        // The period in the middle runs; a schedule opens three.
        self.clock.set((start_s + 90) * 1000);
        // Shows which number was given last, also after a schedule that broke off.
        let last = self.runtime.block_on(self.store.new_incarnation("last"));
        let last = last.expect("it answers");
        let closed = self.runtime.block_on(self.store.close(last));
        closed.expect("it answers");
        let twins = Twins {
            desk: self,
            model: ModelStore::continuing(last),
        };
        let mut world = World::new(&twins, plan, Period::starting_at(start_s));
        let held = world.run(plan);
        let tally = world.tally;
        let periods = (0..3).map(|at| start_s + at * u64::from(LENGTH_S));
        periods.for_each(|start_s| twins.compare(Period::starting_at(start_s)));
        (tally, held)
    }
}

// === impl Twins ===

impl Twins<'_> {
    /// What both keep of a period.
    fn compare(&self, period: Period) {
        let books = self.desk.runtime.block_on(self.desk.store.books(period));
        for row in books.expect("it answers") {
            assert!(row.closes(), "{row:?}");
            let cell = ModelCell {
                wanted: row.wanted,
                allotment: row.allotment,
                granted: row.granted,
            };
            assert_eq!(self.model.cell(period, row.cell), Some(cell));
        }
    }
}

impl Store for Twins<'_> {
    fn model(&self) -> &ModelStore {
        &self.model
    }

    fn new_incarnation(&self, gateway: &str) -> Incarnation {
        let start = self.desk.store.new_incarnation(gateway);
        let inc = self.desk.runtime.block_on(start).expect("it answers");
        assert_eq!(self.model.new_incarnation(gateway), inc);
        inc
    }

    fn set_wanted(&self, period: Period, cell: CellId, wanted: Units) {
        let set = self.desk.store.set_cells(period, vec![(cell, wanted)]);
        self.desk.runtime.block_on(set).expect("it answers");
        self.model
            .set_wanted(period, cell, wanted)
            .expect("a check");
    }

    fn exchange(&self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError> {
        let exchange = self.desk.store.exchange(ask.clone());
        let reply = self.desk.runtime.block_on(exchange);
        assert_eq!(reply, self.model.exchange(ask), "{ask:?}");
        reply
    }

    fn append(&self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
        let append = self.desk.store.append(ask.clone());
        let reply = self.desk.runtime.block_on(append);
        assert_eq!(reply, self.model.append(ask), "{ask:?}");
        reply
    }

    fn close_period(&self, inc: Incarnation, period: Period) -> Result<(), ExchangeError> {
        let close = self.desk.store.close_period(inc, period);
        let done = self.desk.runtime.block_on(close);
        assert_eq!(done, self.model.close_period(inc, period));
        done
    }

    fn close(&self, inc: Incarnation) -> Result<(), ExchangeError> {
        let done = self.desk.runtime.block_on(self.desk.store.close(inc));
        assert_eq!(done, self.model.close(inc));
        done
    }
}

#[test]
fn no_schedule_of_faults_breaks_a_promise_over_sqlite() {
    let proof = Proof {
        name: "sqlite schedules",
        first: number("TAUGATE_FIRST").unwrap_or(0),
        count: number("TAUGATE_SCHEDULES").unwrap_or(100),
        may_lose: false,
    };
    try_all(&proof, || {
        let mut desk = Desk::new();
        move |plan: &Plan| desk.run(plan)
    });
}
