//! What a choice costs: select + reserve + post through the production router and table,
//! beside maps that only look up and reserve; how many cells a choice touches; the memory
//! of a period; the audit.

#[path = "harness/promise.rs"]
mod promise;
#[path = "harness/table.rs"]
mod table;

use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use taugate::registry::snapshot::{Availability, Market, Miner, Offer, Snapshot};
use taugate::routing::{Balance, Balances, Router, RouterSettings, Wish};
use taugate::task::Task;
use taugate_ledger::audit::audit;
use taugate_ledger::engine::{CellGrant, ExchangeReply};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::lease::Lender;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::reservation::Reservation;
use taugate_ledger::table::{Table, Tables};
use taugate_ledger::units::Units;
use tokio::time::Instant;

use self::promise::promise;
use self::table::{Samples, print, row};

const PERIOD: Period = Period::starting_at(3_600_000);
const TASKS: u32 = 20;
const MINERS: [u32; 3] = [10, 1_000, 10_000];
/// A call's units.
const CALL: Units = Units::new(100);
/// What each cell may spend: more than a bench does.
const MUCH: Units = Units::new(1 << 50);
/// Steps of one sample.
const STEPS: u32 = 200_000;
/// Samples of each, in turn.
const ROUNDS: usize = 11;

/// What a call meets in production.
struct Ours {
    router: Router,
    table: Arc<Table>,
    tasks: Vec<String>,
}

/// Ledgers that are maps.
struct Maps {
    miners: u32,
    /// As a gateway has it that numbers nothing: the miner's hotkey and the task's name lead
    /// to a cell that holds what ours holds.
    by_name: DashMap<Vec<u8>, MapCell>,
    /// The leanest that it can be: two small numbers lead to one word.
    by_number: DashMap<Key, AtomicU64>,
    under_a_lock: Mutex<HashMap<Key, u64>>,
}

type Key = (u32, u32);

/// A cell's name, written where it is needed: fetching one of 200,000 from memory would be
/// charged to the map.
struct Name {
    bytes: [u8; 64],
    len: usize,
}

/// As long as a cell of ours.
struct MapCell {
    free: AtomicU64,
    _rest: [u64; 6],
}

fn main() {
    // First, while nothing was freed yet that could be taken again.
    memory();
    touched();
    speed();
}

// === Speed ===

fn speed() {
    let mut rows = vec![row([
        "ns a call, threads",
        "select + reserve + post",
        "DashMap by name",
        "DashMap by number",
        "Mutex<HashMap> by number",
        "ours / by name",
        "ours / by number",
    ])];
    let mut last = f64::NAN;
    for miners in MINERS {
        let ours = Ours::new(miners);
        let maps = Maps::new(miners);
        for threads in [1, 2] {
            let mut found: [Samples; 4] = Default::default();
            for _ in 0..ROUNDS {
                found[0].add(sample(threads, |draws| ours.step(draws)));
                found[1].add(sample(threads, |draws| maps.by_name(draws)));
                found[2].add(sample(threads, |draws| maps.by_number(draws)));
                found[3].add(sample(threads, |draws| maps.under_a_lock(draws)));
            }
            let ratios = [found[0].over(&found[1]), found[0].over(&found[2])];
            if threads == 1 {
                last = ratios[0].median();
            }
            let mut line = row([&format!("{miners} miners x {TASKS} tasks, {threads}")]);
            line.extend(found.iter().map(|samples| samples.told(0)));
            line.extend(ratios.iter().map(|ratio| ratio.told(2)));
            rows.push(line);
        }
    }
    print(
        "A choice, its reservation and its posting; maps only get and reserve",
        &rows,
    );
    promise(
        last <= 0.75,
        &format!(
            "10,000 x {TASKS} on one thread at most 0.75 of DashMap get + reserve, by name \
             ({last:.2})"
        ),
    );
}

/// Nanoseconds of a step, each thread with draws of its own.
fn sample(threads: u64, step: impl Fn(&mut Draws) -> bool + Sync) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let step = &step;
            scope.spawn(move || {
                let mut draws = Draws(thread + 1);
                for _ in 0..STEPS {
                    assert!(black_box(step(&mut draws)), "nothing is spent");
                }
            });
        }
    });
    let all = f64::from(STEPS) * float(threads);
    began.elapsed().as_secs_f64() * 1e9 / all
}

/// By compare-and-swap, as a cell does.
fn reserve(balance: &AtomicU64) -> bool {
    let mut free = balance.load(Ordering::Acquire);
    loop {
        let Some(left) = free.checked_sub(CALL.get()) else {
            return false;
        };
        let swapped =
            balance.compare_exchange_weak(free, left, Ordering::AcqRel, Ordering::Acquire);
        match swapped {
            Ok(_) => return true,
            Err(now) => free = now,
        }
    }
}

