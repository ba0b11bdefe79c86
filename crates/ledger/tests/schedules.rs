//! The books under schedules of faults: gateways over small cells that lose, double and
//! reorder what they say to the engine, die, stop, and live through cuts and turns.
//!
//! After each step the promises hold; when the faults are over, nothing is left behind.
//! `TAUGATE_SCHEDULES` sets how many schedules are tried; a failing one names its seed, and
//! `TAUGATE_SEED` tries that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, ExchangeAsk, ExchangeError, ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::journal::{Journal, Permit};
use taugate_ledger::lease::{Lender, LenderSettings};
use taugate_ledger::model::ModelStore;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::reservation::{Cause, Reservation, ReserveError};
use taugate_ledger::table::Tables;
use taugate_ledger::units::Units;

const CELLS: [CellId; 3] = [CellId(0), CellId(1), CellId(2)];
const GATEWAYS: usize = 3;
const STEPS: usize = 80;

/// A call that holds units.
struct Call {
    number: u64,
    held: Reservation,
    slot: Permit<u64>,
}

struct Gateway {
    inc: Incarnation,
    tables: Arc<Tables>,
    lender: Lender,
    journal: Arc<Journal<u64>>,
    calls: Vec<Call>,
    numbers: u64,
    /// Units of each call that was told to be durable.
    recorded: BTreeSet<(u64, u64)>,
    /// Units of each ended call.
    ended: BTreeMap<(Period, u64), Units>,
    alive: bool,
    stopping: bool,
}

/// What is on its way between a gateway and the engine.
#[derive(Clone)]
enum Message {
    Exchange(usize, ExchangeAsk),
    Granted(usize, ExchangeAsk, Result<ExchangeReply, ExchangeError>),
    Append(usize, AppendAsk),
    Appended(usize, Period, Result<AppendReply, AppendError>),
}

/// How much went on, so that a schedule of nothing proves nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    steps: u64,
    posted: u64,
    shorts: u64,
    parts: u64,
    lost: u64,
    doubled: u64,
    overtaken: u64,
    killed: u64,
    stopped: u64,
    periods_closed: u64,
    full: u64,
}

struct World {
    rng: ChaCha8Rng,
    store: ModelStore,
    length: PeriodLength,
    now_ms: u64,
    current: Period,
    periods: Vec<Period>,
    wanted: BTreeMap<(Period, CellId), Units>,
    gateways: Vec<Gateway>,
    net: Vec<Message>,
    faults: bool,
    tally: Tally,
}

// === impl Gateway ===

impl Gateway {
    fn start(store: &ModelStore, period: Period, length: PeriodLength) -> Self {
        let inc = store.new_incarnation("g");
        let tables = Arc::new(Tables::new(period));
        let settings = LenderSettings {
            cells_max: 2,
            ..LenderSettings::default()
        };
        Self {
            inc,
            lender: Lender::new(inc, settings, Arc::clone(&tables), length),
            tables,
            journal: Arc::new(Journal::new(inc, 12)),
            calls: Vec::new(),
            numbers: 0,
            recorded: BTreeSet::new(),
            ended: BTreeMap::new(),
            alive: true,
            stopping: false,
        }
    }

    fn end(&mut self, call: Call, how: u32) -> u64 {
        let Call { number, held, slot } = call;
        let cells = held.cells().to_vec();
        let (delivered, reserved) = (held.delivered(), held.reserved());
        let posted = match how {
            0 => match held.void(Cause::Failed) {
                Ok(settled) => settled.posted,
                Err(refused) => refused.posted,
            },
            1 => {
                drop(held);
                delivered
            }
            2 => held.post(reserved).posted,
            _ => held.post(delivered).posted,
        };
        assert!(posted <= reserved, "I3: posted beyond what was reserved");
        let told = self.ended.insert((slot.period(), number), posted);
        assert_eq!(told, None, "I2: a call ended twice");
        slot.send(
            receipt(number, &cells, posted, Finish::Attempt(Outcome::Good)),
            Some(number),
        );
        posted.get()
    }

    fn live(&self) -> bool {
        self.alive && !self.stopping
    }
}

