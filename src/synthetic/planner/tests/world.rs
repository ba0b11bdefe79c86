//! Books, a plan store and miners, all in one process and in tokio's time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use taugate_ledger::engine::Engine;
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::model::ModelStore;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::table::Table;
use taugate_ledger::units::Units;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::books::{Books, BooksSettings};
use crate::clock::Clock;
use crate::identity::StoreAway;
use crate::registry::snapshot::{Availability, Market, Miner, Offer, Snapshot};
use crate::synthetic::desk::{Desk, Sight};
use crate::synthetic::draw::{Draw, Draws, Part};
use crate::synthetic::plan::{Attempts, Before, CellBooks, Drawn, PlanStore, Term};
use crate::synthetic::planner::Planner;
use crate::synthetic::{Check, CheckEnd, Checks, Mode, PlannerSettings};
use crate::task::Task;

pub(super) const LENGTH_S: u32 = 10;
const START_MS: u64 = 1_000_000_000;
const ALLOTMENT: u64 = 100_000;
const CHECK: u64 = 2_000;

/// A run: clients as (milliseconds, cell, units), kills, and what clients had before.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) clients: Vec<(u64, u32, u64)>,
    pub(super) restarts: Vec<u64>,
    pub(super) before: Vec<u64>,
    pub(super) miner: Scripted,
}

/// How miners answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scripted {
    pub(super) takes: Duration,
    /// From when a check leaves to when it holds its units.
    pub(super) waits: Duration,
    /// The part of what is held that is delivered.
    pub(super) brings: f64,
    /// The part of what was planned that is held.
    pub(super) holds: f64,
    pub(super) outcome: Outcome,
}

/// A check at the moment that it was sent, with the books as they were then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at_ms: u64,
    pub(super) cell: CellId,
    pub(super) held: Units,
    /// Posted and in flight, this one included.
    pub(super) spent: Units,
    pub(super) target: Units,
    pub(super) organic: Units,
    pub(super) floor: Units,
    pub(super) check: Units,
    pub(super) good: u64,
    pub(super) left: Units,
}

/// A cell at the end of a period.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtEnd {
    pub(super) target: Units,
    pub(super) organic: Units,
    pub(super) organic_at_last_send: Units,
    pub(super) synthetic: Units,
    pub(super) check: Units,
    pub(super) good: u64,
    /// Different parts that were ever told of it.
    pub(super) draws: usize,
}

pub(super) struct Outcomes {
    pub(super) sent: Vec<Sent>,
    pub(super) cells: Vec<AtEnd>,
}

/// Tokio's time as wall time.
#[derive(Clone, Debug)]
struct TestClock(Instant);

/// The store of plans, in memory over the engine's receipts.
#[derive(Debug)]
pub(super) struct Plans {
    engine: Arc<ModelStore>,
    incarnations: Mutex<Vec<Incarnation>>,
    term: AtomicU64,
    /// Whether somebody else holds the term and lives.
    other: AtomicBool,
    away: AtomicBool,
    drawn: Mutex<BTreeMap<(Period, CellId), Drawn>>,
    before: Mutex<Vec<u64>>,
    told: Mutex<HashMap<(Period, CellId), BTreeSet<Part>>>,
}

#[derive(Debug)]
struct Scene {
    books: Arc<Books>,
    clock: TestClock,
    snapshot: Arc<Snapshot>,
}

/// Miners behind the real books.
#[derive(Debug)]
struct Miners {
    scene: Arc<Scene>,
    log: Arc<Log>,
}

/// What outlives a process.
#[derive(Debug)]
struct Log {
    plans: Arc<Plans>,
    script: Mutex<Scripted>,
    sent: Mutex<Vec<Sent>>,
    /// What checks hold, by cell, in the process that lives.
    held: Mutex<HashMap<CellId, u64>>,
    /// Checks that ended, by cell: all but cancelled ones, and good ones.
    ended: Mutex<HashMap<CellId, (u64, u64)>>,
}

pub(super) struct World {
    cells: u32,
    draws: Draws,
    seed: u64,
    engine: Arc<ModelStore>,
    clock: TestClock,
    pub(super) plans: Arc<Plans>,
    log: Arc<Log>,
    scene: Mutex<Option<Arc<Scene>>>,
}

/// One process.
pub(super) struct Life {
    pub(super) desk: Arc<Desk>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    log: Arc<Log>,
}

