//! A network in fast motion: the production router, invented miners, no clock but its own.
//!
//! Miners have slots of a certain speed and queue in silence what is beyond them. Some are
//! eight times as slow as they declare, some fail at once, some hang. Each gateway has its
//! own view of how miners do; what is left of their allotments is shared.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::registry::snapshot::{Availability, Market, Miner, Offer, Snapshot};
use taugate::routing::{
    Balance, Balances, InFlight, Policy, Router, RouterSettings, Sample, Vitals, Wish,
};
use taugate::task::Task;
use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

const TASK: &str = "task";
/// Units of a call, on average.
const CALL_UNITS: f64 = 200.0;
/// Units a second of one slot.
const SLOT_SPEED: f64 = 100.0;
const PREFILL_US: u64 = 200_000;
const FAILS_AFTER_US: u64 = 50_000;
/// A call that takes longer has failed.
const LIMIT_US: u64 = 30_000_000;
const SECOND_US: u64 = 1_000_000;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The production router.
    Router(Policy),
    /// The miner with the fewest calls in flight, over all gateways. To compare with: a miner
    /// that fails at once always has the fewest.
    LeastOutstanding,
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) rule: Rule,
    pub(crate) miners: usize,
    pub(crate) gateways: usize,
    pub(crate) seconds: u64,
    /// Demand as a part of all capacity.
    pub(crate) load: f64,
    pub(crate) seed: u64,
    /// Begins every hotkey, and turns their order around when it is not empty.
    pub(crate) prefix: &'static str,
    /// Joins only then, seconds.
    pub(crate) newcomer_s: Option<u64>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    /// Nobody was found.
    pub(crate) refused: u64,
    /// Fairness of posted / allotment over healthy miners, 0 to 1.
    pub(crate) jain: f64,
    pub(crate) p50_s: f64,
    pub(crate) p99_s: f64,
    /// The part of attempts, from the tenth second on, that went to miners that fail at once.
    pub(crate) failing_share: f64,
    /// Units posted, by miner.
    pub(crate) posted: Vec<u64>,
    /// Units allotted, by miner.
    pub(crate) allotted: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Healthy,
    Slow,
    FailsFast,
    Hangs,
}

#[derive(Debug)]
struct Machine {
    kind: Kind,
    slots: usize,
    running: usize,
    /// Calls sent here that have not ended, over all gateways.
    outstanding: usize,
    queue: VecDeque<u64>,
}

#[derive(Debug)]
struct Job {
    gateway: usize,
    miner: usize,
    units: u64,
    arrived_us: u64,
    started_us: Option<u64>,
    place: InFlight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Rebuild,
    Arrive,
    End(u64),
    TimeUp(u64),
}

/// What all miners may still spend, shared by all gateways.
#[derive(Debug)]
struct Cells {
    allotted: Vec<u64>,
    spent: Vec<AtomicU64>,
}

struct Gateway {
    router: Router,
    vitals: Arc<Vitals>,
}

struct Simulation {
    setup: Setup,
    rng: StdRng,
    cells: Cells,
    machines: Vec<Machine>,
    snapshot: Snapshot,
    gateways: Vec<Gateway>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    jobs: HashMap<u64, Job>,
    calls_per_s: f64,
    times_us: Vec<u64>,
    attempts: u64,
    failing_attempts: u64,
    found: Found,
}

impl Balances for Cells {
    fn balance(&self, cell: CellId) -> Balance {
        let at = cell.0 as usize;
        let spent = self.spent[at].load(Ordering::Relaxed);
        Balance {
            left: Units::new(self.allotted[at].saturating_sub(spent)),
            spent: Units::new(spent),
        }
    }
}

/// Runs a simulation to its end.
pub(crate) fn run(setup: Setup) -> Found {
    let mut simulation = Simulation::new(setup);
    simulation.push(0, Event::Rebuild);
    simulation.push(1, Event::Arrive);
    while let Some(Reverse((now_us, _, event))) = simulation.events.pop() {
        simulation.happen(now_us, event);
    }
    simulation.close()
}

