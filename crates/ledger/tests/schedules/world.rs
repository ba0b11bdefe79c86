//! Gateways, an engine and the way between them, one step at a time. After each step the
//! promises hold.

use std::collections::{BTreeMap, VecDeque};

use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, ExchangeAsk, ExchangeError, ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::model::{ModelStore, Snapshot};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::Finish;
use taugate_ledger::reservation::{Reservation, ReserveError};
use taugate_ledger::units::Units;

use crate::consumer::Consumer;
use crate::gateway::{Call, Gateway, receipt};
use crate::plan::{Dice, Plan, What};

pub(crate) const CELLS: [CellId; 3] = [CellId(0), CellId(1), CellId(2)];
const GATEWAYS: usize = 3;
/// Commits that a fail-over may lose.
const TAIL: usize = 3;

/// A promise that does not hold: its name, and what was seen.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) rule: &'static str,
    pub(crate) seen: String,
}

pub(crate) type Checked = Result<(), Broken>;

macro_rules! ensure {
    ($holds:expr, $rule:literal, $($seen:tt)+) => {
        if !$holds {
            return Err(Broken { rule: $rule, seen: format!($($seen)+) });
        }
    };
}
pub(crate) use ensure;

/// The calls of an engine. What it keeps is read from the model, which stands beside any
/// other engine and answers alike.
pub(crate) trait Store {
    fn model(&self) -> &ModelStore;
    fn new_incarnation(&self, gateway: &str) -> Incarnation;
    fn set_wanted(&self, period: Period, cell: CellId, wanted: Units);
    fn exchange(&self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError>;
    fn append(&self, ask: &AppendAsk) -> Result<AppendReply, AppendError>;
    fn close_period(&self, inc: Incarnation, period: Period) -> Result<(), ExchangeError>;
    fn close(&self, inc: Incarnation) -> Result<(), ExchangeError>;
}

impl Store for ModelStore {
    fn model(&self) -> &ModelStore {
        self
    }
    fn new_incarnation(&self, gateway: &str) -> Incarnation {
        Self::new_incarnation(self, gateway)
    }
    fn set_wanted(&self, period: Period, cell: CellId, wanted: Units) {
        Self::set_wanted(self, period, cell, wanted).expect("a check of the engine");
    }
    fn exchange(&self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError> {
        Self::exchange(self, ask)
    }
    fn append(&self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
        Self::append(self, ask)
    }
    fn close_period(&self, inc: Incarnation, period: Period) -> Result<(), ExchangeError> {
        Self::close_period(self, inc, period)
    }
    fn close(&self, inc: Incarnation) -> Result<(), ExchangeError> {
        Self::close(self, inc)
    }
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
pub(crate) struct Tally {
    pub(crate) posted: u64,
    pub(crate) shorts: u64,
    pub(crate) parts: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) overtaken: u64,
    pub(crate) killed: u64,
    pub(crate) stopped: u64,
    pub(crate) closed: u64,
    pub(crate) paused: u64,
    pub(crate) cut: u64,
    pub(crate) checks: u64,
    pub(crate) commits_lost: u64,
    pub(crate) frozen: u64,
    /// The fullest cell: spent, of what it was allotted.
    pub(crate) worst: (u64, u64),
}

pub(crate) struct World<'a, S> {
    store: &'a S,
    lossy: bool,
    length: PeriodLength,
    now_ms: u64,
    step: u64,
    current: Period,
    periods: Vec<Period>,
    wanted: BTreeMap<(Period, CellId), Units>,
    gateways: Vec<Gateway>,
    /// What the dead may have spent.
    dead: BTreeMap<(Period, CellId), u64>,
    net: Vec<Message>,
    away_until: u64,
    faults: bool,
    /// The engine as it stood before its last commits.
    tail: VecDeque<Snapshot>,
    /// Hears of what is booked; not where commits are lost, which a snapshot would mend.
    consumer: Consumer,
    pub(crate) tally: Tally,
}

// === impl World ===

impl<'a, S: Store> World<'a, S> {
    pub(crate) fn new(store: &'a S, plan: &Plan, first: Period) -> Self {
        let length = PeriodLength::from_secs(60).expect("a length");
        let mut world = Self {
            store,
            lossy: plan.lossy,
            length,
            now_ms: first.start_s() * 1000,
            step: 0,
            current: first,
            periods: Vec::new(),
            wanted: BTreeMap::new(),
            gateways: Vec::new(),
            dead: BTreeMap::new(),
            net: Vec::new(),
            away_until: 0,
            faults: true,
            tail: VecDeque::new(),
            consumer: Consumer::new(plan.seed ^ 2),
            tally: Tally::default(),
        };
        world.open(first, &mut Dice::new(plan.seed ^ 1));
        (0..GATEWAYS).for_each(|name| world.start(name));
        world
    }