/// Runs in paused time.
pub(super) fn in_paused_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// A whole period of a case, and a while after it.
pub(super) fn simulate(case: &Case) -> Outcomes {
    in_paused_time(async {
        let rows = vec![Draw::of(0.7, 0.0, 0.1), Draw::of(0.3, 0.1, 0.4)];
        let draws = Draws::new(rows).expect("a distribution");
        let mut world = World::new(3, draws).await;
        world.seed = case.seed;
        world.plans.had_before(&case.before);
        world.script(case.miner);
        let mut life = world.begin(Mode::BuiltIn).await;
        let mut events: Vec<(u64, Option<(u32, u64)>)> = case
            .clients
            .iter()
            .map(|(at, cell, units)| (*at, Some((*cell, *units))))
            .chain(case.restarts.iter().map(|at| (*at, None)))
            .collect();
        events.sort_by_key(|(at, _)| *at);
        for (at, event) in events {
            tokio::time::sleep_until(world.clock.0 + Duration::from_millis(at)).await;
            match event {
                Some((cell, units)) => world.client(cell, units).await,
                None => {
                    life.kill().await;
                    life = world.begin(Mode::BuiltIn).await;
                }
            }
        }
        let end = world.clock.0 + Duration::from_secs(u64::from(LENGTH_S));
        tokio::time::sleep_until(end - Duration::from_millis(1)).await;
        // What was admitted in the period ends in it.
        life.settle().await;
        let books = world.books();
        assert!(books.settle(Duration::from_secs(1)).await, "all is durable");
        assert!(!books.broken().is_cancelled(), "the books are broken");
        let first = Period::starting_at(START_MS / 1000);
        let sent: Vec<Sent> = world.sent();
        let cells = (0..3).map(|cell| world.at_end(first, CellId(cell), &sent));
        Outcomes {
            cells: cells.collect(),
            sent,
        }
    })
}

// === impl TestClock ===

impl Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        START_MS + u64::try_from(self.0.elapsed().as_millis()).expect("a short test")
    }
}

// === impl Scripted ===

impl Default for Scripted {
    fn default() -> Self {
        Self {
            takes: Duration::from_millis(100),
            waits: Duration::ZERO,
            brings: 0.8,
            holds: 1.0,
            outcome: Outcome::Good,
        }
    }
}

// === impl Plans ===

impl Plans {
    /// Another gateway takes a newer term and lives.
    pub(super) fn take_over(&self) {
        self.other.store(true, Ordering::SeqCst);
        self.term.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn fall_silent(&self) {
        self.other.store(false, Ordering::SeqCst);
    }

    pub(super) fn go_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(super) fn had_before(&self, units: &[u64]) {
        *self.before.lock() = units.to_vec();
    }

    fn answer<T: Send + 'static>(&self, value: T) -> BoxFuture<'_, Result<T, StoreAway>> {
        let away = self.away.load(Ordering::SeqCst);
        Box::pin(async move { if away { Err(StoreAway) } else { Ok(value) } })
    }

    /// Durable units and checks of an incarnation.
    fn durable(&self, period: Period, of: Incarnation, cell: CellId) -> ([Units; 2], Attempts) {
        let (mut units, mut attempts) = ([Units::ZERO; 2], Attempts::default());
        for receipt in self.engine.receipts(period, of) {
            for attempt in receipt.attempts.iter().filter(|one| one.cell == cell) {
                let sum = &mut units[receipt.origin.index()];
                *sum = sum.saturating_add(attempt.units);
                let counts = attempt.outcome != Outcome::Cancelled;
                if receipt.origin == Origin::Synthetic && counts {
                    attempts.all += 1;
                    attempts.good += u64::from(attempt.outcome == Outcome::Good);
                }
            }
        }
        (units, attempts)
    }
}

impl PlanStore for Plans {
    fn take_term(
        &self,
        own: Incarnation,
        _: u64,
    ) -> BoxFuture<'_, Result<Option<Term>, StoreAway>> {
        let taken = !self.other.load(Ordering::SeqCst);
        if !self.incarnations.lock().contains(&own) {
            self.incarnations.lock().push(own);
        }
        let term = taken.then(|| Term(self.term.fetch_add(1, Ordering::SeqCst) + 1));
        self.answer(term)
    }

