//! Validators and miners in fast motion: production scores, router, draws, dues and bursts over
//! invented machines, with no clock but its own.
//!
//! A machine is a server of a fixed rate with so many places, shared by all its hotkeys and
//! tasks. Each period a validator asks in one window at the rate of its allotments, routes its
//! clients' calls, and checks what is due beyond them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::identity::hotkey::Hotkey;
use taugate::registry::snapshot::{Availability, Market, Miner, Offer, Snapshot};
use taugate::routing::{
    Balance, Balances, InFlight, Policy, Router, RouterSettings, Sample, Vitals, Wish,
};
use taugate::scoring::reliability::Tally;
use taugate::scoring::rows::{Demonstration, Finding, PeriodRow};
use taugate::scoring::standing::{Offered, Scale, ScoredTask, Standing};
use taugate::scoring::{Profile, Rows};
use taugate::synthetic::burst::{Asked, BurstSettings, Window};
use taugate::synthetic::draw::{Draws, Luck};
use taugate::synthetic::due::Account;
use taugate::task::{Task, TaskId, UsualTime};
use taugate_ledger::ids::CellId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

pub(crate) const PERIOD_S: u32 = 3600;
const PERIOD_MS: u64 = 3_600_000;
/// Units of a check.
const CHECK: u64 = 300;
/// Units of a client's call.
const CALL: u64 = 600;
/// Seconds before a request's first unit.
const PREFILL_S: f64 = 0.3;
/// A window is looked at so often.
const TICK_MS: u64 = 100;
/// The router weighs everyone anew so often.
const REBUILD_MS: u64 = 10_000;

/// A server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Units a second, over all that it does.
    pub(crate) rate: f64,
    /// Requests at once at full speed each.
    pub(crate) places: u32,
    /// What becomes of requests beyond its places.
    pub(crate) beyond: Beyond,
    /// The part of its requests that fails.
    pub(crate) fails: f64,
    /// The mean quality of its answers.
    pub(crate) quality: f64,
}

/// What becomes of requests beyond a machine's places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// All get slower.
    Slows,
    /// It says "too many".
    Refuses,
    /// They fail.
    Fails,
}

/// A hotkey in a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) hotkey: u16,
    pub(crate) task: usize,
    pub(crate) machine: usize,
    /// Units a period.
    pub(crate) declared: u64,
    /// The period in which it comes.
    pub(crate) joins: u64,
    /// In which of five windows, over and over, it answers at all.
    pub(crate) answers: [bool; 5],
}

/// A validator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validator {
    /// Its part of all stake.
    pub(crate) share: f64,
    /// Its clients' demand, as a part of all allotments.
    pub(crate) organic: f64,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) machines: Vec<Machine>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) tasks: usize,
    /// Whether speed counts.
    pub(crate) paced: bool,
    pub(crate) validator: Validator,
    pub(crate) seed: u64,
}

/// One validator's view of the network.
pub(crate) struct World {
    setup: Setup,
    rng: StdRng,
    number: u64,
    rows: Rows,
    vitals: Arc<Vitals>,
    router: Router,
    purse: Purse,
}

/// A request at a machine in a window.
struct Asking {
    cell: usize,
    units: u64,
    left: f64,
    sent_ms: u64,
}

/// What a period came to in a cell.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    organic: u64,
    synthetic: u64,
    /// Checks among the good ones.
    checked: u64,
    good: u64,
    busy: u64,
    failed: u64,
}

/// What may still be spent, by cell.
#[derive(Debug, Default)]
struct Purse {
    allotted: Vec<u64>,
    spent: Vec<AtomicU64>,
}

impl Balances for Purse {
    fn balance(&self, cell: CellId) -> Balance {
        let at = cell.0 as usize;
        let spent = self.spent[at].load(Ordering::Relaxed);
        Balance {
            left: Units::new(self.allotted[at].saturating_sub(spent)),
            spent: Units::new(spent),
        }
    }
}

// === impl Machine ===

impl Machine {
    /// A server of so many units a second, thirty of them in each place.
    pub(crate) fn of(rate: f64) -> Self {
        Self {
            rate,
            places: small(rate / 30.0),
            beyond: Beyond::Slows,
            fails: 0.002,
            quality: 0.98,
        }
    }

