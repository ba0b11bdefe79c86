//! Bursts at work: which windows stand, what is asked in those that are open, and what was
//! shown once they are settled.
//!
//! ```text
//! plan (the planner, under its term) ──▶ windows ──▶ watch: open, asked?, over, settled
//!                                                      │
//!        registry ◀── what counts ◀── demonstrations ◀─┘
//! ```
//!
//! A window whose gateway dies leaves nothing: its rows are written after its end, and nobody
//! opens a window in its middle.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio_util::sync::CancellationToken;

use super::burst::{Asked, BurstSettings, BurstStore, NumberedWindow, Sent, Window, Windows};
use super::demonstration::{ASKED_MIN, Demonstration, DemonstrationStore, NEWEST, shown};
use super::measure::{Measure, Measures, OPEN_MAX};
use super::plan::Term;
use crate::identity::StoreAway;
use crate::registry::snapshot::{Availability, Offer, Proofs, Shown, Snapshot};

/// How often it is looked at windows that are open: a fortieth of one, at most.
const LOOKS: u32 = 40;

/// How often it is looked whether one begins, or is settled.
const LOOK_MAX: Duration = Duration::from_millis(100);
const LOOK_MIN: Duration = Duration::from_millis(5);

/// What bursts see of the gateway, and tell it.
pub trait Floor: Send + Sync + std::fmt::Debug {
    /// Wall time, Unix milliseconds.
    fn unix_ms(&self) -> u64;
    /// Who offers what.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// How a miner does.
    fn condition(&self, cell: CellId) -> Condition;
    /// What was shown by now.
    fn prove(&self, proofs: Proofs);
}

/// Keeps all rows of bursts.
pub trait Rows: BurstStore + DemonstrationStore {}

impl<T: BurstStore + DemonstrationStore> Rows for T {}

/// How a miner does in a task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Condition {
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests at once that it was seen to take; `None`: it never said "too many".
    pub concurrency: Option<u32>,
    /// Seconds that a unit takes in one request, all told; 0: not known.
    pub service_s: f64,
    /// It said "too many" a moment ago, or it fails.
    pub closed: bool,
}

/// Plans bursts, watches them, and says what was shown.
#[derive(Debug)]
pub struct Bursts {
    settings: BurstSettings,
    length: PeriodLength,
    incarnation: Incarnation,
    floor: Arc<dyn Floor>,
    measures: Arc<Measures>,
    store: Arc<dyn Rows>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    windows: Option<Windows>,
    open: Vec<Opened>,
    shown: HashMap<CellId, Shown>,
    /// Rows that the store did not take yet. Bounded by the windows that are open at once.
    unwritten: Vec<Demonstration>,
    rng: StdRng,
}

/// A window that is open, or not settled yet.
#[derive(Debug)]
struct Opened {
    measure: Arc<Measure>,
    cells: HashMap<CellId, Asking>,
    /// How much of it has been looked at.
    looked: Duration,
}

/// How a cell is asked in a window.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// Units a second.
    rate: f64,
    /// For so long it was asked for its rate.
    asked: Duration,
}

// === impl Bursts ===

impl Bursts {
    /// Bursts of which nothing is known yet; `rng` draws when windows begin.
    #[must_use]
    pub fn new(
        (settings, length): (BurstSettings, PeriodLength),
        incarnation: Incarnation,
        floor: Arc<dyn Floor>,
        (measures, store): (Arc<Measures>, Arc<dyn Rows>),
        rng: StdRng,
    ) -> Self {
        Self {
            settings,
            length,
            incarnation,
            floor,
            measures,
            store,
            state: Mutex::new(State {
                windows: None,
                open: Vec::new(),
                shown: HashMap::new(),
                unwritten: Vec::new(),
                rng,
            }),
        }
    }

