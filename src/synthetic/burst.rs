//! Bursts: short windows in which every miner is asked at the rate of its allotments, over all
//! of its tasks at once. Pure: what a window is, what is asked in it, and how fast.
//!
//! A declaration is a claim. Checks that are spread over a period show that a miner is there,
//! not how much it can do at once, and a machine that stands behind several hotkeys or declares
//! itself in full for several tasks passes each of them one after the other. Asked for all of it
//! in the same seconds it shows what it is.
//!
//! Windows are drawn once a period and kept, so that a restart neither adds nor moves one. A
//! newcomer does not wait for them: it is asked in a window of its own soon after it was seen,
//! which it shares with whoever else is new by then.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::BoxFuture;
use taugate_ledger::ids::CellId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;

use crate::identity::StoreAway;

/// How bursts are planned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BurstSettings {
    /// Windows in each period that all miners share. 0: no burst is planned, newcomers' neither,
    /// and a declaration counts as it is.
    pub per_period: u32,
    /// The longest that a window is; where periods are short it is a twentieth of one.
    pub length: Duration,
    /// The part of what it was asked for that a miner must show, once, before clients' requests
    /// reach it; 0 to 1.
    pub passes_at: f64,
}

/// A stretch of time in which miners are asked at the rate of their allotments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Unix milliseconds.
    pub begins_ms: u64,
    /// Milliseconds, never 0.
    pub length_ms: u64,
    /// Whether all miners are asked; else only newcomers are.
    pub common: bool,
}

/// A window of a period, with the number that names it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedWindow {
    /// From 0 for those that all miners share, from [`NEWCOMERS`] for newcomers' own.
    pub number: u32,
    /// The window.
    pub window: Window,
}

/// The number of the first window of newcomers in a period.
pub const NEWCOMERS: u32 = 1000;

/// Keeps the windows of periods.
pub trait BurstStore: Send + Sync + std::fmt::Debug {
    /// Keeps windows under a planner's term, unless windows of these numbers stand already or the
    /// term is no longer the planner's; answers all that stand for the period, by number.
    fn put_bursts(
        &self,
        period: Period,
        term: u64,
        windows: Vec<NumberedWindow>,
    ) -> BoxFuture<'_, Result<Vec<NumberedWindow>, StoreAway>>;
}

/// The windows of one period, and who is new in it.
#[derive(Clone, Debug)]
pub struct Windows {
    settings: BurstSettings,
    length: PeriodLength,
    period: Period,
    standing: Vec<NumberedWindow>,
    /// The numbers of those that were told to begin.
    begun: BTreeSet<u32>,
    /// When a cell that has shown nothing was first seen, Unix milliseconds. Bounded by the
    /// cells that are offered.
    newcomers: HashMap<CellId, u64>,
}

/// A miner's state in a task, as it is asked in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Units a second that its allotment comes to.
    pub rate: f64,
    /// Requests at once that it takes: by its own word, or as was seen where that is less.
    pub concurrency: Option<u32>,
    /// Seconds that a unit takes in one request, prefill included; 0: not known.
    pub service_s: f64,
    /// Requests in flight, clients' own included.
    pub in_flight: u32,
    /// Units delivered in the window by attempts that ended.
    pub shown: f64,
    /// Units of checks that may still be sent.
    pub due: Units,
    /// Whether it takes nothing, whatever it is sent: it said busy, or fails.
    pub closed: bool,
    /// The largest check of the task, units.
    pub check_units: Units,
}

/// What leaves for a miner now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Checks.
    pub checks: u32,
    /// The size of each, units.
    pub units: Units,
}

/// Requests at once beyond those that its rate needs: what a unit takes alone it does not take
/// among others.
const SPARE: f64 = 1.5;

/// A check is this much longer than its part of the window, so that no place is empty before the
/// window ends.
const LONGER: f64 = 1.25;

/// A shorter check is all prefill, and shows nothing.
const UNITS_MIN: u64 = 16;

/// Requests at once towards a miner that states no number.
const UNSTATED_MAX: u32 = 64;

/// A window that is looked at so late is still whole, milliseconds beside a tenth of it.
const LATE_MS: u64 = 50;

/// The part of a period at its end in which no window is: what was asked has to end.
const REST: f64 = 0.02;

// === impl BurstSettings ===

impl Default for BurstSettings {
    /// One burst a period, of ten seconds: long enough for answers to be in their stride, and
    /// less than a third of a hundredth of an hour's work.
    fn default() -> Self {
        Self {
            per_period: 1,
            length: Duration::from_secs(10),
            passes_at: 0.5,
        }
    }
}

impl BurstSettings {
    /// Where none are planned.
    pub const NONE: Self = Self {
        per_period: 0,
        length: Duration::from_secs(10),
        passes_at: 0.5,
    };

    /// Whether any are planned.
    #[must_use]
    pub const fn are_planned(&self) -> bool {
        self.per_period > 0
    }

