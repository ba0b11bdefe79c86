//! What this incarnation may spend of each cell, and when it asks for more or gives some
//! back. It decides; someone else speaks to the engine.
//!
//! Client rules: what is given back is taken from `free` before the engine is asked (C1);
//! one exchange in flight per cell, and a reply counts only if it answers the last one (C2);
//! after an unknown outcome a new ask with a higher number and an absolute target is safe (C3).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::{CellAsk, CellGrant, ExchangeAsk, ExchangeError, ExchangeReply};
use crate::ids::{CellId, Incarnation};
use crate::period::{Period, PeriodLength};
use crate::table::{Table, Tables};
use crate::units::Units;

/// How slices are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LenderSettings {
    /// A slice is this much demand, milliseconds.
    pub slice_ms: u64,
    /// More is asked for when less than this much demand is free, milliseconds.
    pub low_ms: u64,
    /// Or when less than this part of a slice is free.
    pub low_part: f64,
    /// The first slice is this part of what the cell may be spent to, at most.
    pub first_part: u64,
    /// What nobody used for this long goes back, milliseconds.
    pub idle_ms: u64,
    /// Cells in one ask.
    pub cells_max: usize,
}

/// All leases of one incarnation.
#[derive(Debug)]
pub struct Lender {
    incarnation: Incarnation,
    settings: LenderSettings,
    length: PeriodLength,
    tables: Arc<Tables>,
    periods: Mutex<HashMap<Period, Leases>>,
}

/// The leases of one period.
#[derive(Debug, Default)]
struct Leases {
    seq: u64,
    cells: HashMap<CellId, Lease>,
    /// The engine lost commits: nothing is raised until the period ends.
    frozen: bool,
}

/// What is known of one cell.
#[derive(Debug, Default)]
struct Lease {
    /// The number of the ask that is on its way.
    waiting: Option<u64>,
    /// What calls lack, in sum.
    lacking: Units,
    /// Units went out of `free` that the engine has not been told of.
    owes: bool,
    wanted: Units,
    sum_granted: Units,
    live: u32,
    /// Units per second.
    demand: f64,
    used: Units,
    used_ms: u64,
    moved_ms: u64,
}

// === impl LenderSettings ===

impl Default for LenderSettings {
    fn default() -> Self {
        Self {
            slice_ms: 10_000,
            low_ms: 2_000,
            low_part: 0.3,
            first_part: 50,
            idle_ms: 15_000,
            cells_max: 256,
        }
    }
}

// === impl Lender ===

impl Lender {
    /// The leases of an incarnation that holds nothing yet.
    #[must_use]
    pub fn new(
        incarnation: Incarnation,
        settings: LenderSettings,
        tables: Arc<Tables>,
        length: PeriodLength,
    ) -> Self {
        // In short periods every span is a part of the period.
        let period_ms = u64::from(length.secs()).saturating_mul(1000);
        let settings = LenderSettings {
            slice_ms: settings.slice_ms.min(period_ms / 8).max(1),
            low_ms: settings.low_ms.min(period_ms / 40).max(1),
            idle_ms: settings.idle_ms.min(period_ms / 4).max(1),
            ..settings
        };
        Self {
            incarnation,
            settings,
            length,
            tables,
            periods: Mutex::new(HashMap::new()),
        }
    }

    /// A call found too little: so much is drawn with the next ask.
    pub fn need(&self, period: Period, cell: CellId, lacking: Units) {
        let mut periods = self.periods.lock();
        let lease = periods
            .entry(period)
            .or_default()
            .cells
            .entry(cell)
            .or_default();
        lease.lacking = lease.lacking.saturating_add(lacking);
    }

    /// What to ask the engine now.
    pub fn asks(&self, now_ms: u64) -> Vec<ExchangeAsk> {
        let mut periods = self.periods.lock();
        let mut asks = Vec::new();
        for (period, leases) in periods.iter_mut() {
            let Some(table) = self.tables.get(*period) else {
                continue;
            };
            let frozen = leases.frozen;
            let settings = &self.settings;
            let cells = leases.cells.iter_mut().filter_map(|(cell, lease)| {
                lease.look(&table, *cell, now_ms);
                let target = lease.target(&table, *cell, now_ms, settings)?;
                let raised = target > table.granted(*cell);
                (!raised || !frozen).then_some((*cell, target))
            });
            let cells: Vec<_> = cells.collect();
            self.ask(&table, leases, cells, &mut asks);
        }
        asks
    }

