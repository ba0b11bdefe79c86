//! Bursts over scripted machines, in paused time: what they show is what they are.

use futures_util::future::BoxFuture;
use rand::SeedableRng as _;
use tokio::time::Instant;

use super::*;
use crate::call::delivery::{Deliveries as _, Delivery};
use crate::registry::snapshot::{Market, Miner};
use crate::task::{Task, TaskId, Tasks};

const PERIOD_S: u32 = 3600;
const START_MS: u64 = 3_600_000 * 1000;
const TERM: Term = Term(1);
const STEP: Duration = Duration::from_millis(50);

/// A machine: how much it does a second, and in one request.
#[derive(Clone, Copy, Debug)]
struct Machine {
    rate: f64,
    rate_each: f64,
}

/// What a machine pretends to be: a hotkey with a task.
#[derive(Clone, Debug)]
struct Face {
    machine: usize,
    offer: Offer,
    task: TaskId,
    /// Checks are due without end; else none is.
    due: bool,
}

/// A request that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    cell: CellId,
    sent: Instant,
    units: Units,
    left: f64,
}

/// Rows, as the store's traits describe them.
#[derive(Debug, Default)]
struct Kept {
    windows: Mutex<HashMap<Period, Vec<NumberedWindow>>>,
    rows: Mutex<Vec<Demonstration>>,
}

#[derive(Debug)]
struct World {
    start: Instant,
    faces: Mutex<Vec<Face>>,
    running: Mutex<Vec<Running>>,
    proofs: Mutex<Proofs>,
}

/// A gateway with machines behind its miners.
struct Bench {
    world: Arc<World>,
    store: Arc<Kept>,
    measures: Arc<Measures>,
    machines: Vec<Machine>,
    bursts: Bursts,
}

impl BurstStore for Kept {
    fn put_bursts(
        &self,
        period: Period,
        _: u64,
        windows: Vec<NumberedWindow>,
    ) -> BoxFuture<'_, Result<Vec<NumberedWindow>, StoreAway>> {
        let mut kept = self.windows.lock();
        let standing = kept.entry(period).or_default();
        for window in windows {
            if standing.iter().all(|one| one.number != window.number) {
                standing.push(window);
            }
        }
        let standing = standing.clone();
        drop(kept);
        Box::pin(async move { Ok(standing) })
    }
}

impl DemonstrationStore for Kept {
    fn put_demonstrations(
        &self,
        _: Incarnation,
        rows: Vec<Demonstration>,
    ) -> BoxFuture<'_, Result<(), StoreAway>> {
        self.rows.lock().extend(rows);
        Box::pin(async { Ok(()) })
    }

    fn demonstrations(&self, _: usize) -> BoxFuture<'_, Result<Vec<Demonstration>, StoreAway>> {
        let rows = self.rows.lock().clone();
        Box::pin(async { Ok(rows) })
    }
}

impl Floor for World {
    fn unix_ms(&self) -> u64 {
        START_MS + u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        let faces = self.faces.lock();
        let mut markets: HashMap<TaskId, Market> = HashMap::new();
        for face in faces.iter() {
            let market = markets.entry(Arc::clone(&face.task));
            let market = market.or_insert_with(|| Market {
                task: Arc::new(Task::open_chat(Arc::clone(&face.task))),
                ceiling: None,
                revision: 1,
                offers: Vec::new(),
            });
            market.offers.push(face.offer.clone());
        }
        drop(faces);
        let tasks: Tasks = markets
            .values()
            .map(|market| (*market.task).clone())
            .collect();
        let markets = markets.into_iter();
        Arc::new(Snapshot {
            tasks: Arc::new(tasks),
            markets: markets.map(|(id, market)| (id, Arc::new(market))).collect(),
            ..Snapshot::default()
        })
    }

    fn condition(&self, cell: CellId) -> Condition {
        let of_cell = |one: &&Running| one.cell == cell;
        let in_flight = self.running.lock().iter().filter(of_cell).count();
        Condition {
            in_flight: u32::try_from(in_flight).unwrap(),
            ..Condition::default()
        }
    }

    fn prove(&self, proofs: Proofs) {
        *self.proofs.lock() = proofs;
    }
}

impl Bench {
    fn new(machines: Vec<Machine>) -> Self {
        Self::lucky(machines, 7)
    }

    fn lucky(machines: Vec<Machine>, seed: u64) -> Self {
        let world = Arc::new(World {
            start: Instant::now(),
            faces: Mutex::default(),
            running: Mutex::default(),
            proofs: Mutex::default(),
        });
        let (store, measures) = (Arc::new(Kept::default()), Arc::new(Measures::default()));
        let bursts = Self::bursts(&world, &store, &measures, seed);
        Self {
            world,
            store,
            measures,
            machines,
            bursts,
        }
    }

    fn bursts(
        world: &Arc<World>,
        store: &Arc<Kept>,
        measures: &Arc<Measures>,
        seed: u64,
    ) -> Bursts {
        let length = PeriodLength::from_secs(PERIOD_S).unwrap();
        Bursts::new(
            (BurstSettings::default(), length),
            Incarnation(1),
            Arc::clone(world) as _,
            (Arc::clone(measures), Arc::clone(store) as _),
            StdRng::seed_from_u64(seed),
        )
    }