    /// What it can do in a period.
    pub(crate) fn whole(&self) -> u64 {
        whole(self.rate * f64::from(PERIOD_S))
    }

    /// Units a second of one request among so many.
    fn speed(&self, running: usize) -> f64 {
        let running = f64::from(u32::try_from(running.max(1)).expect("a few"));
        (self.rate / running).min(self.rate / f64::from(self.places))
    }
}

// === impl Cell ===

impl Cell {
    pub(crate) fn of(hotkey: u16, machine: usize, declared: u64) -> Self {
        Self {
            hotkey,
            task: 0,
            machine,
            declared,
            joins: 0,
            answers: [true; 5],
        }
    }
}

/// A hotkey by its number.
pub(crate) fn hotkey(number: u16) -> Hotkey {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    Hotkey::from_bytes(bytes)
}

fn task(number: usize) -> TaskId {
    format!("task-{number}").into()
}

fn length() -> PeriodLength {
    PeriodLength::from_secs(PERIOD_S).expect("not zero")
}

// === impl World ===

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let settings = RouterSettings {
            policy: Policy::TwoChoices,
            period: Duration::from_secs(u64::from(PERIOD_S)),
        };
        let vitals = Arc::new(Vitals::default());
        Self {
            rng: StdRng::seed_from_u64(setup.seed),
            number: 0,
            rows: Rows::default(),
            router: Router::new(settings, setup.seed, Arc::clone(&vitals)),
            vitals,
            purse: Purse::default(),
            setup,
        }
    }

    /// One period.
    pub(crate) fn turn(&mut self) {
        self.number += 1;
        self.vitals.turn();
        let cells = self.setup.cells.len();
        self.purse = Purse {
            allotted: (0..cells).map(|at| self.allotment(at)).collect(),
            spent: (0..cells).map(|_| AtomicU64::new(0)).collect(),
        };
        let mut came = vec![Came::default(); cells];
        self.window(&mut came);
        for task in 0..self.setup.tasks {
            self.clients(task, &mut came);
        }
        for (at, came) in came.iter_mut().enumerate() {
            self.checks(at, came);
        }
        self.keep(&came);
    }

    /// What stands at the end of the period.
    pub(crate) fn standing(&self, name: &str, profile: Profile) -> Standing {
        let count = u32::try_from(self.setup.tasks).expect("a few");
        let tasks: Vec<ScoredTask> = (0..self.setup.tasks)
            .map(|number| ScoredTask {
                id: task(number),
                weight: f64::from(count).recip(),
                usual: self.setup.paced.then_some(UsualTime {
                    overhead_s: PREFILL_S,
                    unit_s: 1.0 / 28.0,
                    variance: 20.0,
                }),
                lenient: false,
            })
            .collect();
        let offers: Vec<Offered> = (0..self.setup.cells.len())
            .map(|at| Offered {
                miner: hotkey(self.setup.cells[at].hotkey),
                task: task(self.setup.cells[at].task),
                allotment: Units::new(self.allotment(at)),
            })
            .collect();
        let scale = Scale {
            name: name.into(),
            profile,
            period: self.period(),
            period_s: u64::from(PERIOD_S),
        };
        Standing::new(&tasks, &offers, &self.rows, scale)
    }

    /// The proposal's approach 2: who is free is asked and paid by the query, so that what was
    /// served is what is paid for.
    pub(crate) fn served(&self) -> BTreeMap<Hotkey, f64> {
        let mut served: BTreeMap<Hotkey, f64> = BTreeMap::new();
        for row in &self.rows.periods {
            *served.entry(row.miner).or_default() += row.tally.posted.as_f64();
        }
        let all: f64 = served.values().sum();
        served.values_mut().for_each(|units| *units /= all.max(1.0));
        served
    }

    fn period(&self) -> Period {
        Period::starting_at(self.number * u64::from(PERIOD_S))
    }

    fn allotment(&self, at: usize) -> u64 {
        let cell = &self.setup.cells[at];
        let declared = Units::new(cell.declared);
        if self.number < cell.joins {
            0
        } else {
            declared.scaled(self.setup.validator.share).get()
        }
    }

    fn machine(&self, at: usize) -> Machine {
        self.setup.machines[self.setup.cells[at].machine]
    }

    /// Everybody is asked at the rate of its allotment, over all tasks, for ten seconds.
    fn window(&mut self, came: &mut [Came]) {
        let settings = BurstSettings::default();
        let begins_ms = self.number * PERIOD_MS + self.rng.random_range(0..PERIOD_MS / 2);
        let length_ms = u64::try_from(settings.window(length()).as_millis()).expect("short");
        let window = Window {
            begins_ms,
            length_ms,
            common: true,
        };
        let turn = usize::try_from(self.number % 5).expect("less than five");
        let cells = self.setup.cells.len();
        let mut running: Vec<Vec<Asking>> =
            self.setup.machines.iter().map(|_| Vec::new()).collect();
        let (mut shown, mut pauses) = (vec![0.0; cells], vec![0; cells]);
        for now_ms in (0..length_ms).step_by(usize::try_from(TICK_MS).expect("short")) {
            for at in 0..cells {
                if self.allotment(at) == 0 || pauses[at] > now_ms {
                    continue;
                }
                let (machine, cell) = (self.machine(at), self.setup.cells[at]);
                let own = running[cell.machine].iter().filter(|one| one.cell == at);
                let asked = self.asked(at, shown[at], own.count());
                let sent = window.send(&asked, Duration::from_millis(now_ms));
                for _ in 0..sent.checks {
                    let places = usize::try_from(machine.places).expect("a few");
                    let full = running[cell.machine].len() >= places;
                    if !cell.answers[turn] || full && machine.beyond != Beyond::Slows {
                        came[at].busy += u64::from(machine.beyond != Beyond::Fails);
                        came[at].failed += u64::from(machine.beyond == Beyond::Fails);
                        pauses[at] = now_ms + 1000;
                        break;
                    }
                    running[cell.machine].push(Asking {
                        cell: at,
                        units: sent.units.get(),
                        left: sent.units.as_f64(),
                        sent_ms: now_ms,
                    });
                }
            }
            for (at, running) in running.iter_mut().enumerate() {
                let speed = self.setup.machines[at].speed(running.len());
                let begun = |one: &Asking| seconds(now_ms - one.sent_ms) >= PREFILL_S;
                for one in running.iter_mut().filter(|one| begun(one)) {
                    let units = (speed * seconds(TICK_MS)).min(one.left);
                    one.left -= units;
                    shown[one.cell] += units;
                }
                for one in running.iter().filter(|one| one.left <= 0.0) {
                    let took_s = seconds(now_ms + TICK_MS - one.sent_ms);
                    self.checked(&mut came[one.cell], one, took_s);
                }
                running.retain(|one| one.left > 0.0);
            }
        }
        // What runs on beyond the window shows nothing in it, but is delivered.
        for (at, running) in running.iter().enumerate() {
            let speed = self.setup.machines[at].speed(running.len());
            for one in running {
                let took_s = seconds(length_ms - one.sent_ms) + one.left / speed;
                self.checked(&mut came[one.cell], one, took_s);
            }
        }
        self.show(window, &shown);
    }

    /// Keeps what was shown in a window.
    fn show(&mut self, window: Window, shown: &[f64]) {
        for (at, units) in shown.iter().enumerate() {
            let allotment = Units::new(self.allotment(at));
            if allotment.is_zero() {
                continue;
            }
            let cell = self.setup.cells[at];
            self.rows.demonstrations.push(Demonstration {
                miner: hotkey(cell.hotkey),
                task: task(cell.task),
                begins_ms: window.begins_ms,
                length_ms: window.length_ms,
                common: true,
                asked: window.work(allotment, length()),
                units: Units::new(whole(*units)),
            });
        }
    }

    /// A check of a window that ended good.
    fn checked(&mut self, came: &mut Came, one: &Asking, took_s: f64) {
        came.good += 1;
        came.checked += 1;
        came.synthetic += one.units;
        self.find(one.cell, (one.units, took_s));
    }

    fn asked(&self, at: usize, shown: f64, in_flight: usize) -> Asked {
        let allotment = Units::new(self.allotment(at));
        let machine = self.machine(at);
        Asked {
            rate: allotment.as_f64() / f64::from(PERIOD_S),
            concurrency: None,
            service_s: f64::from(machine.places) / machine.rate,
            in_flight: u32::try_from(in_flight).expect("a few"),
            shown,
            due: BurstSettings::default().first_burst(allotment, length()),
            closed: false,
            check_units: Units::new(CHECK),
        }
    }

    /// Clients' calls of a task, through the production router.
    fn clients(&mut self, number: usize, came: &mut [Came]) {
        let cells: Vec<usize> = (0..self.setup.cells.len())
            .filter(|at| self.setup.cells[*at].task == number && self.allotment(*at) > 0)
            .collect();
        let all: u64 = cells.iter().map(|at| self.allotment(*at)).sum();
        let calls = whole(Units::new(all).as_f64() * self.setup.validator.organic) / CALL;
        let begins_ms = self.number * PERIOD_MS;
        let mut ends: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let mut running: HashMap<u64, (usize, InFlight, bool, u64)> = HashMap::new();
        let mut places = vec![0_u32; self.setup.machines.len()];
        let mut rebuilt_ms = 0;
        for call in 0..calls {
            let now_ms = begins_ms + call * PERIOD_MS / calls;
            while let Some(Reverse((at_ms, ended))) = ends.peek().copied() {
                if at_ms > now_ms {
                    break;
                }
                ends.pop();
                let (at, place, good, took_ms) = running.remove(&ended).expect("it runs");
                places[self.setup.cells[at].machine] -= 1;
                self.ended(at, place, (good, took_ms, at_ms));
                came[at].organic += if good { CALL } else { 0 };
                came[at].good += u64::from(good);
                came[at].failed += u64::from(!good);
            }
            if call == 0 || now_ms >= rebuilt_ms + REBUILD_MS {
                rebuilt_ms = now_ms;
                self.rebuild(number, &cells, now_ms);
            }
            if let Some((at, place)) = self.dispatched(number, now_ms, &places, came) {
                let machine = self.machine(at);
                let good = self.rng.random_range(0.0..1.0) >= machine.fails;
                let busy = &mut places[self.setup.cells[at].machine];
                *busy += 1;
                let speed = machine.speed(usize::try_from(*busy).expect("a few"));
                let took_s = PREFILL_S + Units::new(CALL).as_f64() / speed;
                let took_ms = whole(took_s * 1000.0);
                self.purse.spent[at].fetch_add(CALL, Ordering::Relaxed);
                ends.push(Reverse((now_ms + took_ms, call)));
                running.insert(call, (at, place, good, took_ms));
            }
        }
        for (at, place, good, took_ms) in running.into_values() {
            self.ended(at, place, (good, took_ms, begins_ms + PERIOD_MS));
            came[at].organic += if good { CALL } else { 0 };
            came[at].good += u64::from(good);
            came[at].failed += u64::from(!good);
        }
    }

    /// The cell that takes a client's call, after three tries at most.
    fn dispatched(
        &self,
        number: usize,
        now_ms: u64,
        places: &[u32],
        came: &mut [Came],
    ) -> Option<(usize, InFlight)> {
        let name = task(number);
        let mut tried: Vec<CellId> = Vec::new();
        while tried.len() < 3 {
            let wish = Wish {
                units: Units::new(CALL),
                exclude: &tried,
                pinned: None,
                proven_only: false,
                explain: false,
            };
            let mut choices = self.router.choices(&name, &self.purse, wish, now_ms);
            let chosen = choices.next_best()?;
            let at = chosen.0 as usize;
            let machine = self.machine(at);
            let place = self.vitals.begin(chosen, Units::new(CALL));
            let outcome = match machine.beyond {
                Beyond::Slows => return Some((at, place)),
                _ if places[self.setup.cells[at].machine] < machine.places => {
                    return Some((at, place));
                }
                Beyond::Fails => Outcome::Lost,
                Beyond::Refuses => Outcome::Busy,
            };
            came[at].busy += u64::from(outcome == Outcome::Busy);
            came[at].failed += u64::from(outcome == Outcome::Lost);
            self.vitals.ended(place, outcome, sample(20, 0), now_ms);
            tried.push(chosen);
        }
        None
    }

    fn ended(&self, at: usize, place: InFlight, (good, took_ms, now_ms): (bool, u64, u64)) {
        let outcome = if good { Outcome::Good } else { Outcome::Lost };
        let units = if good { CALL } else { 0 };
        if !good {
            self.purse.spent[at].fetch_sub(CALL, Ordering::Relaxed);
        }
        self.vitals
            .ended(place, outcome, sample(took_ms, units), now_ms);
    }

    /// An unproven miner is paced by what it showed.
    fn rebuild(&self, number: usize, cells: &[usize], now_ms: u64) {
        let offers = cells.iter().map(|at| {
            let allotment = Units::new(self.allotment(*at));
            let cell = u32::try_from(*at).expect("a few");
            Offer {
                cell: CellId(cell),
                miner: Arc::new(Miner {
                    hotkey: cell.to_string().into(),
                    number: cell,
                    endpoint: http::Uri::from_static("http://127.0.0.1:1"),
                }),
                declared: allotment,
                allotment,
                verified: self.shown(*at).min(allotment),
                proven: true,
                concurrency: None,
                availability: Availability::Free,
            }
        });
        let market = Market {
            task: Arc::new(Task::open_chat(task(number))),
            ceiling: None,
            revision: self.number,
            offers: offers.collect(),
        };
        let snapshot = Snapshot {
            markets: HashMap::from([(task(number), Arc::new(market))]),
            ..Snapshot::default()
        };
        self.router.rebuild(&snapshot, &self.purse, now_ms);
    }

    /// What a cell showed in the newest window.
    fn shown(&self, at: usize) -> Units {
        let cell = self.setup.cells[at];
        let (miner, task) = (hotkey(cell.hotkey), task(cell.task));
        let mut rows = self.rows.demonstrations.iter().rev();
        let row = rows.find(|row| row.miner == miner && row.task == task);
        row.map_or(Units::ZERO, |row| {
            Units::new(u64::from(PERIOD_S)).scaled(row.rate())
        })
    }

    /// Checks of what is due beyond clients' work, one at a time.
    fn checks(&mut self, at: usize, came: &mut Came) {
        let allotment = Units::new(self.allotment(at));
        if allotment.is_zero() {
            return;
        }
        let machine = self.machine(at);
        let cell = CellId(u32::try_from(at).expect("a few"));
        let mut rng = Luck::Seeded(self.setup.seed).rng(self.period(), cell, 0);
        let mut account = Account {
            allotment,
            part: Draws::default().part(&mut rng),
            least: Units::ZERO,
            check: Units::new(CHECK),
            floor: true,
            organic: Units::new(came.organic),
            synthetic: Units::new(came.synthetic),
            in_flight: Units::ZERO,
            attempts: came.good + came.busy + came.failed,
            good: came.checked,
        };
        let speed = machine.speed(1);
        let mut left_s = f64::from(PERIOD_S) * 0.98;
        while !account.due().is_zero() && !account.is_given_up() && left_s > 0.0 {
            account.attempts += 1;
            let slower = 0.9 + 0.2 * self.rng.random_range(0.0..1.0);
            let took_s = PREFILL_S + Units::new(CHECK).as_f64() / speed * slower;
            left_s -= took_s;
            if self.rng.random_range(0.0..1.0) < machine.fails {
                came.failed += 1;
                continue;
            }
            came.good += 1;
            came.synthetic += CHECK;
            account.good += 1;
            account.synthetic = account.synthetic.saturating_add(Units::new(CHECK));
            self.find(at, (CHECK, took_s));
        }
    }

    /// What a checker finds: most answers are whole, the others worth half.
    fn find(&mut self, at: usize, (units, seconds): (u64, f64)) {
        let (cell, quality) = (self.setup.cells[at], self.machine(at).quality);
        let whole = self.rng.random_range(0.0..1.0) < 2.0 * quality - 1.0;
        self.rows.findings.push(Finding {
            miner: hotkey(cell.hotkey),
            task: task(cell.task),
            quality: if whole { 1.0 } else { 0.5 },
            units: Units::new(units),
            seconds,
            at_ms: self.number * PERIOD_MS,
        });
    }

    /// Keeps the period, and drops what no profile looks at any more.
    fn keep(&mut self, came: &[Came]) {
        let period = self.period();
        for (at, came) in came.iter().enumerate() {
            if self.allotment(at) == 0 {
                continue;
            }
            let cell = self.setup.cells[at];
            self.rows.periods.push(PeriodRow {
                period,
                miner: hotkey(cell.hotkey),
                task: task(cell.task),
                tally: Tally {
                    allotment: Units::new(self.allotment(at)),
                    posted: Units::new(came.organic + came.synthetic),
                    good: came.good,
                    busy: came.busy,
                    failed: came.failed,
                },
                synthetic: Units::new(came.synthetic),
            });
        }
        let from = self.number.saturating_sub(48);
        let from_s = from * u64::from(PERIOD_S);
        self.rows
            .periods
            .retain(|row| row.period.start_s() >= from_s);
        self.rows
            .findings
            .retain(|row| row.at_ms >= from * PERIOD_MS);
        self.rows
            .demonstrations
            .retain(|row| row.begins_ms >= from * PERIOD_MS);
    }
}