    /// Runs a whole schedule, then lets the faults end and everybody stop.
    pub(crate) fn run(&mut self, plan: &Plan) -> Checked {
        for step in &plan.steps {
            self.take_step(step.what, step.dice.clone())?;
        }
        self.quiet()?;
        if !self.lossy {
            self.consumer.check(self.store.model(), &self.periods)?;
        }
        self.check_receipts()
    }

    fn start(&mut self, name: usize) {
        self.commit();
        let inc = self.store.new_incarnation(["a", "b", "c"][name]);
        self.consumer.incarnations.push(inc);
        let gateway = Gateway::start(name, inc, self.current, self.length);
        self.gateways.push(gateway);
    }

    fn open(&mut self, period: Period, dice: &mut Dice) {
        self.periods.push(period);
        for cell in CELLS {
            self.want(period, cell, Units::new(3 + dice.of(16)));
        }
    }

    fn want(&mut self, period: Period, cell: CellId, wanted: Units) {
        self.commit();
        self.wanted.insert((period, cell), wanted);
        self.store.set_wanted(period, cell, wanted);
    }

    /// The engine is about to change.
    fn commit(&mut self) {
        if self.lossy {
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(self.store.model().snapshot());
        }
    }

    fn take_step(&mut self, what: What, mut dice: Dice) -> Checked {
        let dice = &mut dice;
        self.step += 1;
        self.now_ms += dice.of(200);
        let awake = |at: &usize| {
            let gateway = &self.gateways[*at];
            gateway.alive && gateway.paused_until <= self.step
        };
        let awake: Vec<_> = (0..self.gateways.len()).filter(awake).collect();
        if awake.is_empty() {
            return Ok(());
        }
        let at = awake[dice.index(awake.len())];
        match what {
            What::Admit => self.admit(at, dice)?,
            What::Progress => self.progress(at, dice)?,
            What::End => self.end_one(at, dice)?,
            What::Ask => self.ask(at),
            What::Append => self.append(at, dice),
            What::Deliver => self.deliver_some(4, dice)?,
            What::Cut if !self.lossy => self.cut(at, dice),
            What::Cut => {}
            What::Turn => self.turn(at, dice),
            What::ClosePast => self.close_past(at)?,
            What::OpenAhead => self.open_ahead(at),
            What::Pause => {
                self.gateways[at].paused_until = self.step + 2 + dice.of(8);
                self.tally.paused += 1;
            }
            What::Away => self.away_until = self.step + 1 + dice.of(4),
            What::Kill => self.kill(at),
            What::KillAll => awake.iter().for_each(|at| self.kill(*at)),
            What::Stop => self.gateways[at].stopping = true,
            What::Lose => self.lose(dice),
        }
        self.stop_step(at)?;
        if !self.lossy {
            self.consumer.step();
        }
        self.check()
    }

    /// A call that lacks units draws, sees some messages pass, and tries again.
    fn admit(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let first = dice.index(3);
        let second = dice.one_in(3).then(|| CELLS[(first + 1) % 3]);
        let cells: Vec<_> = std::iter::once(CELLS[first]).chain(second).collect();
        let units = Units::new(dice.of(5) + 1);
        let origin = Origin::ALL[usize::from(dice.one_in(4))];
        if !self.take(at, &cells, units, origin) {
            self.ask(at);
            self.deliver_some(5, dice)?;
            self.take(at, &cells, units, origin);
        }
        Ok(())
    }

