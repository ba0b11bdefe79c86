//! The running period's checks: what was drawn, what the store knows, and what is in flight.
//!
//! Nothing here is a total of units. What clients and checks were given stands in the table of
//! this process and, for other incarnations, in the store; what runs is the sum over the checks
//! that run. So a restart finds the same, and refills nothing.

use std::collections::HashMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::table::Table;
use taugate_ledger::units::Units;

use super::CheckEnd;
use super::burst::Sent;
use super::bursts::Bursts;
use super::draw::{Luck, Part};
use super::due::Account;
use super::flight::{Flight, Flights};
use super::forecast::Forecast;
use super::pacing::Pace;
use super::plan::{Attempts, Before, CellBooks, Drawn};
use super::settings::PlannerSettings;
use crate::registry::snapshot::{Availability, Offer, Snapshot};
use crate::report::due::{Due, DueSheet};
use crate::task::Task;

/// A check is at most this part of an allotment: a fourth.
const OF_ALLOTMENT: u64 = 4;

/// A check that does not fit into what is left is cut, but to no less than this part of it.
const CUT_LEAST: u64 = 8;

/// Checks of a miner that run at once where it states no number.
const UNSTATED: usize = 2;

/// Of a stated number, a fourth: more than one only where a check takes longer than the wait
/// for the next.
const OF_STATED: u32 = 4;

/// As long as no check ended, it is taken to last this part of the period.
const TAKES: f64 = 0.02;

/// A wait counts from when the check before was to leave, so that looks which come late do not
/// add up; but from no longer ago than this part of the period.
const BEHIND_MAX: f64 = 0.01;

/// How much the newest check tells of how long they take.
const NEWEST: f64 = 0.3;

/// Which chance is drawn: parts, or waits.
const PARTS: u32 = 0;
const WAITS: u32 = 1;

/// The running period.
#[derive(Debug)]
pub(super) struct Running {
    settings: PlannerSettings,
    /// Where bursts are planned.
    bursts: Option<Arc<Bursts>>,
    luck: Luck,
    period: Option<Period>,
    cells: HashMap<CellId, Cell>,
    /// What the store knows of cells; `None`: not read yet, so that nothing is sent.
    books: Option<HashMap<CellId, CellBooks>>,
    forecasts: HashMap<CellId, Forecast>,
}

/// A cell that was drawn.
#[derive(Debug)]
struct Cell {
    drawn: Drawn,
    /// Checks of this process that ended, in case their receipts are not durable yet.
    ended: Attempts,
    flights: Flights,
    pace: Pace,
    /// How long a check takes, as a part of the period.
    takes: f64,
    rng: StdRng,
}

/// A moment of the running period.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) period: Period,
    /// How much of the period has passed, 0 to 1.
    pub(super) passed: f64,
    pub(super) table: Arc<Table>,
}

/// A check whose time has come.
#[derive(Debug)]
pub(super) struct Going {
    pub(super) flight: Flight,
    pub(super) hotkey: Arc<str>,
    pub(super) task: Arc<Task>,
    pub(super) units: Units,
    pub(super) burst: bool,
}

// === impl Running ===

impl Running {
    pub(super) fn new(settings: PlannerSettings) -> Self {
        Self {
            luck: Luck::of(settings.seed),
            settings,
            bursts: None,
            period: None,
            cells: HashMap::new(),
            books: None,
            forecasts: HashMap::new(),
        }
    }

    /// Heeds these windows.
    pub(super) fn heed(&mut self, bursts: Arc<Bursts>) {
        self.bursts = Some(bursts);
    }

    /// Goes on to a period; whether its books are still to be read.
    pub(super) fn turn(&mut self, period: Period) -> bool {
        if self.period != Some(period) {
            *self = Self {
                period: Some(period),
                bursts: self.bursts.take(),
                ..Self::new(self.settings.clone())
            };
        }
        self.books.is_none()
    }

    /// Parts for the cells that are offered and have none yet.
    pub(super) fn undrawn(&self, snapshot: &Snapshot) -> Vec<(CellId, Part)> {
        let Some(period) = self.period else {
            return Vec::new();
        };
        offers(snapshot)
            .filter(|(_, offer)| !self.cells.contains_key(&offer.cell))
            .map(|(_, offer)| {
                let mut rng = self.luck.rng(period, offer.cell, PARTS);
                (offer.cell, self.settings.draws.part(&mut rng))
            })
            .collect()
    }

    pub(super) fn drawn(&mut self, period: Period, passed: f64, drawn: Vec<Drawn>) {
        if self.period != Some(period) {
            return;
        }
        for drawn in drawn {
            let mut rng = self.luck.rng(period, drawn.cell, WAITS);
            self.cells.entry(drawn.cell).or_insert_with(|| Cell {
                drawn,
                ended: Attempts::default(),
                flights: Flights::default(),
                pace: Pace::first(passed, &mut rng),
                takes: TAKES,
                rng,
            });
        }
    }