fn sample(took_ms: u64, units: u64) -> Sample {
    Sample {
        first_chunk: (units > 0).then(|| Duration::from_secs_f64(PREFILL_S)),
        duration: Duration::from_millis(took_ms),
        units: Units::new(units),
        output: Units::new(units),
    }
}

fn whole(number: f64) -> u64 {
    Units::new(1).scaled(number).get()
}

fn small(number: f64) -> u32 {
    u32::try_from(whole(number)).expect("a few").max(1)
}

fn seconds(millis: u64) -> f64 {
    Units::new(millis).as_f64() / 1000.0
}

// === What is compared ===

/// The correlation of two validators' weights, and half the sum of their differences.
pub(crate) fn agreement(one: &BTreeMap<Hotkey, f64>, other: &BTreeMap<Hotkey, f64>) -> (f64, f64) {
    let pairs: Vec<(f64, f64)> = one
        .iter()
        .map(|(miner, weight)| (*weight, other.get(miner).copied().unwrap_or(0.0)))
        .collect();
    let count = f64::from(u32::try_from(pairs.len()).expect("a few"));
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let product: f64 = pairs.iter().map(|pair| (pair.0 - x) * (pair.1 - y)).sum();
    let of_x: f64 = pairs.iter().map(|pair| (pair.0 - x).powi(2)).sum();
    let of_y: f64 = pairs.iter().map(|pair| (pair.1 - y).powi(2)).sum();
    let apart: f64 = pairs.iter().map(|pair| (pair.0 - pair.1).abs()).sum();
    (product / (of_x * of_y).sqrt(), apart / 2.0)
}