/// (sum x)^2 / (n sum x^2): 1 when all are equal.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (number(shares.len()) * squares)
}

impl Simulation {
    fn new(setup: Setup) -> Self {
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let mut machines = Vec::new();
        let mut allotted = Vec::new();
        let mut offers = Vec::new();
        for at in 0..setup.miners {
            let capacity = 300.0 * (0.8 * normal(&mut rng)).exp();
            let slots = whole(capacity / SLOT_SPEED).max(1);
            let allotment = slots * whole(SLOT_SPEED) * setup.seconds;
            offers.push(offer(at, &setup, Units::new(allotment)));
            allotted.push(allotment);
            machines.push(Machine {
                kind: kind(at, setup.miners),
                slots: usize::try_from(slots).expect("a few"),
                running: 0,
                outstanding: 0,
                queue: VecDeque::new(),
            });
        }
        let per_second: u64 = allotted.iter().sum::<u64>() / setup.seconds;
        let settings = RouterSettings {
            policy: match setup.rule {
                Rule::Router(policy) => policy,
                Rule::LeastOutstanding => Policy::default(),
            },
            period: Duration::from_secs(setup.seconds),
        };
        let gateways = (0..setup.gateways).map(|at| {
            let vitals = Arc::new(Vitals::default());
            let seed = setup.seed + at as u64;
            Gateway {
                router: Router::new(settings, seed, Arc::clone(&vitals)),
                vitals,
            }
        });
        Self {
            rng,
            machines,
            snapshot: snapshot(offers),
            gateways: gateways.collect(),
            events: BinaryHeap::new(),
            number: 0,
            jobs: HashMap::new(),
            calls_per_s: setup.load * float(per_second) / CALL_UNITS,
            times_us: Vec::new(),
            attempts: 0,
            failing_attempts: 0,
            found: Found {
                calls: 0,
                failed: 0,
                refused: 0,
                jain: 0.0,
                p50_s: 0.0,
                p99_s: 0.0,
                failing_share: 0.0,
                posted: vec![0; setup.miners],
                allotted: allotted.clone(),
            },
            cells: Cells {
                spent: allotted.iter().map(|_| AtomicU64::new(0)).collect(),
                allotted,
            },
            setup,
        }
    }