    pub(super) fn read(&mut self, period: Period, books: Vec<CellBooks>) {
        if self.period == Some(period) {
            self.books = Some(books.into_iter().map(|row| (row.cell, row)).collect());
        }
    }

    pub(super) fn remember(&mut self, period: Period, (known, before): (usize, Vec<Before>)) {
        if self.period != Some(period) {
            return;
        }
        let mut sums: HashMap<CellId, Vec<Units>> = HashMap::new();
        for row in before {
            let periods = sums.entry(row.cell);
            let periods = periods.or_insert_with(|| vec![Units::ZERO; known]);
            if let Some(place) = periods.get_mut(row.ago) {
                *place = row.organic;
            }
        }
        let all = sums.into_iter();
        self.forecasts = all
            .map(|(cell, before)| (cell, Forecast::of(&before)))
            .collect();
    }

    /// Lets those leave whose time has come.
    pub(super) fn leave(&mut self, snapshot: &Snapshot, now: &Moment) -> Vec<Going> {
        if self.period != Some(now.period) || self.books.is_none() {
            return Vec::new();
        }
        let mut going = Vec::new();
        for offered in offers(snapshot) {
            if let Some(sent) = self.in_burst(now, (offered.0, offered.1)) {
                going.extend((0..sent.checks).filter_map(|_| self.go(offered, sent.units, true)));
                continue;
            }
            // More than one where their waits are shorter than a look takes; how many run at
            // once is bounded.
            while let Some((units, at)) = self.is_time(now, (offered.0, offered.1)) {
                if let Some(cell) = self.cells.get_mut(&offered.1.cell) {
                    let from = at.max(now.passed - BEHIND_MAX);
                    cell.pace = Pace::after(from, &mut cell.rng);
                }
                going.extend(self.go(offered, units, false));
            }
        }
        going
    }

    fn go(
        &mut self,
        (task, offer): (&Arc<Task>, &Offer),
        units: Units,
        burst: bool,
    ) -> Option<Going> {
        let cell = self.cells.get_mut(&offer.cell)?;
        Some(Going {
            flight: cell.flights.begin(offer.cell, units),
            hotkey: Arc::clone(&offer.miner.hotkey),
            task: Arc::clone(task),
            units,
            burst,
        })
    }

    /// What leaves for a cell in the window that is open for it: nothing else does then, so that
    /// what is due comes at the rate of its allotment.
    fn in_burst(&self, now: &Moment, (task, offer): (&Task, &Offer)) -> Option<Sent> {
        let account = self.account(now, (task, offer))?;
        let bursts = self.bursts.as_ref()?;
        let cell = self.cells.get(&offer.cell)?;
        // Clients first, as ever.
        let room = self.forecast(offer.cell).room(account.organic, now.passed);
        let free = now.table.left(offer.cell).saturating_sub(room);
        let due = account.due().min(free);
        let sent = bursts.send(offer, (due, account.check), cell.flights.len())?;
        let running = u64::try_from(cell.flights.len()).unwrap_or(u64::MAX);
        let tried = Account {
            check: sent.units,
            attempts: account.attempts.saturating_add(running),
            ..account
        };
        let given_up = sent.checks == 0 || tried.is_given_up();
        Some(if given_up { Sent::default() } else { sent })
    }

    /// Whether a check that holds so many units is still to be sent; it counts as in flight
    /// with them from now on.
    pub(super) fn is_still_due(
        &mut self,
        now: &Moment,
        (task, offer): (&Task, &Offer),
        (flight, held): (Flight, Units),
    ) -> bool {
        if self.period != Some(now.period) {
            return false;
        }
        let Some(mut account) = self.account(now, (task, offer)) else {
            return false;
        };
        let forecast = self.forecast(offer.cell);
        let room = forecast.room(account.organic, now.passed);
        let Some(cell) = self.cells.get_mut(&offer.cell) else {
            return false;
        };
        // Without itself, and without those that hold nothing yet and are asked after it.
        account.in_flight = cell.flights.held();
        // What it holds is no longer left.
        let fits = now.table.left(offer.cell) >= room;
        fits && !account.due().is_zero() && cell.flights.hold(flight, held)
    }

    /// A check that left and came back at these parts of the period.
    pub(super) fn ended(
        &mut self,
        period: Period,
        flight: Flight,
        end: CheckEnd,
        (left, now): (f64, f64),
    ) {
        let of_period = self.period == Some(period);
        let Some(cell) = self.cells.get_mut(&flight.cell).filter(|_| of_period) else {
            return;
        };
        cell.flights.end(flight);
        match end.outcome {
            None | Some(Outcome::Cancelled) => cell.pace = Pace::retry(now, &mut cell.rng),
            Some(outcome) => {
                cell.ended.all = cell.ended.all.saturating_add(1);
                if outcome == Outcome::Good {
                    cell.ended.good = cell.ended.good.saturating_add(1);
                    cell.takes += (now - left - cell.takes) * NEWEST;
                }
            }
        }
    }