    fn take(&mut self, at: usize, cells: &[CellId], units: Units, origin: Origin) -> bool {
        let gateway = &mut self.gateways[at];
        if !gateway.admits() {
            return true;
        }
        let table = gateway.tables.current();
        let Some(slot) = gateway.journal.try_permit(table.period()) else {
            return true;
        };
        match Reservation::take(&table, cells, units, origin) {
            Ok(held) => {
                gateway.numbers += 1;
                let number = gateway.numbers;
                self.tally.checks += u64::from(origin == Origin::Synthetic);
                gateway.calls.push(Call {
                    number,
                    origin,
                    held,
                    slot,
                });
                true
            }
            Err(ReserveError::Short { cell, lacking }) => {
                self.tally.shorts += 1;
                gateway.lender.need(table.period(), cell, lacking);
                false
            }
        }
    }

    fn progress(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let (which, grow, part) = (dice.index(8), dice.of(3), dice.one_in(2));
        let gateway = &mut self.gateways[at];
        let count = gateway.calls.len();
        if count == 0 {
            return Ok(());
        }
        let call = &mut gateway.calls[which % count];
        let period = call.slot.period();
        if let Err(ReserveError::Short { cell, lacking }) = call.held.extend(Units::new(grow)) {
            gateway.lender.need(period, cell, lacking);
        }
        let more = call.held.delivered().saturating_add(Units::new(2));
        let total = more.min(call.held.reserved());
        let told = call.held.deliver(total);
        ensure!(
            told.is_ok(),
            "I3",
            "delivered within what is held is refused"
        );
        if part
            && total > call.held.posted()
            && let Some(slot) = gateway.journal.try_permit(period)
        {
            let units = call.held.post_part();
            let cells = call.held.cells();
            let part = receipt(call.number, call.origin, cells, units, Finish::Running);
            slot.send(part, None);
            self.tally.parts += 1;
        }
        Ok(())
    }

    fn end_one(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let (which, how) = (dice.index(8), dice.of(4));
        let gateway = &mut self.gateways[at];
        if !gateway.calls.is_empty() {
            let call = gateway.calls.swap_remove(which % gateway.calls.len());
            self.tally.posted += gateway.end(call, how)?.get();
        }
        Ok(())
    }

    fn send(&mut self, at: usize, asks: Vec<ExchangeAsk>) {
        let asks = asks.into_iter().map(|ask| Message::Exchange(at, ask));
        self.net.extend(asks);
    }

    fn ask(&mut self, at: usize) {
        if self.gateways[at].admits() {
            let asks = self.gateways[at].lender.asks(self.now_ms);
            self.send(at, asks);
        }
    }

    fn open_ahead(&mut self, at: usize) {
        let gateway = &self.gateways[at];
        let next = self.length.next(gateway.tables.current().period());
        if gateway.admits() && self.periods.contains(&next) {
            gateway.tables.open(next);
            let asks = gateway.lender.open_ahead(self.now_ms);
            self.send(at, asks);
        }
    }

    fn append(&mut self, at: usize, dice: &mut Dice) {
        let most = dice.index(4) + 1;
        if let Some(ask) = self.gateways[at].journal.next_append(most) {
            self.net.push(Message::Append(at, ask));
        }
    }

    fn deliver_some(&mut self, most: usize, dice: &mut Dice) -> Checked {
        for _ in 0..most {
            self.deliver(dice)?;
        }
        Ok(())
    }

    fn deliver(&mut self, dice: &mut Dice) -> Checked {
        if self.net.is_empty() {
            return Ok(());
        }
        let which = dice.index(self.net.len());
        let (lost, doubled) = (dice.one_in(10), dice.one_in(7));
        let (to_engine, at) = match &self.net[which] {
            Message::Exchange(at, _) | Message::Append(at, _) => (true, *at),
            Message::Granted(at, ..) | Message::Appended(at, ..) => (false, *at),
        };
        if !to_engine && self.faults && self.gateways[at].paused_until > self.step {
            return Ok(());
        }
        let message = if self.faults && doubled {
            self.tally.doubled += 1;
            self.net[which].clone()
        } else {
            self.net.swap_remove(which)
        };
        let away = to_engine && self.away_until > self.step;
        if !(self.faults && (lost || away)) {
            return self.arrive(message);
        }
        self.tally.lost += 1;
        // Whoever asked waits for a while and then knows nothing.
        self.arrive(match message {
            Message::Exchange(at, ask) | Message::Granted(at, ask, _) => {
                Message::Granted(at, ask, Err(ExchangeError::Unavailable))
            }
            Message::Append(at, ask) => {
                Message::Appended(at, ask.period, Err(AppendError::Unavailable))
            }
            Message::Appended(at, period, _) => {
                Message::Appended(at, period, Err(AppendError::Unavailable))
            }
        })
    }