    /// First slices of the period after the running one, for cells with demand.
    pub fn open_ahead(&self, now_ms: u64) -> Vec<ExchangeAsk> {
        let current = self.tables.current().period();
        let next = self.length.next(current);
        let Some(table) = self.tables.get(next) else {
            return Vec::new();
        };
        let mut periods = self.periods.lock();
        let demanded: Vec<_> = periods.get(&current).map_or_else(Vec::new, |leases| {
            let busy = leases.cells.iter().filter(|(_, lease)| lease.demand > 0.0);
            busy.map(|(cell, lease)| (*cell, lease.wanted, lease.demand))
                .collect()
        });
        let mut asks = Vec::new();
        let leases = periods.entry(next).or_default();
        let mut cells = Vec::new();
        for (cell, wanted, demand) in demanded {
            let lease = leases.cells.entry(cell).or_default();
            let first = wanted.part_of(self.settings.first_part);
            lease.demand = demand;
            lease.moved_ms = now_ms;
            lease.used_ms = now_ms;
            if lease.waiting.is_none() && !first.is_zero() && table.granted(cell).is_zero() {
                cells.push((cell, first));
            }
        }
        self.ask(&table, leases, cells, &mut asks);
        asks
    }

    /// Takes the engine's answer to an ask.
    pub fn answered(&self, ask: &ExchangeAsk, answer: Result<ExchangeReply, ExchangeError>) {
        let mut periods = self.periods.lock();
        let Some(leases) = periods.get_mut(&ask.period) else {
            return;
        };
        let Some(table) = self.tables.get(ask.period) else {
            return;
        };
        if answer == Err(ExchangeError::LostCommits) {
            leases.frozen = true;
        }
        for asked in &ask.cells {
            let Some(lease) = leases.cells.get_mut(&asked.cell) else {
                continue;
            };
            // Only the last word counts: an older reply speaks of an older target.
            if lease.waiting != Some(ask.seq) {
                continue;
            }
            lease.waiting = None;
            let grant = answer.as_ref().ok().and_then(|reply| {
                let grant = reply.cells.iter().find(|grant| grant.cell == asked.cell)?;
                Some((grant, reply.live))
            });
            match grant {
                Some((grant, live)) => lease.granted(&table, grant, live, leases.frozen),
                None => lease.refused(&table, asked.cell, answer.as_ref().err()),
            }
        }
    }

    /// What a past period still holds goes back; `None` while calls of it live or an ask is
    /// on its way. An empty list says that nothing is left to give.
    pub fn retire(&self, period: Period) -> Option<Vec<ExchangeAsk>> {
        let table = self.tables.get(period)?;
        let mut periods = self.periods.lock();
        let Some(leases) = periods.get_mut(&period) else {
            return Some(Vec::new());
        };
        let busy = leases.cells.iter().any(|(cell, lease)| {
            lease.waiting.is_some()
                || !table.reserved(*cell).is_zero()
                || table.in_flight(*cell) > 0
        });
        if busy {
            return None;
        }
        let mut asks = Vec::new();
        self.give_back(&table, leases, &mut asks);
        Some(asks)
    }

    /// Forgets a period that was closed.
    pub fn forget(&self, period: Period) {
        self.periods.lock().remove(&period);
    }

    /// All that is free goes back: this incarnation stops.
    pub fn give_back_all(&self) -> Vec<ExchangeAsk> {
        let mut periods = self.periods.lock();
        let mut asks = Vec::new();
        for (period, leases) in periods.iter_mut() {
            if let Some(table) = self.tables.get(*period) {
                self.give_back(&table, leases, &mut asks);
            }
        }
        asks
    }

    fn give_back(&self, table: &Table, leases: &mut Leases, asks: &mut Vec<ExchangeAsk>) {
        let cells = leases.cells.iter_mut().filter_map(|(id, lease)| {
            let cell = table.get(*id)?;
            let taken = cell.lower(Units::MAX);
            let tell = !taken.is_zero() || lease.owes;
            lease.owes = tell;
            (tell && lease.waiting.is_none()).then(|| (*id, cell.granted()))
        });
        let cells: Vec<_> = cells.collect();
        self.ask(table, leases, cells, asks);
    }