    pub(super) fn sheet(&self, snapshot: &Snapshot, now: &Moment) -> DueSheet {
        if self.period != Some(now.period) || self.books.is_none() {
            return DueSheet::default();
        }
        let rows = offers(snapshot).filter_map(|(task, offer)| {
            let account = self.account(now, (task, offer))?;
            Some(Due {
                miner: Arc::clone(&offer.miner.hotkey),
                task: Arc::clone(&task.id),
                target: account.target(),
                due: account.due(),
            })
        });
        DueSheet {
            period: self.period,
            rows: rows.collect(),
        }
    }

    /// A cell's books of this moment; `None` when nothing was drawn for it.
    fn account(&self, now: &Moment, (task, offer): (&Task, &Offer)) -> Option<Account> {
        let cell = self.cells.get(&offer.cell)?;
        let books = self.books.as_ref()?.get(&offer.cell);
        let (others, durable) = books.map_or_else(Default::default, |row| (row.others, row.own));
        let others_posted = |of: fn(&CellBooks) -> Units| books.map_or(Units::ZERO, of);
        let posted = |origin| now.table.posted(offer.cell, origin);
        // Both only grow, and neither runs ahead of the truth.
        let own = Attempts {
            all: cell.ended.all.max(durable.all),
            good: cell.ended.good.max(durable.good),
        };
        Some(Account {
            allotment: offer.allotment,
            part: cell.drawn.part,
            least: self.first_burst(cell, offer.allotment),
            check: check_units(task, offer.allotment),
            floor: self.settings.floor,
            organic: posted(Origin::Organic).saturating_add(others_posted(|row| row.organic)),
            synthetic: posted(Origin::Synthetic).saturating_add(others_posted(|row| row.synthetic)),
            in_flight: cell.flights.planned(),
            attempts: others.all.saturating_add(own.all),
            good: others.good.saturating_add(own.good),
        })
    }

    /// What a newcomer's target is at least.
    fn first_burst(&self, cell: &Cell, allotment: Units) -> Units {
        let bursts = self.bursts.as_ref().filter(|_| cell.drawn.newcomer);
        bursts.map_or(Units::ZERO, |bursts| bursts.first_burst(allotment))
    }

    /// What is left to the windows that come.
    fn kept_back(&self, offer: &Offer) -> Units {
        let bursts = self.bursts.as_ref();
        bursts.map_or(Units::ZERO, |bursts| {
            bursts.kept_back(offer.cell, offer.allotment)
        })
    }

    fn forecast(&self, cell: CellId) -> Forecast {
        self.forecasts.get(&cell).copied().unwrap_or_default()
    }

    /// The size of the check whose time has come, and when it came, if one's has.
    fn is_time(&self, now: &Moment, (task, offer): (&Task, &Offer)) -> Option<(Units, f64)> {
        let account = self.account(now, (task, offer))?;
        let cell = self.cells.get(&offer.cell)?;
        let busy = cell.flights.len() >= at_once(offer);
        let taken = busy || offer.availability != Availability::Free;
        let running = u64::try_from(cell.flights.len()).unwrap_or(u64::MAX);
        let tried = Account {
            attempts: account.attempts.saturating_add(running),
            ..account
        };
        if taken || account.due().is_zero() || tried.is_given_up() {
            return None;
        }
        let forecast = self.forecast(offer.cell);
        let counted_on = forecast.counted_on(account.organic, now.passed);
        let checks = account
            .due_beyond(counted_on)
            .saturating_sub(self.kept_back(offer))
            .get()
            .div_ceil(account.brings().get());
        let leaves = cell.pace.leaves(checks, cell.takes)?;
        if now.passed < leaves {
            return None;
        }
        // Clients first: only what they will not need.
        let room = forecast.room(account.organic, now.passed);
        let free = now.table.left(offer.cell).saturating_sub(room);
        let units = account.check.min(free);
        (units >= account.check.part_of(CUT_LEAST).max(Units::new(1))).then_some((units, leaves))
    }
}

/// All offers, with their tasks.
fn offers(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Task>, &Offer)> {
    let markets = snapshot.markets.values();
    markets.flat_map(|market| market.offers.iter().map(|offer| (&market.task, offer)))
}

/// The size of a task's check at a miner of that allotment.
fn check_units(task: &Task, allotment: Units) -> Units {
    let largest = Units::new(task.largest_request).scaled(task.reserve_factor);
    task.check_units
        .min(largest)
        .min(allotment.part_of(OF_ALLOTMENT))
        .max(Units::new(1))
}

/// How many checks of a miner may run at once, outside of bursts.
fn at_once(offer: &Offer) -> usize {
    let stated = offer.concurrency.map(|stated| (stated / OF_STATED).max(1));
    stated.map_or(UNSTATED, |stated| stated as usize)
}
