//! What a choice reads of a candidate.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use taugate_ledger::units::Units;

use super::Decimal;
use super::history::Measure;
use crate::routing::cost::cost;

/// All that a choice reads of a candidate beside its balance: one cache line.
///
/// Every word is a hint, read and replaced without an order: only a reservation decides.
#[repr(align(64))]
#[derive(Debug)]
pub struct Pulse {
    pub(super) in_flight: AtomicU32,
    /// Requests at once that the miner was seen to take; [`NO_LIMIT`]: not learned.
    pub(super) learned: AtomicU32,
    /// Monotonic milliseconds.
    pub(super) ejected_until: AtomicU64,
    /// Monotonic milliseconds.
    pub(super) paused_until: AtomicU64,
    /// What an idle miner costs, but for the fourth: slowness, pace and failures. Worked out
    /// whenever one of them changes, and when a plan is made.
    pub(super) factor: Decimal,

    // The rest is told by whoever makes a plan, about once a second.
    /// Calls in flight at a miner that works at its allotment's rate; 0 while its pace is not
    /// known.
    pub(super) usual: Decimal,
    /// Requests at once that the miner states; [`NO_LIMIT`]: none.
    pub(super) stated: AtomicU32,
    pub(super) standing: AtomicU8,
    /// Units a period.
    pub(super) allotment: AtomicU64,
}

/// No limit is known.
const NO_LIMIT: u32 = u32::MAX;

/// How a plan found a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::routing) enum Standing {
    /// It may be chosen.
    Open,
    /// It fails, but too many do: it is not left out.
    Spared,
    /// It is left out.
    Ejected,
    /// It said that it takes none for now.
    Busy,
    /// It said that it takes no new ones.
    Draining,
}

/// What a plan tells of a candidate.
#[derive(Clone, Copy, Debug)]
pub(in crate::routing) struct Told {
    pub(in crate::routing) allotment: Units,
    pub(in crate::routing) standing: Standing,
    /// Requests at once that it states.
    pub(in crate::routing) concurrency: Option<u32>,
    pub(in crate::routing) usual: f64,
    pub(in crate::routing) measure: Measure,
}

// === impl Pulse ===

impl Default for Pulse {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            learned: AtomicU32::new(NO_LIMIT),
            ejected_until: AtomicU64::new(0),
            paused_until: AtomicU64::new(0),
            factor: Decimal::new(1.0),
            usual: Decimal::new(0.0),
            stated: AtomicU32::new(NO_LIMIT),
            standing: AtomicU8::new(Standing::Open.word()),
            allotment: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// Attempts in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether it is left out now.
    #[must_use]
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.ejected_until.load(Ordering::Relaxed)
    }

    /// Whether it said "too many" a moment ago.
    #[must_use]
    pub fn is_pausing(&self, now_ms: u64) -> bool {
        now_ms < self.paused_until.load(Ordering::Relaxed)
    }

    /// Requests at once that it was seen to take; `None` while it never said "too many".
    #[must_use]
    pub fn concurrency(&self) -> Option<u32> {
        Some(self.learned.load(Ordering::Relaxed)).filter(|learned| *learned != NO_LIMIT)
    }

    pub(in crate::routing) fn allotment(&self) -> Units {
        Units::new(self.allotment.load(Ordering::Relaxed))
    }

    pub(in crate::routing) fn standing(&self) -> Standing {
        Standing::of(self.standing.load(Ordering::Relaxed))
    }

    pub(in crate::routing) fn is_full(&self, in_flight: u32) -> bool {
        let limit = self.limit();
        limit != NO_LIMIT && in_flight >= limit
    }

    /// With so many in flight.
    pub(in crate::routing) fn cost(&self, in_flight: u32) -> f64 {
        cost(in_flight, self.places(), self.factor.get())
    }

    /// Requests at once: what is stated, or what was learned where that is less.
    fn limit(&self) -> u32 {
        let stated = self.stated.load(Ordering::Relaxed);
        stated.min(self.learned.load(Ordering::Relaxed))
    }

    /// What its occupancy is measured by: calls in flight at its allotment's rate, but no
    /// more than it takes. A miner that has not answered yet is tried one call at a time, as
    /// long as others are there: a burst into a silence is lost whole.
    fn places(&self) -> f64 {
        self.usual.get().max(1.0).min(f64::from(self.limit()))
    }

    pub(super) fn tell(&self, told: Told) {
        let Told {
            allotment,
            standing,
            concurrency,
            usual,
            measure: _,
        } = told;
        self.usual.set(usual);
        let stated = concurrency.unwrap_or(NO_LIMIT);
        self.stated.store(stated, Ordering::Relaxed);
        self.standing.store(standing.word(), Ordering::Relaxed);
        self.allotment.store(allotment.get(), Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        self.learned.store(NO_LIMIT, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Relaxed);
        self.paused_until.store(0, Ordering::Relaxed);
    }
}

// === impl Standing ===

impl Standing {
    const fn word(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Spared => 1,
            Self::Ejected => 2,
            Self::Busy => 3,
            Self::Draining => 4,
        }
    }

    const fn of(word: u8) -> Self {
        match word {
            1 => Self::Spared,
            2 => Self::Ejected,
            3 => Self::Busy,
            4 => Self::Draining,
            _ => Self::Open,
        }
    }
}