    /// The machine of that number declares so many units a second under one more name.
    fn declare(&self, machine: usize, task: &str, rate: u64, concurrency: u32) -> CellId {
        let mut faces = self.world.faces.lock();
        let number = u32::try_from(faces.len()).unwrap();
        let cell = CellId(number);
        let allotment = Units::new(rate * u64::from(PERIOD_S));
        let miner = Miner {
            hotkey: number.to_string().into(),
            number,
            endpoint: http::Uri::from_static("http://127.0.0.1:9"),
        };
        faces.push(Face {
            machine,
            task: task.into(),
            due: true,
            offer: Offer {
                cell,
                miner: Arc::new(miner),
                declared: allotment,
                allotment,
                verified: allotment,
                proven: false,
                concurrency: Some(concurrency),
                availability: Availability::Free,
            },
        });
        cell
    }

    /// A request leaves.
    fn begin(&self, cell: CellId, units: Units) {
        self.world.running.lock().push(Running {
            cell,
            units,
            sent: Instant::now(),
            left: units.as_f64(),
        });
    }

    /// All that happens in one step of time.
    async fn step(&self) {
        let now_s = self.world.unix_ms() / 1000;
        let period = Period::starting_at(now_s - now_s % u64::from(PERIOD_S));
        self.bursts.plan(TERM, period).await.unwrap();
        self.bursts.watch();
        self.bursts.tell().await.unwrap();
        let faces = self.world.faces.lock().clone();
        for face in &faces {
            let due = Units::new(if face.due { 1_000_000 } else { 0 });
            let sent = self.bursts.send(&face.offer, (due, Units::new(300)), 0);
            let sent = sent.unwrap_or_default();
            (0..sent.checks).for_each(|_| self.begin(face.offer.cell, sent.units));
        }
        tokio::time::advance(STEP).await;
        self.work(&faces);
    }

    /// Each machine shares itself out among all requests that it has, whatever their names.
    fn work(&self, faces: &[Face]) {
        let machine_of = |one: &Running| faces[one.cell.0 as usize].machine;
        let mut running = self.world.running.lock();
        for (number, machine) in self.machines.iter().enumerate() {
            let own = running.iter().filter(|one| machine_of(one) == number);
            let each = machine.rate / f64::from(u32::try_from(own.count().max(1)).unwrap());
            let done = each.min(machine.rate_each) * STEP.as_secs_f64();
            for one in running.iter_mut().filter(|one| machine_of(one) == number) {
                one.left -= done;
            }
        }
        let (ended, left) = running.iter().partition(|one| one.left <= 0.0);
        *running = left;
        drop(running);
        let ended: Vec<Running> = ended;
        for one in ended {
            self.measures.ended(Delivery {
                cell: one.cell,
                sent: one.sent,
                ended: Instant::now(),
                units: one.units,
            });
        }
    }

    async fn run(&self, span: Duration) {
        let until = Instant::now() + span;
        while Instant::now() < until {
            self.step().await;
        }
    }

    fn shown(&self, cell: CellId) -> Option<Shown> {
        self.world.proofs.lock().shown.get(&cell).copied()
    }

    /// What counts of a cell, units a second.
    fn verified(&self, cell: CellId) -> f64 {
        let shown = self.shown(cell);
        shown.map_or(0.0, |shown| shown.verified.as_f64() / f64::from(PERIOD_S))
    }

    fn is_proven(&self, cell: CellId) -> bool {
        let allotment = self.world.faces.lock()[cell.0 as usize].offer.allotment;
        self.shown(cell)
            .is_some_and(|shown| shown.is_proven(allotment))
    }

    fn rows(&self, common: bool) -> Vec<Demonstration> {
        let rows = self.store.rows.lock().clone();
        let rows = rows.into_iter();
        rows.filter(|row| row.window.common == common).collect()
    }

    /// The common window of the running period.
    fn common(&self) -> Window {
        self.store.windows.lock()[&Period::starting_at(START_MS / 1000)][0].window
    }

    async fn run_to(&self, unix_ms: u64) {
        while self.world.unix_ms() < unix_ms {
            self.step().await;
        }
    }
}

fn machine(rate: f64, rate_each: f64) -> Machine {
    Machine { rate, rate_each }
}

const HOUR: Duration = Duration::from_secs(PERIOD_S as u64);

/// N17: a single declaration was never tested, and bursts never sent.
#[tokio::test(start_paused = true)]
async fn n17_a_miner_that_declares_a_hundred_and_serves_ten_is_visible_in_one_period() {
    let bench = Bench::new(vec![
        machine(10.0, 5.0),
        machine(10.0, 5.0),
        machine(100.0, 10.0),
    ]);
    let boasting = bench.declare(0, "chat", 100, 10);
    let small = bench.declare(1, "chat", 10, 2);
    let honest = bench.declare(2, "chat", 100, 10);
    bench.run(HOUR).await;
    assert_eq!(bench.rows(true).len(), 3, "all were asked at once");
    for (cell, serves) in [(boasting, 10.0), (small, 10.0), (honest, 100.0)] {
        let verified = bench.verified(cell);
        assert!(
            (serves * 0.9..=serves * 1.3).contains(&verified),
            "{cell:?}: {verified}"
        );
    }
    assert!(!bench.is_proven(boasting));
    assert!(bench.is_proven(small) && bench.is_proven(honest));
}