    fn arrive(&mut self, message: Message) -> Checked {
        match message {
            Message::Exchange(at, ask) => {
                self.commit();
                let answer = self.store.exchange(&ask);
                self.net.push(Message::Granted(at, ask, answer));
                Ok(())
            }
            Message::Append(at, ask) => {
                self.commit();
                let answer = self.store.append(&ask);
                if !self.lossy {
                    self.consumer.told_of(self.store.model(), &ask);
                }
                self.net.push(Message::Appended(at, ask.period, answer));
                Ok(())
            }
            Message::Granted(at, ..) | Message::Appended(at, ..) if !self.gateways[at].alive => {
                Ok(())
            }
            Message::Granted(at, ask, answer) => self.granted(at, ask, answer),
            Message::Appended(at, period, answer) => self.appended(at, period, answer),
        }
    }

    fn granted(
        &mut self,
        at: usize,
        mut ask: ExchangeAsk,
        answer: Result<ExchangeReply, ExchangeError>,
    ) -> Checked {
        let gateway = &self.gateways[at];
        match &answer {
            Err(ExchangeError::PostedBehind(cell)) if gateway.tables.get(ask.period).is_some() => {
                if gateway.lender.overtaken(&ask, *cell) {
                    gateway.lender.refresh(&mut ask);
                    self.tally.overtaken += 1;
                    self.net.push(Message::Exchange(at, ask));
                    return Ok(());
                }
                ensure!(self.lossy, "I5", "posted is behind the receipts");
            }
            Err(ExchangeError::Fenced) if self.lossy => {
                // Its row was in the lost tail: the books are broken, the process ends.
                self.kill(at);
                return Ok(());
            }
            _ => {}
        }
        if gateway.lender.answered(&ask, answer) {
            ensure!(
                self.lossy,
                "C6",
                "a sound engine looked as if it had lost commits"
            );
            self.tally.frozen += 1;
        }
        Ok(())
    }

    fn appended(
        &mut self,
        at: usize,
        period: Period,
        answer: Result<AppendReply, AppendError>,
    ) -> Checked {
        let reply = match answer {
            Ok(reply) => reply,
            Err(AppendError::Unavailable) => return Ok(()),
            Err(_) if self.lossy => {
                self.kill(at);
                return Ok(());
            }
            Err(error) => {
                let seen = format!("a receipt was refused: {error}");
                return Err(Broken { rule: "I5", seen });
            }
        };
        let gateway = &mut self.gateways[at];
        let recorded = match gateway.journal.acked(period, reply.next_offset) {
            Ok(recorded) => recorded,
            Err(error) => {
                let seen = error.to_string();
                return Err(Broken { rule: "I4", seen });
            }
        };
        for (call, _) in recorded {
            let once = self.gateways[at].recorded.insert((period, call));
            ensure!(once, "I2", "call {call} was recorded twice");
            self.check_recorded(at, period, call)?;
        }
        Ok(())
    }

    /// Who is told that a call is recorded can find it, with its units.
    fn check_recorded(&self, at: usize, period: Period, call: u64) -> Checked {
        if self.lossy {
            return Ok(());
        }
        let gateway = &self.gateways[at];
        let kept = self.store.model().receipts(period, gateway.inc);
        let mut whole = kept.iter().filter(|it| it.call == call && !it.is_part());
        let found = whole.next().map(|kept| kept.units);
        let ended = gateway.ended.get(&(period, call)).copied();
        ensure!(whole.next().is_none(), "I2", "call {call} has two receipts");
        ensure!(
            found == ended,
            "I4",
            "call {call} is told as recorded: {ended:?} units, kept {found:?}"
        );
        Ok(())
    }

    fn cut(&mut self, at: usize, dice: &mut Dice) {
        let (cell, units) = (CELLS[dice.index(3)], Units::new(dice.of(22)));
        let period = self.periods[dice.index(self.periods.len())];
        self.want(period, cell, units);
        self.tally.cut += 1;
        let told = CELLS.map(|cell| (cell, self.wanted[&(period, cell)]));
        self.gateways[at].lender.expect(period, &told);
    }