    fn keep_term(&self, term: Term) -> BoxFuture<'_, Result<bool, StoreAway>> {
        self.term_stands(term)
    }

    fn term_stands(&self, term: Term) -> BoxFuture<'_, Result<bool, StoreAway>> {
        self.answer(self.term.load(Ordering::SeqCst) == term.0)
    }

    fn draw(
        &self,
        term: Term,
        period: Period,
        drawn: Vec<(CellId, Part)>,
    ) -> BoxFuture<'_, Result<Option<Vec<Drawn>>, StoreAway>> {
        if self.term.load(Ordering::SeqCst) != term.0 {
            return self.answer(None);
        }
        let mut rows = self.drawn.lock();
        let standing = drawn.into_iter().map(|(cell, part)| {
            let one = Drawn {
                cell,
                part,
                newcomer: false,
            };
            let stands = *rows.entry((period, cell)).or_insert(one);
            let told = (period, cell);
            self.told
                .lock()
                .entry(told)
                .or_default()
                .insert(stands.part);
            stands
        });
        let standing = standing.collect();
        self.answer(Some(standing))
    }

    fn cell_books(
        &self,
        period: Period,
        own: Incarnation,
    ) -> BoxFuture<'_, Result<Vec<CellBooks>, StoreAway>> {
        let cells = self.drawn.lock().keys().map(|key| key.1).max();
        let cells = (0..=cells.map_or(0, |cell| cell.0)).map(CellId);
        let incarnations = self.incarnations.lock().clone();
        let rows = cells.map(|cell| {
            let mut row = CellBooks {
                cell,
                organic: Units::ZERO,
                synthetic: Units::ZERO,
                others: Attempts::default(),
                own: self.durable(period, own, cell).1,
            };
            for other in incarnations.iter().filter(|other| **other != own) {
                let ([organic, synthetic], attempts) = self.durable(period, *other, cell);
                row.organic = row.organic.saturating_add(organic);
                row.synthetic = row.synthetic.saturating_add(synthetic);
                row.others.all += attempts.all;
                row.others.good += attempts.good;
            }
            row
        });
        let rows = rows.collect();
        self.answer(rows)
    }

    fn organic_before(
        &self,
        _: Period,
        _: usize,
    ) -> BoxFuture<'_, Result<(usize, Vec<Before>), StoreAway>> {
        let before = self.before.lock().clone();
        let mut rows = Vec::new();
        for (ago, units) in before.iter().enumerate() {
            rows.extend((0..3).map(|cell| Before {
                ago,
                cell: CellId(cell),
                organic: Units::new(*units),
            }));
        }
        self.answer((before.len(), rows))
    }
}

// === impl Scene ===

impl Sight for Scene {
    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn table(&self) -> Arc<Table> {
        self.books.admit().0
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }
}

// === impl Miners ===

impl Miners {
    async fn answer(&self, check: Check) -> CheckEnd {
        let script = *self.log.script.lock();
        tokio::time::sleep(script.waits).await;
        let (table, at_ms) = self.scene.books.admit();
        let size = check.units.scaled(script.holds).max(Units::new(1));
        let origin = Origin::Synthetic;
        let cells = [check.cell];
        let held = self.scene.books.hold(&table, &cells, size, origin);
        let Ok(held) = held.await else {
            return CheckEnd::UNSENT;
        };
        if !check.due.is_due(size) {
            return CheckEnd::UNSENT;
        }
        let _flying = self.log.fly(check.cell, size);
        self.note(&table, at_ms, check.cell, size);
        let slot = self.scene.books.slot(table.period());
        tokio::time::sleep(script.takes).await;
        let units = if script.outcome == Outcome::Good {
            size.scaled(script.brings).max(Units::new(1))
        } else {
            Units::ZERO
        };
        let receipt = receipt(
            &self.scene.books,
            check.cell,
            origin,
            (units, script.outcome),
        );
        held.post(units);
        self.log.ended(check.cell, script.outcome);
        slot.expect("a slot").send(receipt, None);
        CheckEnd {
            outcome: Some(script.outcome),
            units,
        }
    }

    /// Writes down a send, with the books as they are, and none of the planner's words.
    fn note(&self, table: &Table, at_ms: u64, cell: CellId, held: Units) {
        let (plans, period) = (&self.log.plans, table.period());
        let own = self.scene.books.incarnation();
        let mut posted = Origin::ALL.map(|origin| table.posted(cell, origin));
        let mut good = self.log.ended.lock().get(&cell).map_or(0, |ended| ended.1);
        for other in plans.incarnations.lock().iter().filter(|one| **one != own) {
            let (units, attempts) = plans.durable(period, *other, cell);
            for (sum, more) in posted.iter_mut().zip(units) {
                *sum = sum.saturating_add(more);
            }
            good += attempts.good;
        }
        let [organic, synthetic] = posted;
        let flying = self.log.held.lock().get(&cell).copied().unwrap_or(0);
        let part = plans.drawn.lock()[&(period, cell)].part;
        let check = Units::new(CHECK);
        self.log.sent.lock().push(Sent {
            at_ms: at_ms - START_MS,
            cell,
            held,
            spent: synthetic.saturating_add(Units::new(flying)),
            target: part.of(Units::new(ALLOTMENT)),
            organic,
            floor: if good == 0 { check } else { Units::ZERO },
            check,
            good,
            left: table.left(cell),
        });
    }
}

