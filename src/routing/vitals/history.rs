//! What learning keeps of a candidate, and what a plan measures it by.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use taugate_ledger::units::Units;

use super::{Decimal, Sample};
use crate::routing::cost::{Burden, factor};

/// The weight of a slower answer in the latency: bad news counts at once.
const LATENCY_RISE: f64 = 0.5;
/// The weight of a quicker one: one lucky answer does not hide ten slow ones.
const LATENCY_FALL: f64 = 0.1;
/// The weight of one attempt in the time that a unit takes all told.
const SERVICE_WEIGHT: f64 = 0.1;
/// The weight of one attempt in the success rate: about seven make up most of it. The first
/// ones weigh more, as little is known then: whoever never did anything well is left out
/// after two.
const SUCCESS_WEIGHT: f64 = 0.15;

/// What is known of one cell's attempts, and what that is measured by.
#[derive(Debug)]
pub struct History {
    /// Microseconds per unit, without prefill; 0 before the first sample.
    pub(super) latency: Decimal,
    /// Microseconds per charged unit, prefill and prompt included; 0 before the first sample.
    pub(super) service: Decimal,
    /// 0 to 1.
    pub(super) success: Decimal,
    /// Attempts that ended well or badly.
    pub(super) judged: AtomicU32,
    pub(super) good_in_a_row: AtomicU32,
    /// Answers of "too many" without a good one in between.
    pub(super) busy_in_a_row: AtomicU32,
    /// Units of all attempts, whatever their end: pace by successes would feed the dead.
    pub(super) attempted: AtomicU64,

    // A [`Measure`], told by whoever makes a plan.
    pub(super) spendable: AtomicU64,
    pub(super) promised: Decimal,
    pub(super) median: Decimal,
    pub(super) pace_mean: Decimal,
}

/// What a candidate is measured by: its own word, and its market.
#[derive(Clone, Copy, Debug)]
pub(in crate::routing) struct Measure {
    /// The smaller of the allotment and what was verified, units a period.
    pub(in crate::routing) spendable: Units,
    /// Microseconds a unit may take in one of the places that it states, if all of them
    /// together are to keep its allotment's rate; 0 where it states none.
    pub(in crate::routing) promised: f64,
    /// The market's median latency, microseconds per unit; 0: not known.
    pub(in crate::routing) median: f64,
    /// The market's mean pace.
    pub(in crate::routing) pace_mean: f64,
}

// === impl History ===

impl Default for History {
    fn default() -> Self {
        Self {
            latency: Decimal::new(0.0),
            service: Decimal::new(0.0),
            success: Decimal::new(1.0),
            judged: AtomicU32::new(0),
            good_in_a_row: AtomicU32::new(0),
            busy_in_a_row: AtomicU32::new(0),
            attempted: AtomicU64::new(0),
            spendable: AtomicU64::new(0),
            promised: Decimal::new(0.0),
            median: Decimal::new(0.0),
            pace_mean: Decimal::new(0.0),
        }
    }
}

impl History {
    /// Microseconds per unit, without prefill; 0 before the first sample.
    #[must_use]
    pub fn latency(&self) -> f64 {
        self.latency.get()
    }

    /// Microseconds per charged unit, all told; 0 before the first sample.
    #[must_use]
    pub fn service(&self) -> f64 {
        self.service.get()
    }

    /// The part of attempts that end well, 0 to 1.
    #[must_use]
    pub fn success(&self) -> f64 {
        self.success.get()
    }

    /// Whether an attempt ended well or badly yet.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.judged.load(Ordering::Relaxed) > 0
    }

    /// Units of this period's attempts.
    #[must_use]
    pub fn attempted(&self) -> Units {
        Units::new(self.attempted.load(Ordering::Relaxed))
    }

    /// The part of so many units that attempts took.
    pub(in crate::routing) fn pace(&self, spendable: Units) -> f64 {
        if spendable.is_zero() {
            0.0
        } else {
            self.attempted().as_f64() / spendable.as_f64()
        }
    }

    pub(super) fn tell(&self, measure: Measure) {
        let spendable = measure.spendable.get();
        self.spendable.store(spendable, Ordering::Relaxed);
        self.promised.set(measure.promised);
        self.median.set(measure.median);
        self.pace_mean.set(measure.pace_mean);
    }

    pub(super) fn factor(&self) -> f64 {
        let spendable = Units::new(self.spendable.load(Ordering::Relaxed));
        factor(&Burden {
            latency: self.latency(),
            median: self.median.get(),
            promised: self.promised.get(),
            pace: self.pace(spendable),
            pace_mean: self.pace_mean.get(),
            success: self.success(),
        })
    }

    pub(super) fn forget(&self) {
        self.latency.set(0.0);
        self.service.set(0.0);
        self.success.set(1.0);
        self.judged.store(0, Ordering::Relaxed);
        self.good_in_a_row.store(0, Ordering::Relaxed);
        self.busy_in_a_row.store(0, Ordering::Relaxed);
    }

    pub(super) fn learn_latency(&self, sample: Sample) {
        let writing = sample
            .duration
            .saturating_sub(sample.first_chunk.unwrap_or_default());
        let latency = micros_per_unit(writing, sample.output);
        let known = self.latency();
        let weight = if latency > known {
            LATENCY_RISE
        } else {
            LATENCY_FALL
        };
        self.latency.set(step(known, latency, weight));
        let service = micros_per_unit(sample.duration, sample.units);
        let next = step(self.service(), service, SERVICE_WEIGHT);
        self.service.set(next);
    }

    /// Says what the success rate is now.
    pub(super) fn learn_success(&self, seen: f64) -> f64 {
        let known = self.success();
        // What is thought of a newcomer counts as one attempt.
        let judged = self.judged.load(Ordering::Relaxed);
        self.judged
            .store(judged.saturating_add(1), Ordering::Relaxed);
        let weight = (f64::from(judged) + 2.0).recip().max(SUCCESS_WEIGHT);
        let next = (seen - known).mul_add(weight, known);
        self.success.set(next);
        next
    }
}

/// A moving mean; the first sample stands for itself.
fn step(known: f64, seen: f64, weight: f64) -> f64 {
    if known > 0.0 {
        (seen - known).mul_add(weight, known)
    } else {
        seen
    }
}

/// One microsecond at least, so that 0 keeps meaning "not known".
fn micros_per_unit(span: Duration, units: Units) -> f64 {
    let units = u32::try_from(units.get()).unwrap_or(u32::MAX).max(1);
    (span.as_secs_f64() * 1e6 / f64::from(units)).max(1.0)
}