    fn push(&mut self, at_us: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at_us, self.number, event)));
    }

    fn happen(&mut self, now_us: u64, event: Event) {
        match event {
            Event::Rebuild => self.rebuild(now_us),
            Event::Arrive => self.arrive(now_us),
            Event::End(id) => self.end(now_us, id),
            Event::TimeUp(id) => {
                if let Some(job) = self.jobs.remove(&id) {
                    self.machines[job.miner]
                        .queue
                        .retain(|queued| *queued != id);
                    self.leave(now_us, &job);
                    self.judge(now_us, job, Outcome::Stalled);
                }
            }
        }
    }

    fn rebuild(&mut self, now_us: u64) {
        let mut known = self.snapshot.clone();
        if self
            .setup
            .newcomer_s
            .is_some_and(|at| now_us < at * SECOND_US)
        {
            let mut market = (*known.markets[TASK]).clone();
            market.offers.pop();
            known.markets.insert(TASK.into(), Arc::new(market));
        }
        for gateway in &self.gateways {
            gateway.router.rebuild(&known, &self.cells, now_us / 1000);
        }
        if now_us < self.setup.seconds * SECOND_US {
            self.push(now_us + SECOND_US, Event::Rebuild);
        }
    }

    fn arrive(&mut self, now_us: u64) {
        let burst = if now_us / SECOND_US % 60 < 12 {
            1.8
        } else {
            0.8
        };
        let rate = self.calls_per_s * burst;
        let pause = -self.rng.random::<f64>().max(1e-12).ln() / rate;
        let next_us = now_us + whole(pause * 1e6);
        if next_us < self.setup.seconds * SECOND_US {
            self.push(next_us, Event::Arrive);
        }
        let spread = 0.4_f64;
        let usual = CALL_UNITS / (spread * spread / 2.0).exp();
        let units = whole(usual * (spread * normal(&mut self.rng)).exp()).max(4);
        let gateway = self.rng.random_range(0..self.gateways.len());
        self.found.calls += 1;
        match self.choose(gateway, units, now_us) {
            Some((miner, place)) => self.send(now_us, gateway, miner, (units, place)),
            None => self.found.refused += 1,
        }
    }

    fn choose(&mut self, gateway: usize, units: u64, now_us: u64) -> Option<(usize, InFlight)> {
        let start = self.rng.random_range(0..self.machines.len());
        let Gateway { router, vitals } = &self.gateways[gateway];
        let wish = Wish {
            units: Units::new(units),
            exclude: &[],
            pinned: None,
            proven_only: false,
            explain: false,
        };
        let cell = match self.setup.rule {
            Rule::Router(_) => {
                let mut choices = router.choices(TASK, &self.cells, wish, now_us / 1000);
                choices.next_best()?
            }
            Rule::LeastOutstanding => self.least_outstanding(start, units)?,
        };
        self.cells.spent[cell.0 as usize].fetch_add(units, Ordering::Relaxed);
        let place = vitals.begin(cell, Units::new(units));
        Some((cell.0 as usize, place))
    }

    /// Among equals the first from `start` on.
    fn least_outstanding(&self, start: usize, units: u64) -> Option<CellId> {
        let count = self.machines.len();
        let cells = (start..start + count)
            .filter_map(|at| u32::try_from(at % count).ok().map(CellId))
            .filter(|cell| self.cells.balance(*cell).left >= Units::new(units));
        cells.min_by_key(|cell| self.machines[cell.0 as usize].outstanding)
    }

    fn send(&mut self, now_us: u64, gateway: usize, miner: usize, call: (u64, InFlight)) {
        let (units, place) = call;
        self.number += 1;
        let id = self.number;
        let kind = self.machines[miner].kind;
        if now_us >= 10 * SECOND_US {
            self.attempts += 1;
            self.failing_attempts += u64::from(kind == Kind::FailsFast);
        }
        let job = Job {
            gateway,
            miner,
            units,
            arrived_us: now_us,
            started_us: None,
            place,
        };
        self.jobs.insert(id, job);
        self.machines[miner].outstanding += 1;
        match kind {
            Kind::FailsFast => self.push(now_us + FAILS_AFTER_US, Event::End(id)),
            Kind::Hangs => {}
            Kind::Healthy | Kind::Slow => {
                self.machines[miner].queue.push_back(id);
                self.start(now_us, miner);
            }
        }
        self.push(now_us + LIMIT_US, Event::TimeUp(id));
    }

    /// Fills a machine's slots from its queue.
    fn start(&mut self, now_us: u64, miner: usize) {
        loop {
            let machine = &mut self.machines[miner];
            if machine.running >= machine.slots {
                return;
            }
            let Some(id) = machine.queue.pop_front() else {
                return;
            };
            machine.running += 1;
            let speed = match machine.kind {
                Kind::Slow => SLOT_SPEED / 8.0,
                Kind::Healthy | Kind::FailsFast | Kind::Hangs => SLOT_SPEED,
            };
            let job = self.jobs.get_mut(&id).expect("queued jobs live");
            job.started_us = Some(now_us);
            let takes_us = PREFILL_US + whole(float(job.units) / speed * 1e6);
            self.push(now_us + takes_us, Event::End(id));
        }
    }

    fn end(&mut self, now_us: u64, id: u64) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        self.leave(now_us, &job);
        let outcome = if self.machines[job.miner].kind == Kind::FailsFast {
            Outcome::Lost
        } else {
            Outcome::Good
        };
        self.judge(now_us, job, outcome);
    }

    /// Frees the job's slot, if it has one.
    fn leave(&mut self, now_us: u64, job: &Job) {
        self.machines[job.miner].outstanding -= 1;
        if job.started_us.is_some() {
            self.machines[job.miner].running -= 1;
            self.start(now_us, job.miner);
        }
    }

    fn judge(&mut self, now_us: u64, job: Job, outcome: Outcome) {
        let good = outcome == Outcome::Good;
        if good {
            self.found.posted[job.miner] += job.units;
            self.times_us.push(now_us - job.arrived_us);
        } else {
            self.found.failed += 1;
            self.cells.spent[job.miner].fetch_sub(job.units, Ordering::Relaxed);
        }
        let units = Units::new(if good { job.units } else { 0 });
        let first_us = job
            .started_us
            .map(|started| started + PREFILL_US - job.arrived_us);
        let sample = Sample {
            first_chunk: first_us.map(Duration::from_micros),
            duration: Duration::from_micros(now_us - job.arrived_us),
            units,
            output: units,
        };
        let vitals = &self.gateways[job.gateway].vitals;
        vitals.ended(job.place, outcome, sample, now_us / 1000);
    }

    fn close(mut self) -> Found {
        self.times_us.sort_unstable();
        let percentile = |part: usize| {
            let at = self.times_us.len() * part / 100;
            self.times_us.get(at).map_or(0.0, |us| float(*us) / 1e6)
        };
        (self.found.p50_s, self.found.p99_s) = (percentile(50), percentile(99));
        self.found.failing_share = float(self.failing_attempts) / float(self.attempts.max(1));
        let healthy = (0..self.machines.len()).filter(|at| {
            let newcomer = self.setup.newcomer_s.is_some() && at + 1 == self.machines.len();
            self.machines[*at].kind == Kind::Healthy && !newcomer
        });
        let shares: Vec<f64> = healthy
            .map(|at| float(self.found.posted[at]) / float(self.found.allotted[at]))
            .collect();
        self.found.jain = jain(&shares);
        self.found
    }
}