    /// The length of a window in periods of that length.
    #[must_use]
    pub fn window(&self, length: PeriodLength) -> Duration {
        let part = Duration::from_secs(u64::from(length.secs())) / 20;
        self.length.min(part).max(Duration::from_millis(1))
    }

    /// The longest that a newcomer waits for its first window.
    #[must_use]
    pub fn newcomer_wait(length: PeriodLength) -> Duration {
        let part = Duration::from_secs(u64::from(length.secs())) / 6;
        part.min(Duration::from_mins(1))
    }

    /// What a newcomer's target is at least: the work of its first burst.
    #[must_use]
    pub fn first_burst(&self, allotment: Units, length: PeriodLength) -> Units {
        let part = self.window(length).as_secs_f64() / f64::from(length.secs());
        let work = allotment.scaled(part * LONGER);
        if self.are_planned() {
            work
        } else {
            Units::ZERO
        }
    }

    /// The windows of a period that all miners share: one in each of so many equal parts of it,
    /// anywhere in its part. `draw` gives numbers from 0 to 1.
    pub fn draw(
        &self,
        length: PeriodLength,
        period: Period,
        mut draw: impl FnMut() -> f64,
    ) -> Vec<NumberedWindow> {
        let length_ms = millis(self.window(length));
        let begins_ms = period.start_s().saturating_mul(1000);
        let period_ms = u64::from(length.secs()).saturating_mul(1000);
        let usable_ms = period_ms.saturating_sub(part(period_ms, REST));
        let parts = u64::from(self.per_period).max(1);
        let part_ms = usable_ms / parts;
        let room_ms = part_ms.saturating_sub(length_ms);
        (0..self.per_period)
            .map(|number| {
                let at_ms = part_ms
                    .saturating_mul(u64::from(number))
                    .saturating_add(part(room_ms, draw()));
                NumberedWindow {
                    number,
                    window: Window {
                        begins_ms: begins_ms.saturating_add(at_ms),
                        length_ms,
                        common: true,
                    },
                }
            })
            .collect()
    }
}

// === impl Window ===

impl Window {
    /// The first millisecond after it, Unix time.
    #[must_use]
    pub const fn ends_ms(&self) -> u64 {
        self.begins_ms.saturating_add(self.length_ms)
    }

    /// Whether it is open at that moment.
    #[must_use]
    pub const fn is_open(&self, now_ms: u64) -> bool {
        self.begins_ms <= now_ms && now_ms < self.ends_ms()
    }

    /// Its length, seconds.
    #[must_use]
    pub fn length_s(&self) -> f64 {
        seconds(self.length_ms)
    }

    /// What a cell of that allotment is asked for in it.
    #[must_use]
    pub fn work(&self, allotment: Units, length: PeriodLength) -> Units {
        allotment.scaled(self.length_s() / f64::from(length.secs()))
    }

    /// What leaves for a miner at `elapsed` since the window began: as many requests are kept in
    /// flight as its rate needs, and takes, unless what it delivered is ahead of its rate.
    #[must_use]
    pub fn send(&self, asked: &Asked, elapsed: Duration) -> Sent {
        let places = self.places(asked);
        let free = places.saturating_sub(asked.in_flight);
        if asked.closed || free == 0 || asked.is_ahead(elapsed) {
            return Sent::default();
        }
        let units = self.check_units(asked, places);
        let due = asked.due.get().div_ceil(units.get().max(1));
        Sent {
            checks: free.min(u32::try_from(due).unwrap_or(u32::MAX)),
            units,
        }
    }

    /// Whether a miner is asked for its rate just now: all that it takes is in flight, it is
    /// ahead, or it takes nothing.
    #[must_use]
    pub fn is_asked(&self, asked: &Asked, elapsed: Duration) -> bool {
        asked.closed || asked.in_flight >= self.places(asked) || asked.is_ahead(elapsed)
    }

    /// Requests at once by which a miner is asked for its rate.
    fn places(&self, asked: &Asked) -> u32 {
        let needed = if asked.service_s > 0.0 {
            Some(count(asked.rate * asked.service_s * SPARE))
        } else {
            None
        };
        let by_size = || {
            let largest = asked.check_units.as_f64().max(1.0);
            count(asked.rate * self.length_s() / largest).min(UNSTATED_MAX)
        };
        match (asked.concurrency, needed) {
            (Some(taken), Some(needed)) => taken.min(needed),
            (Some(taken), None) => taken,
            (None, Some(needed)) => needed.min(UNSTATED_MAX),
            (None, None) => by_size(),
        }
        .max(1)
    }

    /// The size of a check that fills one of so many places for the window.
    fn check_units(&self, asked: &Asked, places: u32) -> Units {
        let fills = asked.rate * self.length_s() * LONGER / f64::from(places.max(1));
        let largest = asked.check_units.get().max(1);
        let least = UNITS_MIN.min(largest);
        Units::new(1)
            .scaled(fills.ceil())
            .clamp(Units::new(least), Units::new(largest))
    }
}

