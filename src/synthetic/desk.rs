//! What is due now, of all cells: the drawn parts beside the books of this moment, and the
//! checks that run.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taugate_ledger::ids::CellId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::table::Table;
use taugate_ledger::units::Units;

use super::bursts::Bursts;
use super::draw::Part;
use super::flight::Flight;
use super::plan::{Before, CellBooks, Drawn};
use super::running::{Going, Moment, Running};
use super::settings::PlannerSettings;
use super::{Check, CheckEnd};
use crate::call::StillDue;
use crate::registry::snapshot::Snapshot;
use crate::report::due::{DueSheet, DueSource};

/// What a planner sees of the gateway.
pub trait Sight: Send + Sync + std::fmt::Debug {
    /// Wall time, Unix milliseconds.
    fn unix_ms(&self) -> u64;
    /// The running period's table.
    fn table(&self) -> Arc<Table>;
    /// Who offers what.
    fn snapshot(&self) -> Arc<Snapshot>;
}

/// What is due.
#[derive(Debug)]
pub struct Desk {
    sight: Arc<dyn Sight>,
    length: PeriodLength,
    running: Mutex<Running>,
}

/// A check that leaves now. Dropped, it counts as not sent.
#[derive(Debug)]
pub struct Leaving {
    desk: Arc<Desk>,
    period: Period,
    flight: Flight,
    left_ms: u64,
    end: CheckEnd,
    /// What is to be sent.
    pub check: Check,
}

// === impl Desk ===

impl Desk {
    /// A desk where nothing is drawn yet.
    #[must_use]
    pub fn new(sight: Arc<dyn Sight>, length: PeriodLength, settings: PlannerSettings) -> Self {
        Self {
            sight,
            length,
            running: Mutex::new(Running::new(settings)),
        }
    }

    /// The same, heeding these windows.
    #[must_use]
    pub fn with(self, bursts: Arc<Bursts>) -> Self {
        self.running.lock().heed(bursts);
        self
    }

    /// Goes on to the running period, if another was planned last. Says which it is, and
    /// whether its books are still to be read.
    pub fn turn(&self) -> (Period, bool) {
        let period = self.sight.table().period();
        (period, self.running.lock().turn(period))
    }

    /// Parts for the cells that are offered and have none yet.
    #[must_use]
    pub fn undrawn(&self) -> Vec<(CellId, Part)> {
        let snapshot = self.sight.snapshot();
        self.running.lock().undrawn(&snapshot)
    }

    /// Takes over what stands of a period's draws.
    pub fn drawn(&self, period: Period, drawn: Vec<Drawn>) {
        let passed = self.passed(period, self.sight.unix_ms());
        self.running.lock().drawn(period, passed, drawn);
    }

    /// Takes over what the store knows of a period's cells.
    pub fn read(&self, period: Period, books: Vec<CellBooks>) {
        self.running.lock().read(period, books);
    }

    /// Takes over what clients got in so many known periods before.
    pub fn remember(&self, period: Period, before: (usize, Vec<Before>)) {
        self.running.lock().remember(period, before);
    }

    /// The checks whose time has come, each at most once.
    #[must_use]
    pub fn leaving(self: &Arc<Self>) -> Vec<Leaving> {
        let (snapshot, moment) = (self.sight.snapshot(), self.moment());
        let going = self.running.lock().leave(&snapshot, &moment);
        let now_ms = self.sight.unix_ms();
        let leaving = going.into_iter();
        leaving
            .map(|going| self.dispatched(moment.period, now_ms, going))
            .collect()
    }

    fn dispatched(self: &Arc<Self>, period: Period, left_ms: u64, going: Going) -> Leaving {
        let (flight, task) = (going.flight, Arc::clone(&going.task.id));
        // A desk that is gone sends nothing.
        let asked = Arc::downgrade(self);
        let due = StillDue::new(move |held| {
            let desk = asked.upgrade();
            desk.is_some_and(|desk| desk.is_still_due(period, &task, (flight, held)))
        });
        Leaving {
            desk: Arc::clone(self),
            period,
            flight,
            left_ms,
            end: CheckEnd::UNSENT,
            check: Check {
                cell: flight.cell,
                hotkey: going.hotkey,
                task: going.task,
                units: going.units,
                burst: going.burst,
                due,
            },
        }
    }

    /// Whether a check that holds so many units is still to be sent; then they count as in
    /// flight until it ends.
    fn is_still_due(&self, period: Period, task: &str, of: (Flight, Units)) -> bool {
        let (snapshot, moment) = (self.sight.snapshot(), self.moment());
        let market = snapshot.markets.get(task);
        let offer = market.and_then(|market| {
            let mut offers = market.offers.iter();
            offers.find(|offer| offer.cell == of.0.cell)
        });
        let Some((market, offer)) = market.zip(offer) else {
            return false;
        };
        let offer = (&*market.task, offer);
        moment.period == period && self.running.lock().is_still_due(&moment, offer, of)
    }

    fn moment(&self) -> Moment {
        let (table, now_ms) = (self.sight.table(), self.sight.unix_ms());
        let period = table.period();
        Moment {
            period,
            passed: self.passed(period, now_ms),
            table,
        }
    }

    fn passed(&self, period: Period, now_ms: u64) -> f64 {
        let start_ms = period.start_s().saturating_mul(1000);
        let passed = Duration::from_millis(now_ms.saturating_sub(start_ms));
        (passed.as_secs_f64() / f64::from(self.length.secs())).min(1.0)
    }
}

impl DueSource for Desk {
    fn sheet(&self) -> DueSheet {
        let (snapshot, moment) = (self.sight.snapshot(), self.moment());
        self.running.lock().sheet(&snapshot, &moment)
    }
}

// === impl Leaving ===

impl Leaving {
    /// It came back.
    pub fn ended(mut self, end: CheckEnd) {
        self.end = end;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let now_ms = self.desk.sight.unix_ms();
        let passed = |at_ms| self.desk.passed(self.period, at_ms);
        let (now, left) = (passed(now_ms), passed(self.left_ms));
        let mut running = self.desk.running.lock();
        running.ended(self.period, self.flight, self.end, (left, now));
    }
}