// === impl Maps ===

impl Maps {
    fn new(miners: u32) -> Self {
        let keys = || (0..miners).flat_map(|miner| (0..TASKS).map(move |task| (miner, task)));
        let balance = || AtomicU64::new(MUCH.get());
        Self {
            miners,
            by_name: keys()
                .map(|key| (Name::of(key).as_bytes().to_vec(), MapCell::new()))
                .collect(),
            by_number: keys().map(|key| (key, balance())).collect(),
            under_a_lock: Mutex::new(keys().map(|key| (key, MUCH.get())).collect()),
        }
    }

    fn any(&self, draws: &mut Draws) -> Key {
        (draws.below(self.miners), draws.below(TASKS))
    }

    fn by_name(&self, draws: &mut Draws) -> bool {
        let name = Name::of(self.any(draws));
        let cell = self.by_name.get(name.as_bytes());
        reserve(&cell.expect("every cell is there").free)
    }

    fn by_number(&self, draws: &mut Draws) -> bool {
        let balance = self.by_number.get(&self.any(draws));
        reserve(&balance.expect("every cell is there"))
    }

    fn under_a_lock(&self, draws: &mut Draws) -> bool {
        let key = self.any(draws);
        take(&mut self.under_a_lock.lock(), key)
    }
}

impl MapCell {
    fn new() -> Self {
        Self {
            free: AtomicU64::new(MUCH.get()),
            _rest: [0; 6],
        }
    }
}

// === impl Name ===