/// 4 % slow, 2 % failing, 2 % hanging, at least one of each in thirty; the last is healthy.
fn kind(at: usize, miners: usize) -> Kind {
    let part = |percent: usize| (miners * percent / 100).max(1);
    match at {
        _ if miners < 30 => Kind::Healthy,
        _ if at < part(4) => Kind::Slow,
        _ if at < part(4) + part(2) => Kind::FailsFast,
        _ if at < part(4) + part(2) + part(2) => Kind::Hangs,
        _ => Kind::Healthy,
    }
}

fn offer(at: usize, setup: &Setup, allotment: Units) -> Offer {
    let name = if setup.prefix.is_empty() {
        format!("{at:05}")
    } else {
        format!("{}{:05}", setup.prefix, setup.miners - at)
    };
    Offer {
        cell: CellId(u32::try_from(at).expect("a few")),
        miner: Arc::new(Miner {
            hotkey: name.into(),
            number: u32::try_from(at).expect("a few"),
            endpoint: http::Uri::from_static("http://127.0.0.1:1"),
        }),
        declared: allotment,
        allotment,
        verified: allotment,
        proven: true,
        concurrency: None,
        availability: Availability::Free,
    }
}

fn snapshot(offers: Vec<Offer>) -> Snapshot {
    let market = Market {
        task: Arc::new(Task::open_chat(TASK.into())),
        ceiling: None,
        revision: 1,
        offers,
    };
    Snapshot {
        proving: false,
        markets: HashMap::from([(TASK.into(), Arc::new(market))]),
        ..Snapshot::default()
    }
}

/// A draw of the standard normal distribution (Box and Muller).
fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * rng.random::<f64>().max(1e-12).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "amounts of a simulation are small and positive"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "amounts of a simulation are small"
)]
fn float(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a simulation are small"
)]
fn number(count: usize) -> f64 {
    count as f64
}