    /// Reads what was shown before, and tells it.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn load(&self) -> Result<(), StoreAway> {
        let rows = self.store.demonstrations(NEWEST).await?;
        let shown = shown(&self.settings, self.length, rows);
        self.state.lock().shown.clone_from(&shown);
        self.floor.prove(Proofs {
            planned: self.settings.are_planned(),
            shown,
        });
        Ok(())
    }

    /// Whether any are planned.
    #[must_use]
    pub const fn are_planned(&self) -> bool {
        self.settings.are_planned()
    }

    /// Draws the windows of a period once, and one more whenever newcomers would wait too long.
    /// To be called by the planner, often.
    ///
    /// # Errors
    /// When the store is away: the same again is right.
    pub async fn plan(&self, term: Term, period: Period) -> Result<(), StoreAway> {
        if !self.settings.are_planned() {
            return Ok(());
        }
        let Some(add) = self.missing(period) else {
            return Ok(());
        };
        let standing = self.store.put_bursts(period, term.0, add).await?;
        let mut state = self.state.lock();
        state.windows = Some(match state.windows.take() {
            Some(mut windows) if windows.period() == period => {
                windows.stand(standing);
                windows
            }
            Some(windows) => windows.turned(period, standing),
            None => Windows::of(self.settings, self.length, period, standing),
        });
        drop(state);
        Ok(())
    }

    /// Windows that are to be kept: those of a period that is new here, or one of newcomers.
    fn missing(&self, period: Period) -> Option<Vec<NumberedWindow>> {
        let snapshot = self.floor.snapshot();
        let now_ms = self.floor.unix_ms();
        let cells = offers(&snapshot).map(|offer| offer.cell);
        self.state.lock().missing(self, (period, now_ms), cells)
    }

    /// What a newcomer's target is at least.
    #[must_use]
    pub fn first_burst(&self, allotment: Units) -> Units {
        self.settings.first_burst(allotment, self.length)
    }

    /// Units of a cell's checks that are kept for windows that come.
    #[must_use]
    pub fn kept_back(&self, cell: CellId, allotment: Units) -> Units {
        let now_ms = self.floor.unix_ms();
        let kept_back = |windows: &Windows| windows.kept_back(cell, allotment, now_ms);
        let state = self.state.lock();
        state.windows.as_ref().map_or(Units::ZERO, kept_back)
    }

    /// What leaves for a miner now; `None`: no window is open for it. `due` may still be sent,
    /// `check` is the largest check, and so many checks have left: not all of them may be on
    /// their way to the miner yet.
    #[must_use]
    pub fn send(&self, offer: &Offer, (due, check): (Units, Units), left: usize) -> Option<Sent> {
        let (measure, rate) = self.state.lock().open_for(offer.cell)?;
        let asked = self.asked(offer, &measure, rate);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let asked = Asked {
            due,
            check_units: check,
            in_flight: asked.in_flight.max(left),
            ..asked
        };
        Some(measure.window().send(&asked, measure.elapsed()))
    }

    /// How long until it is to be looked again.
    #[must_use]
    pub fn look_every(&self) -> Duration {
        let window = self.settings.window(self.length);
        (window / LOOKS).clamp(LOOK_MIN, LOOK_MAX)
    }

    /// Opens windows, looks how miners are asked in them, and settles them, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.look_every());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut away = false;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.watch();
            let told = self.tell().await;
            if told.is_err() && !away {
                tracing::warn!("what bursts showed waits for the engine");
            }
            away = told.is_err();
        }
    }

    /// One look.
    fn watch(&self) {
        let (snapshot, now_ms) = (self.floor.snapshot(), self.floor.unix_ms());
        let by_cell: HashMap<CellId, &Offer> =
            offers(&snapshot).map(|offer| (offer.cell, offer)).collect();
        let mut state = self.state.lock();
        self.look(&mut state, &by_cell);
        self.settle(&mut state);
        let begins = |windows: &mut Windows| {
            let window = windows.begin(now_ms)?;
            let asked = by_cell.values();
            let asked = asked.filter(|offer| window.common || windows.is_new(offer.cell));
            Some((window, asked.copied().collect::<Vec<_>>()))
        };
        if let Some((window, asked)) = state.windows.as_mut().and_then(begins) {
            let opened = self.open(window, &asked, &snapshot);
            state.open.push(opened);
        }
    }

    fn open(&self, window: Window, offers: &[&Offer], snapshot: &Snapshot) -> Opened {
        let longest = snapshot.tasks.iter().map(|task| task.limits.total).max();
        let cells = offers.iter().map(|offer| offer.cell);
        let now_ms = self.floor.unix_ms();
        let measure = self
            .measures
            .open(window, cells, now_ms, longest.unwrap_or_default());
        let period_s = f64::from(self.length.secs());
        let asking = offers.iter().map(|offer| {
            let asking = Asking {
                rate: offer.allotment.as_f64() / period_s,
                asked: Duration::ZERO,
            };
            (offer.cell, asking)
        });
        tracing::debug!(
            cells = offers.len(),
            common = window.common,
            "a burst begins"
        );
        Opened {
            cells: asking.collect(),
            looked: measure.elapsed(),
            measure,
        }
    }

    /// Notes who is asked for its rate: what is so at the end of a stretch was so in it.
    fn look(&self, state: &mut State, offers: &HashMap<CellId, &Offer>) {
        for opened in &mut state.open {
            let length = Duration::from_millis(opened.measure.window().length_ms);
            let elapsed = opened.measure.elapsed().min(length);
            let since = elapsed.saturating_sub(opened.looked);
            opened.looked = elapsed;
            if since.is_zero() {
                continue;
            }
            let window = opened.measure.window();
            for (cell, asking) in &mut opened.cells {
                // Who takes itself away in a window shows what it showed until then.
                let asked = offers.get(cell).is_none_or(|offer| {
                    let asked = self.asked(offer, &opened.measure, asking.rate);
                    window.is_asked(&asked, elapsed)
                });
                if asked {
                    asking.asked = asking.asked.saturating_add(since);
                }
            }
        }
    }

    fn asked(&self, offer: &Offer, measure: &Measure, rate: f64) -> Asked {
        let condition = self.floor.condition(offer.cell);
        let concurrency = match (offer.concurrency, condition.concurrency) {
            (Some(stated), Some(seen)) => Some(stated.min(seen)),
            (stated, seen) => stated.or(seen),
        };
        Asked {
            rate,
            concurrency,
            service_s: condition.service_s,
            in_flight: condition.in_flight,
            shown: measure.shown(offer.cell),
            due: Units::ZERO,
            closed: condition.closed || offer.availability != Availability::Free,
            check_units: Units::MAX,
        }
    }

    /// Makes rows of what is settled.
    fn settle(&self, state: &mut State) {
        let crowded = state.open.len() > OPEN_MAX;
        for (place, opened) in state.open.iter_mut().enumerate() {
            let forced = crowded && place == 0;
            if !opened.measure.is_over() {
                continue;
            }
            let settled: Vec<CellId> = opened
                .cells
                .keys()
                .copied()
                .filter(|cell| {
                    let in_flight = self.floor.condition(*cell).in_flight;
                    opened.measure.is_settled(*cell, in_flight) || forced
                })
                .collect();
            for cell in settled {
                let asking = opened.cells.remove(&cell);
                let row = asking.and_then(|asking| asking.row(cell, &opened.measure));
                state.unwritten.extend(row);
            }
        }
        let measures = &self.measures;
        state.open.retain(|opened| {
            let goes_on = !opened.cells.is_empty() || !opened.measure.is_over();
            if !goes_on {
                measures.close(&opened.measure);
            }
            goes_on
        });
    }

    /// Hands rows to the store, and tells what follows from them.
    async fn tell(&self) -> Result<(), StoreAway> {
        let rows = self.state.lock().unwritten.clone();
        if rows.is_empty() {
            return Ok(());
        }
        self.store
            .put_demonstrations(self.incarnation, rows.clone())
            .await?;
        self.load().await?;
        let written: HashSet<_> = rows.iter().map(|row| (row.cell, row.window)).collect();
        let still = |row: &Demonstration| !written.contains(&(row.cell, row.window));
        self.state.lock().unwritten.retain(still);
        Ok(())
    }
}