#[tokio::test(start_paused = true)]
async fn n17_one_machine_behind_four_hotkeys_over_two_tasks_shows_what_it_is() {
    let bench = Bench::lucky(vec![machine(100.0, 10.0)], 1);
    let mut cells = Vec::new();
    // They come one by one, so that each shows all of the machine in a window of its own.
    for number in 0..8 {
        let task = if number % 2 == 0 { "chat" } else { "code" };
        cells.push(bench.declare(0, task, 100, 10));
        bench.run(Duration::from_secs(90)).await;
    }
    let sum = || cells.iter().map(|cell| bench.verified(*cell)).sum::<f64>();
    let alone = bench.rows(false).len();
    let after_common = bench.world.unix_ms() > bench.common().begins_ms;
    assert!(
        alone >= 4 && !after_common && sum() > 300.0,
        "{alone}: {}",
        sum()
    );
    // All at once they are one machine, at once and for good.
    for _ in 0..3 {
        bench.run(HOUR).await;
        let sum = sum();
        assert!((80.0..=115.0).contains(&sum), "{sum}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_asked_within_a_minute_and_counts_soon_after() {
    let bench = Bench::new(vec![machine(100.0, 10.0), machine(50.0, 10.0)]);
    bench.run(Duration::from_secs(5)).await;
    let one = bench.declare(0, "chat", 100, 10);
    bench.run(Duration::from_secs(3)).await;
    let other = bench.declare(1, "chat", 50, 5);
    bench.run(Duration::from_secs(57 + 15)).await;
    let rows = bench.rows(false);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].window, rows[1].window, "they share it");
    assert!(rows[0].window.begins_ms <= START_MS + 65_000);
    assert!(bench.is_proven(one) && bench.is_proven(other));
    assert!((90.0..=110.0).contains(&bench.verified(one)));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_asked_shows_nothing_and_clients_requests_count() {
    let bench = Bench::new(vec![machine(100.0, 100.0), machine(100.0, 100.0)]);
    let (idle, busy) = (
        bench.declare(0, "chat", 100, 2),
        bench.declare(1, "chat", 100, 2),
    );
    bench
        .world
        .faces
        .lock()
        .iter_mut()
        .for_each(|face| face.due = false);
    bench.step().await;
    let window = bench.common();
    bench.run_to(window.begins_ms - 5_000).await;
    while bench.world.unix_ms() < window.ends_ms() + 5_000 {
        while bench.world.condition(busy).in_flight < 2 {
            bench.begin(busy, Units::new(200));
        }
        bench.step().await;
    }
    bench.run(Duration::from_secs(20)).await;
    let rows = bench.rows(true);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0].cell, busy);
    assert!((95.0..=105.0).contains(&bench.verified(busy)), "{rows:?}");
    assert!(bench.verified(idle).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_ends_in_a_window_leaves_nothing_of_it_and_moves_none() {
    let mut bench = Bench::new(vec![machine(100.0, 10.0)]);
    let cell = bench.declare(0, "chat", 100, 10);
    bench.step().await;
    let window = bench.common();
    bench.run_to(window.begins_ms + 4_000).await;
    assert_eq!(bench.rows(false).len(), 1, "its first burst");
    let before = bench.verified(cell);
    // Another start, and other luck.
    bench.measures = Arc::default();
    bench.bursts = Bench::bursts(&bench.world, &bench.store, &bench.measures, 8);
    bench.bursts.load().await.unwrap();
    assert!(
        (bench.verified(cell) - before).abs() < 1e-9,
        "it is known at once"
    );
    bench.run_to(START_MS + 3_599_000).await;
    assert_eq!(bench.common(), window);
    assert_eq!(bench.rows(true), []);
    assert_eq!(bench.rows(false).len(), 1);
    bench.run(HOUR).await;
    assert_eq!(bench.rows(true).len(), 1, "the next period is as any other");
}

#[tokio::test(start_paused = true)]
async fn where_none_are_planned_nobody_has_to_prove_anything() {
    let mut bench = Bench::new(vec![machine(100.0, 10.0)]);
    bench.declare(0, "chat", 100, 10);
    let length = PeriodLength::from_secs(PERIOD_S).unwrap();
    bench.bursts = Bursts::new(
        (BurstSettings::NONE, length),
        Incarnation(1),
        Arc::clone(&bench.world) as _,
        (Arc::clone(&bench.measures), Arc::clone(&bench.store) as _),
        StdRng::seed_from_u64(7),
    );
    bench.bursts.load().await.unwrap();
    bench.run(Duration::from_mins(5)).await;
    assert!(!bench.world.proofs.lock().planned);
    assert!(bench.rows(true).is_empty() && bench.rows(false).is_empty());
}