/// Two validators of unequal stake over the same honest miners: one with heavy traffic, one with
/// checks only.
pub(crate) fn two_validators(miners: u16, seed: u64) -> [World; 2] {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut setup = Setup {
        machines: Vec::new(),
        cells: Vec::new(),
        tasks: 1,
        paced: true,
        validator: Validator {
            share: 0.7,
            organic: 0.6,
        },
        seed,
    };
    for number in 0..miners {
        // From a card to a small rack; quality and failures differ too.
        let draw: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5)).sum();
        let machine = Machine {
            fails: rng.random_range(0.0..0.02),
            quality: rng.random_range(0.85..1.0),
            ..Machine::of(150.0 * (0.7 * draw).exp())
        };
        setup
            .cells
            .push(Cell::of(number, usize::from(number), machine.whole()));
        setup.machines.push(machine);
    }
    let quiet = Setup {
        validator: Validator {
            share: 0.3,
            organic: 0.0,
        },
        seed: seed + 1,
        ..setup.clone()
    };
    [World::new(setup), World::new(quiet)]
}

/// What a miner tries, beside its honest twin: the same machine, declared as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// Declares ten times what it serves.
    TenTimes,
    /// The same, towards a validator with a quarter of all stake.
    TenTimesOfAQuarter,
    /// Stands behind four hotkeys, each of which declares all of it.
    FourHotkeys,
    /// Stands behind five hotkeys with a third of it each, three of which answer in any window.
    Rotating,
    /// Declares all of it for each of two tasks; its twin declares half for each.
    TwoTasks,
    /// None: an honest half behind each of two hotkeys.
    Split,
    /// None: it comes in a later period.
    Newcomer,
    /// None: it has half the places that it needs, and says "too many" beyond them.
    Polite,
    /// The same machine, whose requests beyond its places fail.
    Failing,
}