// === impl State ===

impl State {
    fn missing(
        &mut self,
        bursts: &Bursts,
        (period, now_ms): (Period, u64),
        cells: impl Iterator<Item = CellId>,
    ) -> Option<Vec<NumberedWindow>> {
        let rng = &mut self.rng;
        let known = self.windows.as_mut();
        let Some(windows) = known.filter(|windows| windows.period() == period) else {
            let settings = &bursts.settings;
            return Some(settings.draw(bursts.length, period, || rng.random()));
        };
        let (open, shown, unwritten) = (&self.open, &self.shown, &self.unwritten);
        let new = cells
            .filter(|cell| !shown.contains_key(cell))
            .filter(|cell| !open.iter().any(|one| one.cells.contains_key(cell)))
            .filter(|cell| !unwritten.iter().any(|row| row.cell == *cell));
        let added = windows.newcomers(new, now_ms, rng.random());
        added.map(|added| vec![added])
    }

    /// The window that is open for a cell, and the rate at which the cell is asked in it.
    fn open_for(&self, cell: CellId) -> Option<(Arc<Measure>, f64)> {
        let mut open = self.open.iter().filter(|one| !one.measure.is_over());
        open.find_map(|one| {
            let asking = one.cells.get(&cell)?;
            Some((Arc::clone(&one.measure), asking.rate))
        })
    }
}

// === impl Asking ===

impl Asking {
    /// What a cell showed, if it was asked for enough of it.
    fn row(self, cell: CellId, measure: &Measure) -> Option<Demonstration> {
        let window = measure.window();
        let asked_s = self.asked.as_secs_f64();
        (asked_s >= ASKED_MIN * window.length_s()).then(|| Demonstration {
            cell,
            window,
            asked: whole(self.rate * asked_s).max(Units::new(1)),
            units: whole(measure.shown(cell)),
        })
    }
}

/// All offers.
fn offers(snapshot: &Snapshot) -> impl Iterator<Item = &Offer> {
    let markets = snapshot.markets.values();
    markets.flat_map(|market| market.offers.iter())
}

/// Whole units of an amount.
fn whole(units: f64) -> Units {
    Units::new(1).scaled(units)
}

#[cfg(test)]
mod tests;
