//! How miners do, as this gateway has seen it: per cell number, outliving periods.
//!
//! Passive signals only: miners are foreign, what they say of themselves is not asked.

mod history;
mod pulse;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

pub use self::history::History;
pub(super) use self::history::Measure;
pub use self::pulse::Pulse;
pub(super) use self::pulse::{Standing, Told};

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

/// The vitals of every miner and task, in two arrays: a choice reads two pulses among very
/// many and waits for both to come from memory, so that a pulse holds what a choice reads and
/// no more. What only learning needs is the history.
#[derive(Debug, Default)]
pub struct Vitals {
    pulses: ByCell<Pulse>,
    histories: ByCell<History>,
}

/// One of each for every cell number, as the books' table has them. Bounded by the cells that
/// the registry gave numbers.
#[derive(Debug)]
struct ByCell<T>(Box<[OnceLock<Arc<[T]>>]>);

/// A number that many threads read and replace; half as long as an f64.
#[derive(Debug)]
struct Decimal(AtomicU32);

/// A call's place at a miner; gives itself back.
#[derive(Debug)]
#[must_use]
pub struct InFlight {
    cell: CellId,
    chunk: Arc<[Pulse]>,
}

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
    /// The pulse of a cell; that of a newcomer where nothing is known.
    #[must_use]
    pub fn pulse(&self, cell: CellId) -> &Pulse {
        self.pulses.get(cell)
    }

    /// The history of a cell; that of a newcomer where nothing is known.
    #[must_use]
    pub fn history(&self, cell: CellId) -> &History {
        self.histories.get(cell)
    }

    /// An attempt begins that holds so many units.
    pub fn begin(&self, cell: CellId, units: Units) -> InFlight {
        let chunk = Arc::clone(self.pulses.chunk(cell));
        let place = InFlight { cell, chunk };
        place.pulse().in_flight.fetch_add(1, Ordering::AcqRel);
        let history = self.history(cell);
        history.attempted.fetch_add(units.get(), Ordering::Relaxed);
        place.pulse().factor.set(history.factor());
        place
    }

    /// An attempt ended.
    pub fn ended(&self, place: InFlight, outcome: Outcome, sample: Sample, now_ms: u64) {
        let history = self.history(place.cell);
        learn(place.pulse(), history, outcome, (sample, now_ms));
        place.pulse().factor.set(history.factor());
        drop(place);
    }

    /// Forgets what was learned: everyone is as new, what is in flight stays counted.
    pub fn forget(&self) {
        for (pulse, history) in self.pulses.known().zip(self.histories.known()) {
            history.forget();
            pulse.forget();
            pulse.factor.set(history.factor());
        }
    }

    /// A new period begins: pace starts again. It counts with the next plan.
    pub fn turn(&self) {
        for history in self.histories.known() {
            history.attempted.store(0, Ordering::Relaxed);
        }
    }

    /// A plan tells of a candidate.
    pub(super) fn tell(&self, cell: CellId, told: Told) {
        let (pulse, history) = (self.pulse(cell), self.history(cell));
        history.tell(told.measure);
        pulse.factor.set(history.factor());
        pulse.tell(told);
    }
}

// === impl ByCell ===

impl<T: Default> ByCell<T> {
    fn get(&self, cell: CellId) -> &T {
        &self.chunk(cell)[place(cell)]
    }

    /// The cells that the books have no room for share the last chunk: nothing is ever sent
    /// there.
    fn chunk(&self, cell: CellId) -> &Arc<[T]> {
        let chunk = (cell.0 as usize / CHUNK).min(CHUNKS);
        self.0[chunk].get_or_init(|| (0..CHUNK).map(|_| T::default()).collect())
    }

    fn known(&self) -> impl Iterator<Item = &T> {
        let chunks = self.0.iter().filter_map(OnceLock::get);
        chunks.flat_map(|chunk| chunk.iter())
    }
}

impl<T> Default for ByCell<T> {
    fn default() -> Self {
        Self((0..=CHUNKS).map(|_| OnceLock::new()).collect())
    }
}

/// Of a cell in its chunk.
const fn place(cell: CellId) -> usize {
    cell.0 as usize % CHUNK
}

// === Learning: the history takes what was seen, the pulse what follows for choices ===

fn learn(pulse: &Pulse, history: &History, outcome: Outcome, (sample, now_ms): (Sample, u64)) {
    match outcome {
        Outcome::Good => {
            history.learn_latency(sample);
            history.learn_success(1.0);
            learn_room(pulse, history);
        }
        Outcome::Busy => learn_too_many(pulse, history, now_ms),
        // The client's doing: it must not get a miner left out.
        Outcome::Cancelled | Outcome::Refused => {}
        Outcome::Lost | Outcome::Stalled | Outcome::Protocol => {
            let away_ms = match history.learn_success(0.0) {
                success if success < EJECT_LONG_BELOW => EJECT_LONG_MS,
                success if success < EJECT_BELOW => EJECT_MS,
                _ => return,
            };
            let until = now_ms.saturating_add(away_ms);
            pulse.ejected_until.fetch_max(until, Ordering::Relaxed);
        }
    }
}

fn learn_room(pulse: &Pulse, history: &History) {
    history.busy_in_a_row.store(0, Ordering::Relaxed);
    let good = history
        .good_in_a_row
        .fetch_add(1, Ordering::Relaxed)
        .saturating_add(1);
    if pulse.concurrency().is_some() && good.is_multiple_of(RAISE_AFTER) {
        pulse.learned.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a smaller positive number"
)]
fn learn_too_many(pulse: &Pulse, history: &History, now_ms: u64) {
    let before = history.busy_in_a_row.fetch_add(1, Ordering::Relaxed);
    let pause_ms = PAUSE_MS_MIN
        .saturating_mul(1 << before.min(10))
        .min(PAUSE_MS_MAX);
    let until = now_ms.saturating_add(pause_ms);
    pulse.paused_until.fetch_max(until, Ordering::Relaxed);
    history.good_in_a_row.store(0, Ordering::Relaxed);
    let had = pulse
        .concurrency()
        .unwrap_or_else(|| pulse.in_flight())
        .max(1);
    let next = ((f64::from(had) * TOO_MANY) as u32).max(1);
    pulse.learned.store(next, Ordering::Relaxed);
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

impl InFlight {
    fn pulse(&self) -> &Pulse {
        &self.chunk[place(self.cell)]
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pulse().in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
