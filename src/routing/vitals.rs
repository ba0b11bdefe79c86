//! How miners do, as this gateway has seen it: per cell number, outliving periods.
//!
//! Passive signals only: miners are foreign, what they say of themselves is not asked.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

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
/// Below this success rate a miner is left out for a while.
const EJECT_BELOW: f64 = 0.5;
/// For this long.
const EJECT_MS: u64 = 15_000;
/// Below this it is left out longer.
const EJECT_LONG_BELOW: f64 = 0.2;
/// For this long.
const EJECT_LONG_MS: u64 = 60_000;
/// What remains of the learned concurrency when a miner says "too many".
const TOO_MANY: f64 = 0.7;
/// Good attempts that raise the learned concurrency by one.
const RAISE_AFTER: u32 = 8;
/// A miner that said "too many" gets nothing for this long; twice as long each time in a
/// row. Else one that turns everything away would look idle, and be asked again and again.
const PAUSE_MS_MIN: u64 = 50;
/// At most this long.
const PAUSE_MS_MAX: u64 = 3_200;

/// Cells in a chunk of vitals.
const CHUNK: usize = 1024;
/// Chunks, as many as the books' table has.
const CHUNKS: usize = 2048;

/// The vitals of every miner and task.
#[derive(Debug)]
pub struct Vitals {
    /// By cell number, as the books' table has them. Bounded by the cells that the registry
    /// gave numbers.
    chunks: Box<[OnceLock<Arc<[Pulse]>>]>,
}

/// The vitals of one cell, wherever they lie.
#[derive(Clone, Debug)]
pub struct PulseRef {
    chunk: Arc<[Pulse]>,
    at: usize,
}

/// The vitals of one cell: one cache line, because a choice reads those of two miners among
/// very many.
#[repr(align(64))]
#[derive(Debug)]
pub struct Pulse {
    in_flight: AtomicU32,
    /// Requests at once that the miner was seen to take; 0: not learned.
    concurrency: AtomicU32,
    /// Microseconds per unit, without prefill; 0 before the first sample.
    latency: Decimal,
    /// Microseconds per charged unit, prefill and prompt included; 0 before the first sample.
    service: Decimal,
    /// 0 to 1.
    success: Decimal,
    /// Attempts that ended well or badly.
    judged: AtomicU32,
    good_in_a_row: AtomicU32,
    /// Answers of "too many" without a good one in between.
    busy_in_a_row: AtomicU32,
    /// Monotonic milliseconds.
    ejected_until: AtomicU64,
    /// Monotonic milliseconds.
    paused_until: AtomicU64,
    /// Units of all attempts, whatever their end: pace by successes would feed the dead.
    attempted: AtomicU64,
}

/// A number that many threads read and replace; half as long as an f64.
#[derive(Debug)]
struct Decimal(AtomicU32);

/// A call's place at a miner; gives itself back.
#[derive(Debug)]
#[must_use]
pub struct InFlight(PulseRef);

/// What an attempt teaches.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// From dispatch to the first delta.
    pub first_chunk: Option<Duration>,
    /// From dispatch to the end.
    pub duration: Duration,
    /// Units booked, prompt and output.
    pub units: Units,
    /// Of these, the output's.
    pub output: Units,
}

// === impl Vitals ===

impl Vitals {
    /// The vitals of a cell; those of a newcomer where nothing is known.
    #[must_use]
    pub fn pulse(&self, cell: CellId) -> PulseRef {
        let number = cell.0 as usize;
        let (chunk, at) = (number / CHUNK, number % CHUNK);
        let new = || (0..CHUNK).map(|_| Pulse::default()).collect();
        let chunk = match self.chunks.get(chunk) {
            Some(known) => Arc::clone(known.get_or_init(new)),
            // The books have no room for such a cell either: nothing is ever sent there.
            None => new(),
        };
        PulseRef { chunk, at }
    }

    /// An attempt begins that holds so many units.
    pub fn begin(&self, cell: CellId, units: Units) -> InFlight {
        let pulse = self.pulse(cell);
        pulse.in_flight.fetch_add(1, Ordering::AcqRel);
        pulse.attempted.fetch_add(units.get(), Ordering::Relaxed);
        InFlight(pulse)
    }

    /// An attempt ended.
    pub fn ended(&self, place: InFlight, outcome: Outcome, sample: Sample, now_ms: u64) {
        place.0.learn(outcome, sample, now_ms);
        drop(place);
    }

    /// Forgets what was learned: everyone is as new, what is in flight stays counted.
    pub fn forget(&self) {
        self.known().for_each(Pulse::forget);
    }

