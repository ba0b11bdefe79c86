//! What miners deliver within windows, clients' requests included: each attempt counts by the
//! part of its time that lies in the window.
//!
//! A window is measured until the last attempt that reaches into it has ended, which may be long
//! after its end. How many these are is counted once it is over: so many are in flight then, and
//! each that ends and was sent before is one of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;
use tokio::time::Instant;

use super::burst::Window;
use crate::call::delivery::{Deliveries, Delivery};

/// Windows that are measured at once, at most. Each waits for its last attempt, which is no
/// longer than a call; periods of seconds have many in that time.
pub const OPEN_MAX: usize = 128;

/// All windows that are measured.
#[derive(Debug, Default)]
pub struct Measures {
    open: ArcSwap<Vec<Arc<Measure>>>,
}

/// What is delivered in one window.
#[derive(Debug)]
pub struct Measure {
    window: Window,
    begins: Instant,
    ends: Instant,
    /// Attempts that end later do not count.
    latest: Instant,
    /// Those that are asked.
    cells: HashMap<CellId, Shares>,
}

/// A cell's part.
#[derive(Debug, Default)]
struct Shares {
    /// Millionths of a unit within the window, of attempts that ended.
    micro: AtomicU64,
    /// When it was counted how many were still in flight, and how many.
    counted: OnceLock<(Instant, u32)>,
    /// How many of these have ended.
    ended: AtomicU32,
}

/// A unit in the sums, so that parts of units add up.
const MICRO: f64 = 1e6;

// === impl Measures ===

impl Measures {
    /// Measures what these cells deliver in a window, which begins now or later; attempts that
    /// end within `tail` after its end count.
    pub fn open(
        &self,
        window: Window,
        cells: impl IntoIterator<Item = CellId>,
        now_ms: u64,
        tail: Duration,
    ) -> Arc<Measure> {
        let measure = Arc::new(Measure::new(window, cells, now_ms, tail));
        self.open.rcu(|open| {
            let beyond = (open.len() + 1).saturating_sub(OPEN_MAX);
            let mut next = open[beyond..].to_vec();
            next.push(Arc::clone(&measure));
            next
        });
        measure
    }

    /// Measures a window no more.
    pub fn close(&self, measure: &Arc<Measure>) {
        self.open.rcu(|open| {
            let others = open.iter().filter(|one| !Arc::ptr_eq(one, measure));
            others.cloned().collect::<Vec<_>>()
        });
    }

    /// Windows that are measured.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.load().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Deliveries for Measures {
    fn ended(&self, delivery: Delivery) {
        for measure in self.open.load().iter() {
            measure.add(delivery);
        }
    }
}

// === impl Measure ===

impl Measure {
    fn new(
        window: Window,
        cells: impl IntoIterator<Item = CellId>,
        now_ms: u64,
        tail: Duration,
    ) -> Self {
        let now = Instant::now();
        let late = Duration::from_millis(now_ms.saturating_sub(window.begins_ms));
        let ahead = Duration::from_millis(window.begins_ms.saturating_sub(now_ms));
        let begins = now.checked_sub(late).unwrap_or(now) + ahead;
        let ends = begins + Duration::from_millis(window.length_ms);
        let cells = cells.into_iter().map(|cell| (cell, Shares::default()));
        Self {
            window,
            begins,
            ends,
            latest: ends + tail,
            cells: cells.collect(),
        }
    }

    /// Its window.
    #[must_use]
    pub const fn window(&self) -> Window {
        self.window
    }

    /// Since when it is open; zero before.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(self.begins)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.ends
    }

    /// The cells that are measured.
    pub fn cells(&self) -> impl Iterator<Item = CellId> {
        self.cells.keys().copied()
    }

    /// Whether a cell is measured.
    #[must_use]
    pub fn has(&self, cell: CellId) -> bool {
        self.cells.contains_key(&cell)
    }

    /// Units that a cell delivered in the window, by attempts that ended.
    #[must_use]
    pub fn shown(&self, cell: CellId) -> f64 {
        let micro = self.cells.get(&cell);
        let micro = micro.map_or(0, |shares| shares.micro.load(Ordering::Relaxed));
        Units::new(micro).as_f64() / MICRO
    }

    /// Whether all that reaches into the window has ended, or is waited for no longer.
    /// `in_flight` is how many attempts the miner has now; it is asked about a cell once the
    /// window is over.
    #[must_use]
    pub fn is_settled(&self, cell: CellId, in_flight: u32) -> bool {
        let now = Instant::now();
        let Some(shares) = self.cells.get(&cell) else {
            return true;
        };
        if now < self.ends {
            return false;
        }
        let (_, awaited) = *shares.counted.get_or_init(|| (now, in_flight));
        in_flight == 0 || shares.ended.load(Ordering::Acquire) >= awaited || now >= self.latest
    }

    fn add(&self, delivery: Delivery) {
        let Some(shares) = self.cells.get(&delivery.cell) else {
            return;
        };
        let part = overlap((delivery.sent, delivery.ended), (self.begins, self.ends));
        let micro = delivery.units.scaled(part * MICRO).get();
        shares.micro.fetch_add(micro, Ordering::Relaxed);
        let counted = shares.counted.get();
        if counted.is_some_and(|(at, _)| delivery.sent <= *at) {
            shares.ended.fetch_add(1, Ordering::Release);
        }
    }
}

