//! What this incarnation may spend of each cell, and when it asks for more or gives some
//! back. It decides; someone else speaks to the engine.
//!
//! Client rules: what is given back is taken from `free` before the engine is asked (C1);
//! one exchange in flight per cell, and a reply counts only if it answers the last one (C2);
//! after an unknown outcome a new ask with a higher number and an absolute target is safe (C3).

mod held;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::held::Lease;
use crate::engine::{CellAsk, ExchangeAsk, ExchangeError, ExchangeReply};
use crate::ids::{CellId, Incarnation};
use crate::period::{Period, PeriodLength};
use crate::sync::Mutex;
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
    periods: Mutex<BTreeMap<Period, Leases>>,
}

/// The leases of one period.
#[derive(Debug, Default)]
struct Leases {
    seq: u64,
    /// In the order of their numbers, in which the engine locks them, and the same each time
    /// that a schedule is tried.
    cells: BTreeMap<CellId, Lease>,
    /// What cells may be spent to by the declarations, as last told.
    expected: BTreeMap<CellId, Units>,
    /// The engine lost commits: nothing is raised until the period ends.
    frozen: bool,
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
            periods: Mutex::new(BTreeMap::new()),
        }
    }

    /// A call found too little: so much is drawn with the next ask. Says with which of the
    /// cell's [`Lender::answers`] the engine will have answered that; `None` when nothing can
    /// be drawn: the period is not open, or frozen.
    pub fn need(&self, period: Period, cell: CellId, lacking: Units) -> Option<u64> {
        self.tables.get(period)?;
        let mut periods = self.periods.lock();
        let leases = periods.entry(period).or_default();
        if leases.frozen {
            return None;
        }
        let lease = leases.cells.entry(cell).or_default();
        lease.lacking = lease.lacking.saturating_add(lacking);
        // An ask that is on its way does not carry it.
        let before = lease
            .answers
            .saturating_add(u64::from(lease.waiting.is_some()));
        Some(before.saturating_add(1))
    }

    /// How many asks for a cell ended, with a grant or without.
    #[must_use]
    pub fn answers(&self, period: Period, cell: CellId) -> u64 {
        let periods = self.periods.lock();
        let lease = periods
            .get(&period)
            .and_then(|leases| leases.cells.get(&cell));
        lease.map_or(0, |lease| lease.answers)
    }

    /// Whether nothing is raised any more in a period, because the engine lost commits.
    #[must_use]
    pub fn frozen(&self, period: Period) -> bool {
        let periods = self.periods.lock();
        periods.get(&period).is_some_and(|leases| leases.frozen)
    }

    /// What all cells of an open period may be spent to by the declarations. What is left of
    /// a cell follows at once, also of one that was never asked for; a cell that is no longer
    /// named may be spent to nothing.
    pub fn expect(&self, period: Period, wanted: &[(CellId, Units)]) {
        let Some(table) = self.tables.get(period) else {
            return;
        };
        let mut periods = self.periods.lock();
        let leases = periods.entry(period).or_default();
        let now: BTreeMap<_, _> = wanted.iter().copied().collect();
        let before = std::mem::replace(&mut leases.expected, now);
        let gone = before
            .keys()
            .filter(|cell| !leases.expected.contains_key(cell));
        let gone = gone.map(|cell| (cell, &Units::ZERO));
        for (cell, wanted) in leases.expected.iter().chain(gone) {
            // What the engine said since counts for more than the same again.
            if before.get(cell) == Some(wanted) {
                continue;
            }
            let granted = match leases.cells.get_mut(cell) {
                Some(lease) if lease.known => {
                    lease.wanted = *wanted;
                    lease.sum_granted
                }
                _ => table.granted(*cell),
            };
            table.hint_rest(*cell, wanted.saturating_sub(granted));
        }
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
                if frozen {
                    lease.lacking = Units::ZERO;
                }
                let target = lease.target(&table, *cell, now_ms, settings)?;
                if !frozen {
                    return Some((*cell, target));
                }
                // Nothing is raised in a frozen period; returns go out.
                lease.owes.then(|| (*cell, table.granted(*cell)))
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

    /// Writes what is posted now into an ask, just before it is sent.
    pub fn refresh(&self, ask: &mut ExchangeAsk) {
        if let Some(table) = self.tables.get(ask.period) {
            for asked in &mut ask.cells {
                asked.posted = table.posted_total(asked.cell);
            }
        }
    }

    /// Whether more was posted in a cell than an ask says. Then receipts of that may have
    /// overtaken the ask, and the engine's [`ExchangeError::PostedBehind`] is no bug: the ask
    /// changed nothing, and goes out again.
    #[must_use]
    pub fn overtaken(&self, ask: &ExchangeAsk, cell: CellId) -> bool {
        let asked = ask.cells.iter().find(|asked| asked.cell == cell);
        let table = self.tables.get(ask.period);
        asked
            .zip(table)
            .is_some_and(|(asked, table)| table.posted_total(cell) > asked.posted)
    }

    /// Takes the engine's answer to an ask. Says whether it froze the period: the engine lost
    /// what it had acknowledged.
    pub fn answered(
        &self,
        ask: &ExchangeAsk,
        answer: Result<ExchangeReply, ExchangeError>,
    ) -> bool {
        let mut periods = self.periods.lock();
        let Some(leases) = periods.get_mut(&ask.period) else {
            return false;
        };
        let Some(table) = self.tables.get(ask.period) else {
            return false;
        };
        let before = leases.frozen;
        let past = ask.period < self.tables.current().period();
        // Before any grant of it is taken: of a return that was lost, it would give back what
        // is spent elsewhere by now.
        leases.frozen |= match &answer {
            Ok(reply) => reply.frozen,
            Err(error) => *error == ExchangeError::LostCommits,
        };
        for asked in &ask.cells {
            let Some(lease) = leases.cells.get_mut(&asked.cell) else {
                continue;
            };
            // Only the last word counts: an older reply speaks of an older target.
            if lease.waiting != Some(ask.seq) {
                continue;
            }
            lease.waiting = None;
            lease.answers = lease.answers.saturating_add(1);
            let grant = answer.as_ref().ok().and_then(|reply| {
                let grant = reply.cells.iter().find(|grant| grant.cell == asked.cell)?;
                Some((grant, reply.live))
            });
            match grant {
                Some((grant, live)) => {
                    let whole = lease.granted(&table, grant, live, leases.frozen);
                    leases.frozen |= !whole;
                }
                None => lease.refused(&table, asked.cell, answer.as_ref().err(), past),
            }
        }
        leases.frozen && !before
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

    /// Whether units went out of the books that the engine may not know of, or an ask is on
    /// its way.
    #[must_use]
    pub fn owes(&self) -> bool {
        let periods = self.periods.lock();
        let mut leases = periods.values().flat_map(|leases| leases.cells.values());
        leases.any(|lease| lease.owes || lease.waiting.is_some())
    }

    /// All that is free goes back: this incarnation stops. What an ask on its way brings is
    /// for the next time: until nothing is owed.
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
            // Touched, because an ask whose answer was lost may be owed by a cell that no call
            // of the period ever was charged to.
            let cell = table.touch(*id)?;
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