    fn turn(&mut self, at: usize, dice: &mut Dice) {
        let newest = *self.periods.last().expect("a period");
        if self.periods.len() < 3 && dice.one_in(2) {
            self.open(self.length.next(newest), dice);
        }
        let tables = &self.gateways[at].tables;
        let next = self.length.next(tables.current().period());
        if self.periods.contains(&next) {
            tables.turn(next);
            self.current = self.current.max(next);
        }
    }

    /// As the production's books do it.
    fn close_past(&mut self, at: usize) -> Checked {
        let current = self.gateways[at].tables.current().period();
        for period in self.gateways[at].tables.periods() {
            let gateway = &self.gateways[at];
            let receipts = gateway.journal.open(period) + gateway.journal.unacked(period);
            if period >= current || receipts > 0 {
                continue;
            }
            let Some(asks) = gateway.lender.retire(period) else {
                continue;
            };
            if !asks.is_empty() {
                self.send(at, asks);
            } else if gateway.journal.seal(period) {
                self.close_period(at, period)?;
                let gateway = &self.gateways[at];
                gateway.lender.forget(period);
                gateway.tables.forget(period);
            }
        }
        Ok(())
    }

    /// Nothing that a period's books held is left when a gateway closes it.
    fn close_period(&mut self, at: usize, period: Period) -> Checked {
        self.commit();
        let gateway = &self.gateways[at];
        let closed = self.store.close_period(gateway.inc, period);
        ensure!(
            closed.is_ok() || self.lossy,
            "C4",
            "a live incarnation is fenced"
        );
        self.tally.closed += 1;
        let Some(table) = gateway.tables.get(period) else {
            return Ok(());
        };
        for cell in CELLS {
            let posted = table.posted_total(cell).get();
            ensure!(
                table.reserved(cell).is_zero(),
                "I2",
                "reserved without a call"
            );
            *self.dead.entry((period, cell)).or_default() += posted;
            if self.lossy {
                continue;
            }
            let lease = self.store.model().lease(period, cell, gateway.inc);
            let lease = lease.unwrap_or_default();
            let (granted, proven) = (lease.granted, lease.proven());
            ensure!(
                proven.get() == posted,
                "I5",
                "{cell:?}: closed with {posted} posted and receipts for {proven}"
            );
            ensure!(
                granted == proven,
                "C4",
                "{cell:?}: closed with {granted} granted"
            );
        }
        Ok(())
    }

    /// What it posted and held may all have been delivered. The dead keep their place, so
    /// that late messages find nobody else.
    fn kill(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        gateway.alive = false;
        for period in gateway.tables.periods() {
            for (cell, table) in CELLS
                .iter()
                .zip(std::iter::repeat(gateway.tables.get(period)))
            {
                let spent = table.map_or(0, |it| spent(&it, *cell));
                *self.dead.entry((period, *cell)).or_default() += spent;
            }
        }
        gateway.calls.clear();
        let name = gateway.name;
        self.tally.killed += 1;
        self.start(name);
    }

    /// The engine goes on without its last commits. It knows it, and freezes what is open.
    fn lose(&mut self, dice: &mut Dice) {
        let count = (1 + dice.index(TAIL)).min(self.tail.len());
        let Some(before) = self
            .tail
            .len()
            .checked_sub(count)
            .and_then(|at| self.tail.get(at))
        else {
            return;
        };
        self.store.model().restore(before.clone());
        self.tail.clear();
        self.tally.commits_lost += count as u64;
        for period in &self.periods {
            self.store.model().freeze(*period);
        }
        // Declarations are told again.
        for ((period, cell), wanted) in &self.wanted {
            self.store.set_wanted(*period, *cell, *wanted);
        }
    }

    /// A clean stop goes on: end the calls, hand over, give back, close.
    fn stop_step(&mut self, at: usize) -> Checked {
        let gateway = &mut self.gateways[at];
        if !gateway.stopping || !gateway.alive {
            return Ok(());
        }
        if let Some(call) = gateway.calls.pop() {
            self.tally.posted += gateway.end(call, 3)?.get();
            return Ok(());
        }
        if let Some(ask) = gateway.journal.next_append(4) {
            self.net.push(Message::Append(at, ask));
        }
        let asks = self.gateways[at].lender.give_back_all();
        let gateway = &self.gateways[at];
        if !asks.is_empty() || gateway.lender.owes() {
            self.send(at, asks);
            return Ok(());
        }
        let periods = gateway.tables.periods();
        if !periods.iter().all(|period| gateway.journal.seal(*period)) {
            return Ok(());
        }
        for period in periods {
            self.close_period(at, period)?;
        }
        self.commit();
        let closed = self.store.close(self.gateways[at].inc);
        ensure!(
            closed.is_ok() || self.lossy,
            "C4",
            "an incarnation is unknown"
        );
        self.gateways[at].alive = false;
        self.tally.stopped += 1;
        if self.faults {
            self.start(self.gateways[at].name);
        }
        Ok(())
    }