fn receipt(call: u64, cells: &[CellId], units: Units, finish: Finish) -> Receipt {
    let attempt = Attempt {
        cell: cells[0],
        outcome: Outcome::Good,
        units,
        first_chunk_us: None,
        duration_us: 1,
    };
    Receipt {
        call,
        origin: Origin::Organic,
        client: Arc::from(""),
        task: Arc::from(""),
        admitted_ms: 0,
        finish,
        quality: Quality::Exact,
        units,
        prompt_units: Units::ZERO,
        held: cells.iter().copied().collect(),
        attempts: std::iter::once(attempt).collect(),
        digest: [0; 32],
        labels: Vec::new(),
        claim: None,
    }
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let length = PeriodLength::from_secs(60).expect("a length");
        let first = Period::starting_at(600);
        let mut world = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            store: ModelStore::new(),
            length,
            now_ms: 600_000,
            current: first,
            periods: Vec::new(),
            wanted: BTreeMap::new(),
            gateways: Vec::new(),
            net: Vec::new(),
            faults: true,
            tally: Tally::default(),
        };
        world.open(first);
        for _ in 0..GATEWAYS {
            let gateway = Gateway::start(&world.store, first, length);
            world.gateways.push(gateway);
        }
        world
    }

    fn open(&mut self, period: Period) {
        self.periods.push(period);
        for cell in CELLS {
            let wanted = Units::new(self.rng.random_range(5..=40));
            self.want(period, cell, wanted);
        }
    }

    fn want(&mut self, period: Period, cell: CellId, wanted: Units) {
        self.wanted.insert((period, cell), wanted);
        self.store
            .set_wanted(period, cell, wanted)
            .expect("a check");
    }

    fn dice(&mut self, of: u32) -> u32 {
        self.rng.random_range(0..of)
    }

    fn step(&mut self) {
        self.tally.steps += 1;
        self.now_ms += u64::from(self.dice(200));
        let alive = |at: &usize| self.gateways[*at].alive;
        let alive: Vec<_> = (0..self.gateways.len()).filter(alive).collect();
        let at = alive[self.rng.random_range(0..alive.len())];
        match self.dice(400) {
            0..90 => self.admit(at),
            90..125 => self.progress(at),
            125..165 => self.end_one(at),
            165..215 => self.ask(at),
            215..240 => self.append(at),
            240..360 => (0..self.net.len().min(4)).for_each(|_| self.deliver()),
            360..370 => self.cut(),
            370..380 => self.turn(at),
            380..392 => self.close_past(at),
            392..394 => self.kill(at),
            394 => self.gateways[at].stopping = true,
            _ => self.open_ahead(at),
        }
        self.stop_step(at);
        self.check();
    }

    /// A call that lacks units draws, sees some messages pass, and tries again.
    fn admit(&mut self, at: usize) {
        let first = self.dice(3) as usize;
        let cells = match self.dice(3) {
            0 => vec![CELLS[first], CELLS[(first + 1) % 3]],
            _ => vec![CELLS[first]],
        };
        let units = Units::new(u64::from(self.dice(4)) + 1);
        if !self.take(at, &cells, units) {
            self.ask(at);
            (0..self.net.len().min(6)).for_each(|_| self.deliver());
            self.take(at, &cells, units);
        }
    }

    fn take(&mut self, at: usize, cells: &[CellId], units: Units) -> bool {
        let gateway = &mut self.gateways[at];
        if !gateway.live() {
            return true;
        }
        let table = gateway.tables.current();
        let Some(slot) = gateway.journal.try_permit(table.period()) else {
            self.tally.full += 1;
            return true;
        };
        match Reservation::take(&table, cells, units, Origin::Organic) {
            Ok(held) => {
                gateway.numbers += 1;
                let number = gateway.numbers;
                gateway.calls.push(Call { number, held, slot });
                true
            }
            Err(ReserveError::Short { cell, lacking }) => {
                self.tally.shorts += 1;
                gateway.lender.need(table.period(), cell, lacking);
                false
            }
        }
    }

    fn progress(&mut self, at: usize) {
        let (which, grow, part) = (self.dice(8) as usize, self.dice(3), self.dice(2) == 0);
        let gateway = &mut self.gateways[at];
        let count = gateway.calls.len();
        if count == 0 || !gateway.alive {
            return;
        }
        let call = &mut gateway.calls[which % count];
        let period = call.slot.period();
        if let Err(ReserveError::Short { cell, lacking }) =
            call.held.extend(Units::new(grow.into()))
        {
            gateway.lender.need(period, cell, lacking);
        }
        let more = call.held.delivered().saturating_add(Units::new(2));
        let total = more.min(call.held.reserved());
        call.held.deliver(total).expect("within what is held");
        if part
            && total > call.held.posted()
            && let Some(slot) = gateway.journal.try_permit(period)
        {
            let units = call.held.post_part();
            slot.send(
                receipt(call.number, call.held.cells(), units, Finish::Running),
                None,
            );
            self.tally.parts += 1;
        }
    }

    fn end_one(&mut self, at: usize) {
        let (which, how) = (self.dice(8) as usize, self.dice(4));
        let gateway = &mut self.gateways[at];
        if gateway.alive && !gateway.calls.is_empty() {
            let call = gateway.calls.swap_remove(which % gateway.calls.len());
            self.tally.posted += gateway.end(call, how);
        }
    }

    fn ask(&mut self, at: usize) {
        let gateway = &self.gateways[at];
        if gateway.live() {
            let asks = gateway.lender.asks(self.now_ms);
            self.net
                .extend(asks.into_iter().map(|ask| Message::Exchange(at, ask)));
        }
    }

    fn open_ahead(&mut self, at: usize) {
        let gateway = &self.gateways[at];
        let next = self.length.next(gateway.tables.current().period());
        if gateway.live() && self.periods.contains(&next) {
            gateway.tables.open(next);
            let asks = gateway.lender.open_ahead(self.now_ms);
            self.net
                .extend(asks.into_iter().map(|ask| Message::Exchange(at, ask)));
        }
    }

    fn append(&mut self, at: usize) {
        let most = self.dice(4) as usize + 1;
        let gateway = &self.gateways[at];
        if gateway.alive
            && let Some(ask) = gateway.journal.next_append(most)
        {
            self.net.push(Message::Append(at, ask));
        }
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.net.len());
        let (lost, doubled) = (self.dice(10) == 0, self.dice(7) == 0);
        let message = if self.faults && doubled {
            self.tally.doubled += 1;
            self.net[which].clone()
        } else {
            self.net.swap_remove(which)
        };
        if !(self.faults && lost) {
            return self.arrive(message);
        }
        self.tally.lost += 1;
        // Whoever asked waits for a while and then knows nothing.
        let unknown = match message {
            Message::Exchange(at, ask) | Message::Granted(at, ask, _) => {
                Message::Granted(at, ask, Err(ExchangeError::Unavailable))
            }
            Message::Append(at, ask) => {
                Message::Appended(at, ask.period, Err(AppendError::Unavailable))
            }
            Message::Appended(at, period, _) => {
                Message::Appended(at, period, Err(AppendError::Unavailable))
            }
        };
        self.arrive(unknown);
    }

    fn arrive(&mut self, message: Message) {
        match message {
            Message::Exchange(at, ask) => {
                let answer = self.store.exchange(&ask);
                self.net.push(Message::Granted(at, ask, answer));
            }
            Message::Granted(at, ask, answer) => self.granted(at, ask, answer),
            Message::Append(at, ask) => {
                let answer = self.store.append(&ask);
                self.net.push(Message::Appended(at, ask.period, answer));
            }
            Message::Appended(at, period, answer) => self.appended(at, period, answer),
        }
    }

    fn granted(
        &mut self,
        at: usize,
        mut ask: ExchangeAsk,
        answer: Result<ExchangeReply, ExchangeError>,
    ) {
        let gateway = &self.gateways[at];
        if !gateway.alive {
            return;
        }
        if let Err(ExchangeError::PostedBehind(cell)) = answer
            && gateway.tables.get(ask.period).is_some()
        {
            assert!(
                gateway.lender.overtaken(&ask, cell),
                "posted is behind the receipts"
            );
            gateway.lender.refresh(&mut ask);
            self.tally.overtaken += 1;
            self.net.push(Message::Exchange(at, ask));
            return;
        }
        let froze = gateway.lender.answered(&ask, answer);
        assert!(!froze, "a sound engine looked as if it had lost commits");
    }

    fn appended(&mut self, at: usize, period: Period, answer: Result<AppendReply, AppendError>) {
        let gateway = &mut self.gateways[at];
        if !gateway.alive {
            return;
        }
        match answer {
            Ok(reply) => {
                let recorded = gateway.journal.acked(period, reply.next_offset);
                for (call, _) in recorded.expect("an acknowledgement of what was sent") {
                    let once = gateway.recorded.insert((period.start_s(), call));
                    assert!(once, "I2: a receipt was recorded twice");
                }
            }
            Err(AppendError::Unavailable) => {}
            Err(error) => panic!("S4: a receipt was refused: {error}"),
        }
    }

    fn cut(&mut self) {
        let (cell, units) = (CELLS[self.dice(3) as usize], self.dice(45));
        let at = self.dice(3) as usize;
        let period = self.periods[self.rng.random_range(0..self.periods.len())];
        self.want(period, cell, Units::new(units.into()));
        let told: Vec<_> = CELLS
            .iter()
            .map(|cell| (*cell, self.wanted[&(period, *cell)]))
            .collect();
        self.gateways[at].lender.expect(period, &told);
    }

    fn turn(&mut self, at: usize) {
        let newest = *self.periods.last().expect("a period");
        if self.periods.len() < 4 && self.dice(3) == 0 {
            let next = self.length.next(newest);
            self.open(next);
        }
        let next = self
            .length
            .next(self.gateways[at].tables.current().period());
        if self.periods.contains(&next) {
            self.gateways[at].tables.turn(next);
            self.current = self.current.max(next);
        }
    }

    fn close_past(&mut self, at: usize) {
        let gateway = &self.gateways[at];
        if !gateway.alive {
            return;
        }
        let current = gateway.tables.current().period();
        for period in gateway.tables.periods() {
            let open = gateway.journal.open(period) + gateway.journal.unacked(period);
            if period >= current || open > 0 {
                continue;
            }
            let Some(asks) = gateway.lender.retire(period) else {
                continue;
            };
            if !asks.is_empty() {
                self.net
                    .extend(asks.into_iter().map(|ask| Message::Exchange(at, ask)));
            } else if gateway.journal.seal(period) {
                self.store
                    .close_period(gateway.inc, period)
                    .expect("a live incarnation");
                self.tally.periods_closed += 1;
                self.settled(gateway, period);
                gateway.lender.forget(period);
                gateway.tables.forget(period);
            }
        }
    }

    /// Nothing that a period's books held is left when a gateway closes it.
    fn settled(&self, gateway: &Gateway, period: Period) {
        let table = gateway.tables.get(period).expect("a table");
        for cell in CELLS {
            let lease = self
                .store
                .lease(period, cell, gateway.inc)
                .unwrap_or_default();
            assert!(
                table.reserved(cell).is_zero(),
                "P4: reserved without a call"
            );
            assert_eq!(
                lease.proven(),
                table.posted_total(cell),
                "I5: closed without a receipt"
            );
            assert_eq!(
                lease.granted,
                lease.proven(),
                "L1: closed with units that were free"
            );
        }
    }

    fn kill(&mut self, at: usize) {
        self.gateways[at].alive = false;
        self.tally.killed += 1;
        self.replace(at);
    }

    /// The dead keep their place, so that late messages find nobody else.
    fn replace(&mut self, at: usize) {
        let fresh = Gateway::start(&self.store, self.current, self.length);
        self.gateways.push(fresh);
        self.gateways[at].calls.clear();
    }

    /// A clean stop goes on: end the calls, hand over, give back, close.
    fn stop_step(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        if !gateway.stopping || !gateway.alive {
            return;
        }
        if let Some(call) = gateway.calls.pop() {
            self.tally.posted += gateway.end(call, 3);
        } else if gateway.journal.pending() > 0 {
            self.append(at);
        } else {
            let asks = gateway.lender.give_back_all();
            if !asks.is_empty() || gateway.lender.owes() {
                self.net
                    .extend(asks.into_iter().map(|ask| Message::Exchange(at, ask)));
                return;
            }
            let gateway = &self.gateways[at];
            for period in gateway.tables.periods() {
                assert!(gateway.journal.seal(period));
                self.store
                    .close_period(gateway.inc, period)
                    .expect("a live incarnation");
                self.settled(gateway, period);
            }
            self.store
                .close(self.gateways[at].inc)
                .expect("an incarnation");
            self.gateways[at].alive = false;
            self.tally.stopped += 1;
            self.replace(at);
        }
    }

    fn check(&self) {
        self.store.check().expect("I1: a check of the engine");
        for gateway in self.gateways.iter().filter(|gateway| gateway.alive) {
            for period in gateway.tables.periods() {
                let table = gateway.tables.get(period).expect("an open table");
                for cell in CELLS {
                    let lease = self
                        .store
                        .lease(period, cell, gateway.inc)
                        .unwrap_or_default();
                    let (granted, posted) = (table.granted(cell), table.posted_total(cell));
                    let books = posted.get() + table.reserved(cell).get() + table.free(cell).get();
                    assert_eq!(granted.get(), books, "granted = posted + reserved + free");
                    assert!(
                        granted <= lease.granted,
                        "I1: {granted} held of {}",
                        lease.granted
                    );
                    assert!(
                        lease.proven() <= posted,
                        "I5: proven beyond what was posted"
                    );
                }
            }
        }
    }

    /// Every call that was told to be recorded stands in the engine, once, with its units.
    fn check_receipts(&self) {
        for gateway in &self.gateways {
            for ((period, call), units) in &gateway.ended {
                let kept = self.store.receipts(*period, gateway.inc);
                let mut whole = kept
                    .iter()
                    .filter(|kept| kept.call == *call && !kept.is_part());
                let found = whole.next().map(|kept| kept.units);
                assert!(whole.next().is_none(), "I2: a call has two receipts");
                assert!(found.is_none_or(|found| found == *units), "I4: other units");
                let told = gateway.recorded.contains(&(period.start_s(), *call));
                assert!(found.is_some() || !told, "I4: a recorded receipt is gone");
            }
        }
    }

    /// The faults end and everybody stops: all is given back and closed.
    fn quiet(&mut self) {
        self.faults = false;
        let last = self.gateways.len();
        for at in 0..last {
            self.gateways[at].stopping |= self.gateways[at].alive;
        }
        for _ in 0..2_000 {
            if self.gateways[..last].iter().all(|gateway| !gateway.alive) {
                return;
            }
            for at in 0..last {
                self.stop_step(at);
            }
            for _ in 0..8 {
                self.deliver();
            }
        }
        panic!("L1: a gateway could not stop");
    }
}