impl Checks for Miners {
    fn check(&self, check: Check) -> BoxFuture<'_, CheckEnd> {
        Box::pin(self.answer(check))
    }
}

// === impl Log ===

/// A check in flight; taken back when it ends, however it does.
struct Flying<'a>(&'a Log, CellId, u64);

impl Log {
    fn fly(&self, cell: CellId, units: Units) -> Flying<'_> {
        *self.held.lock().entry(cell).or_default() += units.get();
        Flying(self, cell, units.get())
    }

    fn ended(&self, cell: CellId, outcome: Outcome) {
        let is_good = u64::from(outcome == Outcome::Good);
        let mut ended = self.ended.lock();
        let before = ended.get(&cell).copied().unwrap_or_default();
        ended.insert(cell, (before.0 + 1, before.1 + is_good));
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.0.held.lock().get_mut(&self.1) {
            *held -= self.2;
        }
    }
}

// === impl World ===

impl World {
    pub(super) async fn new(cells: u32, draws: Draws) -> Self {
        let engine = Arc::new(ModelStore::new());
        let first = START_MS / 1000;
        for period in 0..4 {
            let period = Period::starting_at(first + period * u64::from(LENGTH_S));
            for cell in 0..cells {
                let allotment = Units::new(ALLOTMENT);
                let opened = engine.open_cell(period, CellId(cell), allotment);
                opened.expect("a check");
            }
        }
        let plans = Arc::new(Plans {
            engine: Arc::clone(&engine),
            incarnations: Mutex::default(),
            term: AtomicU64::new(0),
            other: AtomicBool::new(false),
            away: AtomicBool::new(false),
            drawn: Mutex::default(),
            before: Mutex::default(),
            told: Mutex::default(),
        });
        let log = Arc::new(Log {
            plans: Arc::clone(&plans),
            script: Mutex::default(),
            sent: Mutex::default(),
            held: Mutex::default(),
            ended: Mutex::default(),
        });
        tokio::task::yield_now().await;
        Self {
            cells,
            draws,
            seed: 1,
            engine,
            clock: TestClock(Instant::now()),
            plans,
            log,
            scene: Mutex::default(),
        }
    }

    pub(super) fn script(&self, script: Scripted) {
        *self.log.script.lock() = script;
    }