    fn check(&mut self) -> Checked {
        self.check_spent()?;
        for gateway in self.gateways.iter().filter(|gateway| gateway.alive) {
            gateway.check(&CELLS)?;
        }
        if self.lossy {
            return Ok(());
        }
        let store = self.store.model();
        if let Err(failed) = store.check() {
            let seen = failed.to_string();
            let rule = if seen.contains("counters") {
                "I5"
            } else {
                "I1"
            };
            return Err(Broken { rule, seen });
        }
        for gateway in self.gateways.iter().filter(|gateway| gateway.alive) {
            for period in gateway.tables.periods() {
                let table = gateway.tables.get(period).expect("an open table");
                for cell in CELLS {
                    let lease = store.lease(period, cell, gateway.inc).unwrap_or_default();
                    let (held, granted) = (table.granted(cell), lease.granted);
                    ensure!(
                        held <= granted,
                        "I1",
                        "{cell:?}: {held} held of {granted} granted"
                    );
                    for origin in Origin::ALL {
                        let (posted, proven) =
                            (table.posted(cell, origin), lease.posted[origin.index()]);
                        ensure!(
                            proven <= posted,
                            "I5",
                            "{cell:?}: {proven} proven of {posted}"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// What all gateways posted and hold, the dead included, is within what was allotted.
    fn check_spent(&mut self) -> Checked {
        for period in &self.periods {
            for cell in CELLS {
                let dead = self.dead.get(&(*period, cell)).copied().unwrap_or(0);
                let live = self.gateways.iter().filter(|gateway| gateway.alive);
                let tables = live.filter_map(|gateway| gateway.tables.get(*period));
                let spent = dead + tables.map(|table| spent(&table, cell)).sum::<u64>();
                let allotted = if self.lossy {
                    self.wanted[&(*period, cell)].get()
                } else {
                    let kept = self.store.model().cell(*period, cell);
                    kept.unwrap_or_default().allotment.get()
                };
                let (most, of) = self.tally.worst;
                if spent * of.max(1) > most * allotted.max(1) || of == 0 {
                    self.tally.worst = (spent, allotted);
                }
                ensure!(
                    spent <= allotted,
                    "P1",
                    "{cell:?} of {period}: oversold, {spent} spent of {allotted}"
                );
            }
        }
        Ok(())
    }

    /// Every call that was told to be recorded stands in the engine, once, with its units.
    fn check_receipts(&self) -> Checked {
        for (at, gateway) in self.gateways.iter().enumerate() {
            for (period, call) in &gateway.recorded {
                self.check_recorded(at, *period, *call)?;
            }
        }
        Ok(())
    }

    /// The faults end and everybody stops: all is given back and closed.
    fn quiet(&mut self) -> Checked {
        self.faults = false;
        let mut dice = Dice::new(0);
        self.gateways
            .iter_mut()
            .for_each(|gateway| gateway.stopping = true);
        for _ in 0..500 {
            if self.gateways.iter().all(|gateway| !gateway.alive) {
                return self.check();
            }
            for at in 0..self.gateways.len() {
                self.stop_step(at)?;
            }
            self.deliver_some(16, &mut dice)?;
            self.gateways
                .iter_mut()
                .for_each(|gateway| gateway.stopping = true);
        }
        let left = self.gateways.iter().find(|gateway| gateway.alive);
        let left = left.map(|it| {
            (
                it.inc,
                it.journal.pending(),
                it.lender.owes(),
                it.tables.periods(),
            )
        });
        ensure!(self.lossy, "L1", "a gateway could not stop: {left:?}");
        self.check()
    }
}

fn spent(table: &taugate_ledger::table::Table, cell: CellId) -> u64 {
    table.posted_total(cell).get() + table.reserved(cell).get()
}