fn run(seed: u64) -> Tally {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.quiet();
    world.check();
    world.check_receipts();
    world.tally
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to try is said from outside"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    if let Some(seed) = number("TAUGATE_SEED") {
        run(seed);
        return;
    }
    let count = number("TAUGATE_SCHEDULES").unwrap_or(5_000);
    let halves = std::thread::scope(|scope| {
        let tried = [0, 1].map(|first| scope.spawn(move || try_from(first, count)));
        tried.map(|half| half.join().expect("a half"))
    });
    for tally in halves {
        let busy = [
            tally.posted,
            tally.shorts,
            tally.parts,
            tally.overtaken,
            tally.stopped,
        ];
        let faulty = [
            tally.lost,
            tally.doubled,
            tally.killed,
            tally.periods_closed,
        ];
        let nothing = count > 1_000 && busy.iter().chain(&faulty).any(|count| *count == 0);
        assert!(!nothing, "something was never tried: {tally:?}");
    }
}

/// Every second seed from `first`.
fn try_from(first: u64, count: u64) -> Tally {
    let mut all = Tally::default();
    for seed in (first..count).step_by(2) {
        let Ok(tally) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
            panic!("seed {seed} fails: TAUGATE_SEED={seed} tries it alone");
        };
        all.steps += tally.steps;
        all.posted += tally.posted;
        all.shorts += tally.shorts;
        all.parts += tally.parts;
        all.lost += tally.lost;
        all.doubled += tally.doubled;
        all.overtaken += tally.overtaken;
        all.killed += tally.killed;
        all.stopped += tally.stopped;
        all.periods_closed += tally.periods_closed;
        all.full += tally.full;
    }
    all
}