// === impl Asked ===

impl Asked {
    /// Whether it delivered what its rate comes to by now.
    fn is_ahead(&self, elapsed: Duration) -> bool {
        let by_now = self.rate * elapsed.as_secs_f64();
        self.shown > by_now
    }
}

// === impl Windows ===

impl Windows {
    /// The windows of a period as they stand in the store.
    #[must_use]
    pub fn of(
        settings: BurstSettings,
        length: PeriodLength,
        period: Period,
        standing: Vec<NumberedWindow>,
    ) -> Self {
        Self {
            settings,
            length,
            period,
            standing,
            begun: BTreeSet::new(),
            newcomers: HashMap::new(),
        }
    }

    /// Its period.
    #[must_use]
    pub const fn period(&self) -> Period {
        self.period
    }

    /// Takes what stands in the store now.
    pub fn stand(&mut self, standing: Vec<NumberedWindow>) {
        self.standing = standing;
    }

    /// The next period's windows: who is new and was not asked yet stays new.
    #[must_use]
    pub fn turned(self, period: Period, standing: Vec<NumberedWindow>) -> Self {
        Self {
            period,
            standing,
            begun: BTreeSet::new(),
            ..self
        }
    }

    /// The windows that begin later.
    pub fn ahead(&self, now_ms: u64) -> impl Iterator<Item = Window> {
        let standing = self.standing.iter().map(|one| one.window);
        standing.filter(move |window| now_ms < window.begins_ms)
    }

    /// The window that begins now; each is told once. One whose beginning was missed, because
    /// the gateway was not there, is not: what was shown in the rest of it is not known.
    pub fn begin(&mut self, now_ms: u64) -> Option<Window> {
        let begins = |one: &NumberedWindow| {
            let late_ms = now_ms.saturating_sub(one.window.begins_ms);
            one.window.is_open(now_ms)
                && late_ms <= one.window.length_ms / 10 + LATE_MS
                && !self.begun.contains(&one.number)
        };
        let one = *self.standing.iter().find(|one| begins(one))?;
        self.begun.insert(one.number);
        Some(one.window)
    }

    /// Units of a cell's checks that are kept for the windows that come: what paces the rest of
    /// the period leaves them alone.
    #[must_use]
    pub fn kept_back(&self, cell: CellId, allotment: Units, now_ms: u64) -> Units {
        let own = self.is_new(cell);
        self.ahead(now_ms)
            .filter(|window| window.common || own)
            .map(|window| window.work(allotment, self.length).scaled(LONGER))
            .sum()
    }

    /// Whether a cell has shown nothing yet.
    #[must_use]
    pub fn is_new(&self, cell: CellId) -> bool {
        self.newcomers.contains_key(&cell)
    }

    /// Looks who is new: `cells` have shown nothing, and are in no window either. When one of them would else wait too long,
    /// this is the window that is to be added. It begins at a moment that is drawn (`draw` is
    /// from 0 to 1), in time for whoever came first.
    pub fn newcomers(
        &mut self,
        cells: impl IntoIterator<Item = CellId>,
        now_ms: u64,
        draw: f64,
    ) -> Option<NumberedWindow> {
        let before = std::mem::take(&mut self.newcomers);
        let seen = cells.into_iter();
        self.newcomers = seen
            .map(|cell| (cell, before.get(&cell).copied().unwrap_or(now_ms)))
            .collect();
        if !self.settings.are_planned() {
            return None;
        }
        let first_ms = self.newcomers.values().copied().min()?;
        let wait_ms = millis(BurstSettings::newcomer_wait(self.length));
        let latest_ms = first_ms.saturating_add(wait_ms).max(now_ms);
        if self
            .ahead(now_ms)
            .any(|window| window.begins_ms <= latest_ms)
        {
            return None;
        }
        let length_ms = millis(self.settings.window(self.length));
        // Not at once, so that those who come together share it.
        let room_ms = latest_ms.saturating_sub(now_ms);
        let begins_ms = now_ms.saturating_add(part(room_ms, 0.25 + draw / 2.0));
        let window = Window {
            begins_ms,
            length_ms,
            common: false,
        };
        let usable_ms = self.length.end_ms(self.period);
        if window.ends_ms() > usable_ms {
            return None;
        }
        let newest = self.standing.iter().map(|one| one.number).max();
        let number = newest.map_or(NEWCOMERS, |newest| newest.saturating_add(1).max(NEWCOMERS));
        Some(NumberedWindow { number, window })
    }
}

/// So many, one at least.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small positive number, and the cast saturates"
)]
fn count(value: f64) -> u32 {
    value.ceil().max(1.0) as u32
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds of so many milliseconds.
fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}

/// A part of a span, milliseconds.
fn part(span_ms: u64, part: f64) -> u64 {
    let span = Duration::from_millis(span_ms);
    millis(span.mul_f64(part.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests;