    fn ask(
        &self,
        table: &Table,
        leases: &mut Leases,
        cells: Vec<(CellId, Units)>,
        asks: &mut Vec<ExchangeAsk>,
    ) {
        for part in cells.chunks(self.settings.cells_max.max(1)) {
            leases.seq = leases.seq.saturating_add(1);
            for (cell, _) in part {
                if let Some(lease) = leases.cells.get_mut(cell) {
                    lease.waiting = Some(leases.seq);
                }
            }
            let asked = part.iter().map(|(cell, target)| CellAsk {
                cell: *cell,
                target: *target,
                posted: table.posted_total(*cell),
            });
            asks.push(ExchangeAsk {
                incarnation: self.incarnation,
                period: table.period(),
                seq: leases.seq,
                cells: asked.collect(),
            });
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Measures demand: units that went out of `free`, per second, smoothed.
    fn look(&mut self, table: &Table, cell: CellId, now_ms: u64) {
        const EVERY_MS: u64 = 200;
        const WEIGHT: f64 = 0.2;
        let used = table
            .posted_total(cell)
            .saturating_add(table.reserved(cell));
        let passed_ms = now_ms.saturating_sub(self.used_ms);
        if self.used_ms == 0 {
            (self.used, self.used_ms, self.moved_ms) = (used, now_ms, now_ms);
        } else if passed_ms >= EVERY_MS {
            let more = used.saturating_sub(self.used);
            let rate = per_second(more, passed_ms);
            self.demand = rate.mul_add(WEIGHT, self.demand * (1.0 - WEIGHT));
            if used != self.used {
                self.moved_ms = now_ms;
            }
            (self.used, self.used_ms) = (used, now_ms);
        }
    }

    /// The cumulative grant to ask for; `None` when all is well as it is.
    fn target(
        &mut self,
        table: &Table,
        id: CellId,
        now_ms: u64,
        settings: &LenderSettings,
    ) -> Option<Units> {
        if self.waiting.is_some() {
            return None;
        }
        let cell = table.touch(id)?;
        let granted = cell.granted();
        let rest = self.wanted.saturating_sub(self.sum_granted);
        let most = if self.live > 1 {
            rest.part_of(u64::from(self.live).saturating_mul(2))
        } else {
            rest
        };
        let slice = self.slice(settings).min(most);
        if !self.lacking.is_zero() {
            // Exactly what is lacking, or a slice where that is more.
            return Some(granted.saturating_add(self.lacking.max(slice)));
        }
        let free = cell.free();
        let low = Units::new(1)
            .scaled(self.demand * seconds(settings.low_ms))
            .max(slice.scaled(settings.low_part));
        if self.demand >= 1.0 && free < low && !slice.is_zero() {
            return Some(granted.saturating_add(slice));
        }
        let idle = now_ms.saturating_sub(self.moved_ms) >= settings.idle_ms;
        if idle && !free.is_zero() {
            self.demand = 0.0;
            self.owes = true;
            cell.lower(free);
        }
        self.owes.then(|| cell.granted())
    }

    fn slice(&self, settings: &LenderSettings) -> Units {
        let first = self.wanted.part_of(settings.first_part);
        Units::new(1)
            .scaled(self.demand * seconds(settings.slice_ms))
            .max(first)
    }

    fn granted(&mut self, table: &Table, grant: &CellGrant, live: u32, frozen: bool) {
        let Some(cell) = table.touch(grant.cell) else {
            return;
        };
        (self.wanted, self.sum_granted, self.live) = (grant.wanted, grant.sum_granted, live);
        (self.lacking, self.owes) = (Units::ZERO, false);
        let held = cell.granted();
        match grant.granted.checked_sub(held) {
            Some(more) if !frozen => cell.raise(more),
            Some(_) => {}
            // The engine knows of less than is held: nothing of the difference may be spent.
            None => drop(cell.lower(held.saturating_sub(grant.granted))),
        }
        cell.hint_rest(grant.wanted.saturating_sub(grant.sum_granted));
    }

    fn refused(&mut self, table: &Table, cell: CellId, error: Option<&ExchangeError>) {
        self.lacking = Units::ZERO;
        // Whether the last ask arrived is unknown: the next one says all of it again.
        self.owes = true;
        if matches!(error, Some(ExchangeError::UnknownCell(unknown)) if *unknown == cell) {
            self.owes = false;
            table.hint_rest(cell, Units::ZERO);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
fn per_second(units: Units, passed_ms: u64) -> f64 {
    units.get() as f64 * 1000.0 / passed_ms.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a span needs no more digits")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