impl Name {
    /// By hand: what formats numbers costs more than the map does.
    fn of((miner, task): Key) -> Self {
        const HOTKEY: usize = 48;
        const TASK: &[u8; 6] = b"/task-";
        let mut bytes = [b'0'; 64];
        bytes[..2].copy_from_slice(b"5F");
        write_digits(&mut bytes[2..HOTKEY], miner);
        bytes[HOTKEY..HOTKEY + TASK.len()].copy_from_slice(TASK);
        let len = HOTKEY + TASK.len() + if task < 10 { 1 } else { 2 };
        write_digits(&mut bytes[HOTKEY + TASK.len()..len], task);
        Self { bytes, len }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A number at the end of zeros.
fn write_digits(zeros: &mut [u8], mut number: u32) {
    for digit in zeros.iter_mut().rev() {
        if number == 0 {
            return;
        }
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// As long as a hotkey is.
fn hotkey(miner: u32) -> String {
    format!("5F{miner:046}")
}

/// Under the map's lock.
fn take(map: &mut HashMap<Key, u64>, key: Key) -> bool {
    let balance = map.get_mut(&key).expect("every cell is there");
    let left = balance.checked_sub(CALL.get());
    left.map(|left| *balance = left).is_some()
}

// === impl Ours ===

impl Ours {
    fn new(miners: u32) -> Self {
        let table = granted(miners * TASKS);
        let tasks: Vec<_> = (0..TASKS).map(|task| format!("task-{task}")).collect();
        let router = Router::new(RouterSettings::default(), 1, Arc::default());
        let snapshot = snapshot(&tasks, miners);
        router.rebuild(&snapshot, table.as_ref(), 0);
        Self {
            router,
            table,
            tasks,
        }
    }

    fn step(&self, draws: &mut Draws) -> bool {
        let task = &self.tasks[draws.below(TASKS) as usize];
        let mut choices = self.router.choices(task, self.table.as_ref(), wish(), 0);
        let Some(cell) = choices.next_best() else {
            return false;
        };
        let held = Reservation::take(&self.table, &[cell], CALL, Origin::Organic);
        held.is_ok_and(|held| held.post(CALL).posted == CALL)
    }
}

fn wish() -> Wish<'static> {
    Wish {
        units: CALL,
        exclude: &[],
        pinned: None,
        proven_only: false,
        explain: false,
    }
}

/// All cells numbered miner by miner, as declarations that name every task have them.
fn snapshot(tasks: &[String], miners: u32) -> Snapshot {
    let who: Vec<_> = (0..miners)
        .map(|number| {
            Arc::new(Miner {
                hotkey: hotkey(number).into(),
                number,
                endpoint: http::Uri::from_static("http://127.0.0.1:1"),
            })
        })
        .collect();
    let market = |(at, task): (u32, &String)| {
        let offers = who.iter().map(|miner| Offer {
            cell: CellId(miner.number * TASKS + at),
            miner: Arc::clone(miner),
            declared: MUCH,
            allotment: MUCH,
            verified: MUCH,
            proven: true,
            concurrency: Some(8),
            availability: Availability::Free,
        });
        let id: Arc<str> = task.as_str().into();
        let market = Market {
            task: Arc::new(Task::open_chat(Arc::clone(&id))),
            ceiling: None,
            revision: 1,
            offers: offers.collect(),
        };
        (id, Arc::new(market))
    };
    Snapshot {
        proving: false,
        markets: (0..).zip(tasks).map(market).collect(),
        ..Snapshot::default()
    }
}

/// A table whose cells may all spend much.
fn granted(cells: u32) -> Arc<Table> {
    let (tables, lender) = expected(cells);
    grant(&lender, 0..cells);
    tables.current()
}

/// An open period in which every cell stands, as the registry tells it.
fn expected(cells: u32) -> (Arc<Tables>, Lender) {
    let tables = Arc::new(Tables::new(PERIOD));
    let length = PeriodLength::from_secs(3600).expect("not zero");
    let lender = Lender::new(
        Incarnation(1),
        Default::default(),
        Arc::clone(&tables),
        length,
    );
    let all: Vec<_> = (0..cells).map(|cell| (CellId(cell), MUCH)).collect();
    lender.expect(PERIOD, &all);
    (tables, lender)
}

/// Calls lack much in each of these cells, and the engine grants it.
fn grant(lender: &Lender, cells: Range<u32>) {
    for cell in cells {
        lender.need(PERIOD, CellId(cell), MUCH);
    }
    for ask in lender.asks(PERIOD.start_s() * 1000) {
        let grants = ask.cells.iter().map(|asked| CellGrant {
            cell: asked.cell,
            granted: asked.target,
            wanted: MUCH,
            sum_granted: asked.target,
        });
        let cells = grants.collect();
        lender.answered(
            &ask,
            Ok(ExchangeReply {
                seq: ask.seq,
                cells,
                live: 1,
                frozen: false,
            }),
        );
    }
}

// === Cells touched ===

/// Notes which cells a choice looks at.
struct Watched<'a> {
    table: &'a Table,
    seen: Mutex<BTreeSet<CellId>>,
}

impl Balances for Watched<'_> {
    fn balance(&self, cell: CellId) -> Balance {
        self.seen.lock().insert(cell);
        self.table.balance(cell)
    }
}

fn touched() {
    let mut rows = vec![row(["cells a choice looks at", "mean", "most"])];
    let mut most_of_all = 0;
    for miners in MINERS {
        let ours = Ours::new(miners);
        let watched = Watched {
            table: &ours.table,
            seen: Mutex::default(),
        };
        let mut draws = Draws(1);
        let (mut all, mut most) = (0, 0);
        for _ in 0..10_000 {
            let task = &ours.tasks[draws.below(TASKS) as usize];
            let mut choices = ours.router.choices(task, &watched, wish(), 0);
            assert!(choices.next_best().is_some(), "nothing is spent");
            let seen = std::mem::take(&mut *watched.seen.lock()).len();
            all += seen;
            most = most.max(seen);
        }
        most_of_all = most_of_all.max(most);
        let mean = float(all as u64) / 10_000.0;
        rows.push(row([
            &format!("{miners} miners x {TASKS} tasks"),
            &format!("{mean:.3}"),
            &most.to_string(),
        ]));
    }
    print("Cells touched", &rows);
    promise(
        (1..=2).contains(&most_of_all),
        &format!("a choice looks at two cells, of however many miners (most {most_of_all})"),
    );
}

// === Memory, audit ===

fn memory() {
    const CELLS: u32 = 200_000;
    let before = resident_kib();
    let more_mib = || float(resident_kib().saturating_sub(before)) / 1024.0;
    let (tables, lender) = expected(CELLS);
    let declared = more_mib();
    // By and by, so that asks on their way take no room that counts.
    for from in (0..CELLS).step_by(10_000) {
        grant(&lender, from..from + 10_000);
    }
    let asked_for = more_mib();
    let mut audits = Samples::default();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        assert_eq!(black_box(audit(&tables.current())), []);
        audits.add(began.elapsed().as_secs_f64() * 1e3);
    }
    let rows = [
        row(["a period of 200,000 cells", ""]),
        row([
            "resident memory, all cells declared, MiB",
            &format!("{declared:.1}"),
        ]),
        row([
            "the same, all cells asked for and granted, MiB",
            &format!("{asked_for:.1}"),
        ]),
        row(["audit of all cells, ms", &audits.told(1)]),
    ];
    print("Memory and audit", &rows);
    promise(
        declared > 0.0 && declared <= 16.0,
        &format!("200,000 declared cells in at most 16 MiB ({declared:.1})"),
    );
}

/// What this process has in memory; 0 where the system does not say.
fn resident_kib() -> u64 {
    thread::sleep(Duration::from_millis(10));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

// === Draws ===

/// A sequence that its seed decides (splitmix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (mixed ^ (mixed >> 31)) >> 32;
        u32::try_from((high * u64::from(bound)) >> 32).unwrap_or(0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