/// The part of a span of time that lies within another, 0 to 1.
fn overlap((sent, ended): (Instant, Instant), (begins, ends): (Instant, Instant)) -> f64 {
    let within = ended.min(ends).saturating_duration_since(sent.max(begins));
    let span = ended.saturating_duration_since(sent);
    if span.is_zero() {
        let inside = begins <= sent && sent < ends;
        return f64::from(u8::from(inside));
    }
    within.as_secs_f64() / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: CellId = CellId(3);

    /// From the tenth second on, for ten seconds.
    const WINDOW: Window = Window {
        begins_ms: 10_000,
        length_ms: 10_000,
        common: true,
    };

    fn open(measures: &Measures) -> Arc<Measure> {
        measures.open(WINDOW, [CELL], 0, Duration::from_secs(60))
    }

    /// An attempt between two moments, seconds since `start`.
    fn delivery(start: Instant, (sent, ended): (u64, u64), units: u64) -> Delivery {
        Delivery {
            cell: CELL,
            sent: start + Duration::from_secs(sent),
            ended: start + Duration::from_secs(ended),
            units: Units::new(units),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_counts_by_the_part_of_its_time_in_the_window() {
        for (span, shown) in [
            ((12, 14), 100.0),
            ((10, 20), 100.0),
            ((5, 15), 50.0),
            ((15, 35), 25.0),
            ((0, 40), 25.0),
            ((0, 10), 0.0),
            ((20, 25), 0.0),
            ((15, 15), 100.0),
            ((25, 25), 0.0),
        ] {
            let (measures, start) = (Measures::default(), Instant::now());
            let measure = open(&measures);
            measures.ended(delivery(start, span, 100));
            assert!((measure.shown(CELL) - shown).abs() < 1e-6, "{span:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn parts_of_units_add_up_and_other_cells_do_not_count() {
        let (measures, start) = (Measures::default(), Instant::now());
        let measure = open(&measures);
        for _ in 0..30 {
            measures.ended(delivery(start, (5, 35), 1));
        }
        measures.ended(Delivery {
            cell: CellId(4),
            ..delivery(start, (12, 14), 100)
        });
        assert!((measure.shown(CELL) - 10.0).abs() < 1e-4);
        assert!(measure.shown(CellId(4)).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_waits_for_the_late_streams_that_reach_into_it_and_for_no_others() {
        let (measures, start) = (Measures::default(), Instant::now());
        let measure = open(&measures);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(!measure.is_settled(CELL, 0), "it is open");
        tokio::time::advance(Duration::from_secs(5)).await;
        // Two run at its end.
        assert!(!measure.is_settled(CELL, 2));
        tokio::time::advance(Duration::from_secs(10)).await;
        // One that came later ends first, the miner is never idle.
        measures.ended(delivery(start, (25, 30), 100));
        measures.ended(delivery(start, (15, 30), 90));
        assert!(!measure.is_settled(CELL, 2));
        measures.ended(delivery(start, (10, 30), 80));
        assert!(measure.is_settled(CELL, 2));
        assert!((measure.shown(CELL) - 70.0).abs() < 1e-6);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_miner_is_settled_at_once_and_a_stuck_one_at_the_latest() {
        let measures = Measures::default();
        let measure = open(&measures);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(measure.is_settled(CELL, 0));
        let stuck = open(&measures);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(!stuck.is_settled(CELL, 1));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(stuck.is_settled(CELL, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_windows_are_measured_at_once() {
        let (measures, start) = (Measures::default(), Instant::now());
        let oldest = open(&measures);
        let all: Vec<_> = (0..OPEN_MAX).map(|_| open(&measures)).collect();
        assert_eq!(measures.len(), OPEN_MAX);
        measures.ended(delivery(start, (12, 14), 100));
        assert!(oldest.shown(CELL).abs() < 1e-9);
        assert!((all[0].shown(CELL) - 100.0).abs() < 1e-6);
        all.iter().for_each(|measure| measures.close(measure));
        assert!(measures.is_empty());
    }
}