    /// A new period begins: pace starts again.
    pub fn turn(&self) {
        for pulse in self.known() {
            pulse.attempted.store(0, Ordering::Relaxed);
        }
    }

    fn known(&self) -> impl Iterator<Item = &Pulse> {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        chunks.flat_map(|chunk| chunk.iter())
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }
}

// === impl PulseRef ===

impl Deref for PulseRef {
    type Target = Pulse;

    fn deref(&self) -> &Pulse {
        &self.chunk[self.at]
    }
}

// === impl Pulse ===

impl Default for Pulse {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            concurrency: AtomicU32::new(0),
            latency: Decimal::new(0.0),
            service: Decimal::new(0.0),
            success: Decimal::new(1.0),
            judged: AtomicU32::new(0),
            good_in_a_row: AtomicU32::new(0),
            busy_in_a_row: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            paused_until: AtomicU64::new(0),
            attempted: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// Attempts in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

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
        Some(self.concurrency.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// Units of this period's attempts.
    #[must_use]
    pub fn attempted(&self) -> Units {
        Units::new(self.attempted.load(Ordering::Relaxed))
    }

    fn forget(&self) {
        self.latency.set(0.0);
        self.service.set(0.0);
        self.success.set(1.0);
        self.judged.store(0, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Relaxed);
        self.concurrency.store(0, Ordering::Relaxed);
        self.good_in_a_row.store(0, Ordering::Relaxed);
        self.busy_in_a_row.store(0, Ordering::Relaxed);
        self.paused_until.store(0, Ordering::Relaxed);
    }

    fn learn(&self, outcome: Outcome, sample: Sample, now_ms: u64) {
        match outcome {
            Outcome::Good => {
                self.learn_latency(sample);
                self.learn_success(1.0, now_ms);
                self.learn_room();
            }
            Outcome::Busy => self.learn_too_many(now_ms),
            // The client's doing: it must not get a miner left out.
            Outcome::Cancelled | Outcome::Refused => {}
            Outcome::Lost | Outcome::Stalled | Outcome::Protocol => {
                self.learn_success(0.0, now_ms);
            }
        }
    }

    fn learn_latency(&self, sample: Sample) {
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

    fn learn_success(&self, seen: f64, now_ms: u64) {
        let known = self.success();
        // What is thought of a newcomer counts as one attempt.
        let judged = self.judged.load(Ordering::Relaxed);
        self.judged
            .store(judged.saturating_add(1), Ordering::Relaxed);
        let weight = (f64::from(judged) + 2.0).recip().max(SUCCESS_WEIGHT);
        let next = (seen - known).mul_add(weight, known);
        self.success.set(next);
        if seen > 0.0 {
            return;
        }
        let away = if next < EJECT_LONG_BELOW {
            EJECT_LONG_MS
        } else if next < EJECT_BELOW {
            EJECT_MS
        } else {
            return;
        };
        self.ejected_until
            .fetch_max(now_ms.saturating_add(away), Ordering::Relaxed);
    }

    fn learn_room(&self) {
        self.busy_in_a_row.store(0, Ordering::Relaxed);
        let good = self
            .good_in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if self.concurrency().is_some() && good.is_multiple_of(RAISE_AFTER) {
            self.concurrency.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a smaller positive number"
    )]
    fn learn_too_many(&self, now_ms: u64) {
        let before = self.busy_in_a_row.fetch_add(1, Ordering::Relaxed);
        let pause_ms = PAUSE_MS_MIN
            .saturating_mul(1 << before.min(10))
            .min(PAUSE_MS_MAX);
        self.paused_until
            .fetch_max(now_ms.saturating_add(pause_ms), Ordering::Relaxed);
        self.good_in_a_row.store(0, Ordering::Relaxed);
        let had = self
            .concurrency()
            .unwrap_or_else(|| self.in_flight())
            .max(1);
        let next = ((f64::from(had) * TOO_MANY) as u32).max(1);
        self.concurrency.store(next, Ordering::Relaxed);
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

// === impl Decimal ===

impl Decimal {
    const fn new(value: f32) -> Self {
        Self(AtomicU32::new(value.to_bits()))
    }

    fn get(&self) -> f64 {
        f64::from(f32::from_bits(self.0.load(Ordering::Relaxed)))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "seven digits are enough for what is learned"
    )]
    fn set(&self, value: f64) {
        self.0.store((value as f32).to_bits(), Ordering::Relaxed);
    }
}

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