    /// A process starts.
    pub(super) async fn begin(&self, mode: Mode) -> Life {
        let length = PeriodLength::from_secs(LENGTH_S).expect("a length");
        let books = Books::new(
            BooksSettings::default(),
            self.engine.new_incarnation("one"),
            length,
            Arc::new(self.clock.clone()),
            Arc::clone(&self.engine) as Arc<dyn Engine>,
        );
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let wanted: Vec<_> = (0..self.cells)
            .map(|cell| (CellId(cell), Units::new(ALLOTMENT)))
            .collect();
        let mut period = books.table().period();
        for _ in 0..2 {
            books.tables().open(period);
            books.expect(period, &wanted);
            period = length.next(period);
        }
        let exchanging = (Arc::clone(&books), stop.clone());
        tasks.spawn(async move { exchanging.0.run_exchange(exchanging.1).await });
        let appending = (Arc::clone(&books), stop.clone());
        tasks.spawn(async move { appending.0.run_append(appending.1).await });
        let scene = Arc::new(Scene {
            books: Arc::clone(&books),
            clock: self.clock.clone(),
            snapshot: Arc::new(snapshot(self.cells)),
        });
        *self.scene.lock() = Some(Arc::clone(&scene));
        let settings = PlannerSettings {
            mode,
            draws: self.draws.clone(),
            seed: Some(self.seed + books.incarnation().0),
            ..PlannerSettings::default()
        };
        let sight = Arc::clone(&scene) as Arc<dyn Sight>;
        let desk = Arc::new(Desk::new(sight, length, settings));
        let planner = Planner {
            desk: Arc::clone(&desk),
            store: Arc::clone(&self.plans) as Arc<dyn PlanStore>,
            checks: Arc::new(Miners {
                scene,
                log: Arc::clone(&self.log),
            }),
            bursts: None,
            mode,
            incarnation: books.incarnation(),
            length,
        };
        tasks.spawn(planner.run(stop.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        Life {
            desk,
            stop,
            tasks,
            log: Arc::clone(&self.log),
        }
    }

    fn books(&self) -> Arc<Books> {
        let scene = self.scene.lock();
        Arc::clone(&scene.as_ref().expect("a process").books)
    }

    /// A client's call that is done at once.
    pub(super) async fn client(&self, cell: u32, units: u64) {
        let (books, cell, units) = (self.books(), CellId(cell), Units::new(units));
        let (table, _) = books.admit();
        let origin = Origin::Organic;
        if let Ok(held) = books.hold(&table, &[cell], units, origin).await {
            let slot = books.slot(table.period()).expect("a slot");
            held.post(units);
            let receipt = receipt(&books, cell, origin, (units, Outcome::Good));
            slot.send(receipt, None);
        }
    }

    pub(super) fn sent(&self) -> Vec<Sent> {
        self.log.sent.lock().clone()
    }

    pub(super) fn reserved(&self, cell: u32) -> Units {
        self.books().table().reserved(CellId(cell))
    }

    pub(super) fn attempts(&self, cell: u32) -> u64 {
        let ended = self.log.ended.lock();
        ended.get(&CellId(cell)).map_or(0, |ended| ended.0)
    }

    fn at_end(&self, period: Period, cell: CellId, sent: &[Sent]) -> AtEnd {
        let own = self.books().incarnation();
        let table = self.books().tables().get(period).expect("still open");
        let mut units = Origin::ALL.map(|origin| table.posted(cell, origin));
        let mut good = self.log.ended.lock().get(&cell).map_or(0, |ended| ended.1);
        let others = self.plans.incarnations.lock().clone();
        for other in others.into_iter().filter(|other| *other != own) {
            let (more, attempts) = self.plans.durable(period, other, cell);
            for (sum, more) in units.iter_mut().zip(more) {
                *sum = sum.saturating_add(more);
            }
            good += attempts.good;
        }
        let part = self.plans.drawn.lock()[&(period, cell)].part;
        let of_it = |sent: &&Sent| sent.cell == cell && sent.at_ms < u64::from(LENGTH_S) * 1000;
        let last = sent.iter().rfind(of_it);
        AtEnd {
            target: part.of(Units::new(ALLOTMENT)),
            organic: units[0],
            organic_at_last_send: last.map_or(Units::ZERO, |sent| sent.organic),
            synthetic: units[1],
            check: Units::new(CHECK),
            good,
            draws: self.plans.told.lock()[&(period, cell)].len(),
        }
    }
}

// === impl Life ===

impl Life {
    /// Killed: what is not durable by now is lost.
    pub(super) async fn kill(&mut self) {
        self.tasks.shutdown().await;
        // A new process knows of no check that ended before it.
        self.log.ended.lock().clear();
    }

    /// Asked to stop.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Waits until nothing is in flight.
    async fn settle(&self) {
        while self.log.held.lock().values().any(|held| *held > 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn receipt(
    books: &Books,
    cell: CellId,
    origin: Origin,
    (units, outcome): (Units, Outcome),
) -> Receipt {
    let attempt = Attempt {
        cell,
        outcome,
        units,
        first_chunk_us: None,
        duration_us: 1,
    };
    Receipt {
        call: books.next_call(books.table().period()).call,
        origin,
        client: Arc::from(""),
        task: Arc::from("tiny"),
        admitted_ms: 0,
        finish: Finish::Attempt(outcome),
        quality: Quality::Exact,
        units,
        prompt_units: Units::ZERO,
        held: [cell].into_iter().collect(),
        attempts: [attempt].into_iter().collect(),
        digest: [0; 32],
        labels: Vec::new(),
        claim: None,
    }
}

fn snapshot(cells: u32) -> Snapshot {
    let mut task = Task::open_chat("tiny".into());
    task.check_units = Units::new(CHECK);
    let task = Arc::new(task);
    let offers = (0..cells).map(|number| Offer {
        cell: CellId(number),
        miner: Arc::new(Miner {
            hotkey: format!("miner-{number}").into(),
            number,
            endpoint: http::Uri::from_static("http://127.0.0.1:1"),
        }),
        declared: Units::new(ALLOTMENT),
        allotment: Units::new(ALLOTMENT),
        verified: Units::new(ALLOTMENT),
        proven: true,
        concurrency: Some(16),
        availability: Availability::Free,
    });
    let market = Market {
        task: Arc::clone(&task),
        ceiling: None,
        revision: 1,
        offers: offers.collect(),
    };
    Snapshot {
        version: 1,
        tasks: Arc::new([(*task).clone()].into_iter().collect()),
        markets: [(Arc::clone(&task.id), Arc::new(market))].into(),
        ..Snapshot::default()
    }
}