/// The period in which a newcomer comes.
pub(crate) const JOINS: u64 = 12;

const TWIN: u16 = 100;
const FIRST: u16 = 200;

/// A network of honest miners, one that tries a trick, and its twin.
pub(crate) fn with_trick(trick: Trick, seed: u64) -> World {
    let honest = |rate: f64| Machine {
        quality: 1.0,
        ..Machine::of(rate)
    };
    let mut machines: Vec<Machine> = [90.0, 150.0, 240.0, 360.0, 600.0, 900.0]
        .into_iter()
        .map(honest)
        .collect();
    let tasks = if trick == Trick::TwoTasks { 2 } else { 1 };
    let mut cells = Vec::new();
    for (machine, of) in machines.iter().enumerate() {
        for task in 0..tasks {
            let hotkey = u16::try_from(machine).expect("a few");
            let declared = of.whole() / u64::try_from(tasks).expect("a few");
            let cell = Cell::of(hotkey, machine, declared);
            cells.push(Cell { task, ..cell });
        }
    }
    let (own, twin) = (machines.len(), machines.len() + 1);
    let whole = honest(300.0).whole();
    machines.push(tricky(trick, honest(300.0)));
    machines.push(honest(300.0));
    for task in 0..tasks {
        let declared = whole / u64::try_from(tasks).expect("a few");
        let cell = Cell::of(TWIN, twin, declared);
        cells.push(Cell { task, ..cell });
    }
    let add = |number: u16, declared: u64| Cell::of(FIRST + number, own, declared);
    match trick {
        Trick::TenTimes | Trick::TenTimesOfAQuarter => cells.push(add(0, whole * 10)),
        Trick::FourHotkeys => cells.extend((0..4).map(|number| add(number, whole))),
        Trick::Rotating => cells.extend((0..5).map(|number| {
            let first = usize::from(number);
            let answers = [0, 1, 2, 3, 4].map(|turn| (turn + first) % 5 < 3);
            Cell {
                answers,
                ..add(number, whole / 3)
            }
        })),
        Trick::TwoTasks => cells.extend((0..2).map(|task| Cell {
            task,
            ..add(0, whole)
        })),
        Trick::Split => cells.extend((0..2).map(|number| add(number, whole / 2))),
        Trick::Newcomer => cells.push(Cell {
            joins: JOINS,
            ..add(0, whole)
        }),
        Trick::Polite | Trick::Failing => cells.push(add(0, whole)),
    }
    World::new(Setup {
        machines,
        cells,
        tasks,
        paced: false,
        validator: Validator {
            share: if trick == Trick::TenTimesOfAQuarter {
                0.25
            } else {
                1.0
            },
            organic: 0.3,
        },
        seed,
    })
}

/// The machine behind a trick.
fn tricky(trick: Trick, honest: Machine) -> Machine {
    let beyond = match trick {
        Trick::Polite => Beyond::Refuses,
        Trick::Failing => Beyond::Fails,
        Trick::TenTimes
        | Trick::TenTimesOfAQuarter
        | Trick::FourHotkeys
        | Trick::Rotating
        | Trick::TwoTasks
        | Trick::Split
        | Trick::Newcomer => return honest,
    };
    Machine {
        places: honest.places / 2,
        rate: honest.rate / 2.0,
        beyond,
        ..honest
    }
}

/// What all hotkeys of whoever tries a trick get, over what its twin gets.
pub(crate) fn gain(standing: &Standing) -> f64 {
    let tried = standing.weights.range(hotkey(FIRST)..);
    let tried: f64 = tried.map(|(_, weight)| weight).sum();
    tried / standing.weights[&hotkey(TWIN)]
}
