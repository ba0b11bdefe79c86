//! A market, weighed: who may be sampled and how often. Rebuilt about once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

use super::balances::{Balance, Balances};
use super::cost::slowness;
use super::draws::{Draws, below};
use super::settings::RouterSettings;
use super::vitals::{History, Measure, Standing, Told, Vitals};
use crate::registry::snapshot::{Availability, Market, Offer};

/// A market with weights. What a choice reads of a candidate stands in its pulse, which is
/// told when the plan is made.
#[derive(Debug)]
pub(super) struct Plan {
    market: Arc<Market>,
    /// Each place as often as its weight says.
    wheel: Vec<Place>,
    ahead: Ahead,
}

/// Two places that the last call drew for the next one; [`NO_PLACE`]: taken. A line of its
/// own, as every call writes it.
#[repr(align(64))]
#[derive(Debug)]
struct Ahead {
    first: AtomicU64,
    second: AtomicU64,
}

/// No place as a word.
const NO_PLACE: u64 = u64::MAX;

/// A place among a market's offers, and its cell: whoever has the place goes on to the cell
/// without another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u32,
    pub(super) cell: CellId,
}

/// What a market is weighed by.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) settings: RouterSettings,
    pub(super) balances: &'a dyn Balances,
    pub(super) vitals: &'a Vitals,
    pub(super) now_ms: u64,
    /// Where a wheel begins, 0 to 1.
    pub(super) start: f64,
}

/// An offer, while it is weighed.
struct Candidate<'a> {
    offer: &'a Offer,
    history: &'a History,
    standing: Standing,
    /// Left out, busy or not.
    ejected: bool,
    /// The smaller of the allotment and what was verified.
    spendable: Units,
    /// As in [`Measure`].
    promised: f64,
}

// === impl Plan ===

impl Plan {
    /// Weighs everyone, and tells each pulse how its candidate was found.
    pub(super) fn new(market: Arc<Market>, view: &View<'_>) -> Self {
        let offers = market.offers.iter();
        let mut candidates: Vec<_> = offers.map(|offer| Candidate::new(offer, view)).collect();
        eject(&mut candidates, view);
        let latencies = candidates.iter().map(|one| one.history.latency());
        let median = median(latencies.collect());
        let pace_mean = mean(candidates.iter().map(Candidate::pace));
        for candidate in &candidates {
            let told = candidate.told(view, (median, pace_mean));
            view.vitals.tell(candidate.offer.cell, told);
        }
        let weights: Vec<_> = candidates
            .iter()
            .map(|candidate| candidate.weight(median, view.balances))
            .collect();
        let offers = (0..).zip(&market.offers);
        let places = offers.map(|(at, offer)| Place {
            at,
            cell: offer.cell,
        });
        Self {
            wheel: wheel(places, &weights, view.start),
            ahead: Ahead {
                first: AtomicU64::new(NO_PLACE),
                second: AtomicU64::new(NO_PLACE),
            },
            market,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.market.offers.len()
    }

    pub(super) fn offer(&self, at: u32) -> Option<&Offer> {
        self.market.offers.get(at as usize)
    }

    pub(super) fn knows(&self, cell: CellId) -> bool {
        self.market.offers.iter().any(|offer| offer.cell == cell)
    }

    pub(super) fn place(&self, at: usize) -> Option<Place> {
        let cell = self.market.offers.get(at)?.cell;
        let at = u32::try_from(at).ok()?;
        Some(Place { at, cell })
    }

    /// Two places by weight; `None` where nobody has any.
    ///
    /// A draw has to wait until its point of the wheel comes from memory, and a pulse can be
    /// asked for only then. So a call takes what the one before it drew, and draws for the
    /// next: its waits run side by side.
    pub(super) fn sample(&self, draws: &mut Draws) -> Option<[Place; 2]> {
        let Ahead { first, second } = &self.ahead;
        // Only one call gets the first; the second may be that of another pair by then.
        let taken = [
            first.swap(NO_PLACE, Ordering::Acquire),
            second.load(Ordering::Relaxed),
        ];
        let next = [self.draw(draws)?, self.draw(draws)?];
        second.store(next[1].word(), Ordering::Relaxed);
        first.store(next[0].word(), Ordering::Release);
        match taken.map(Place::of) {
            [Some(one), Some(two)] => Some([one, two]),
            _ => Some([self.draw(draws)?, self.draw(draws)?]),
        }
    }

    fn draw(&self, draws: &mut Draws) -> Option<Place> {
        let at = below(draws.next() >> 32, self.wheel.len());
        self.wheel.get(at).copied()
    }
}

// === impl Place ===

impl Place {
    fn word(self) -> u64 {
        (u64::from(self.at) << 32) | u64::from(self.cell.0)
    }

    fn of(word: u64) -> Option<Self> {
        let halves = [word >> 32, word & 0xffff_ffff].map(u32::try_from);
        match halves {
            [Ok(at), Ok(cell)] if word != NO_PLACE => Some(Self {
                at,
                cell: CellId(cell),
            }),
            _ => None,
        }
    }
}

// === impl Candidate ===

impl<'a> Candidate<'a> {
    fn new(offer: &'a Offer, view: &View<'a>) -> Self {
        Self {
            offer,
            history: view.vitals.history(offer.cell),
            standing: match offer.availability {
                Availability::Free => Standing::Open,
                Availability::Busy => Standing::Busy,
                Availability::Draining => Standing::Draining,
            },
            ejected: false,
            spendable: offer.allotment.min(offer.verified),
            promised: promised(offer, period_us(view)),
        }
    }

    fn told(&self, view: &View<'_>, (median, pace_mean): (f64, f64)) -> Told {
        Told {
            allotment: self.offer.allotment,
            standing: self.standing,
            concurrency: self.offer.concurrency,
            usual: self.usual(period_us(view)),
            measure: Measure {
                spendable: self.spendable,
                promised: self.promised,
                median,
                pace_mean,
            },
        }
    }

    /// Calls in flight at a miner that works at its allotment's rate: units a second times
    /// seconds a unit; 0 while that is not known.
    fn usual(&self, period_us: f64) -> f64 {
        if period_us > 0.0 {
            self.spendable.as_f64() / period_us * self.history.service()
        } else {
            0.0
        }
    }

    /// What is left to spend, times success, over how slow it is: weight by what is left
    /// alone would feed the dead and the slow, whose share of the table grows as the others
    /// spend.
    fn weight(&self, median: f64, balances: &dyn Balances) -> f64 {
        if self.ejected || self.standing == Standing::Draining {
            return 0.0;
        }
        let Balance { left, spent } = balances.balance(self.offer.cell);
        let left = self.spendable.saturating_sub(spent).min(left);
        let slow = slowness(self.history.latency(), median, self.promised).max(1.0);
        left.as_f64() * self.history.success() / slow
    }

    fn pace(&self) -> f64 {
        self.history.pace(self.spendable)
    }
}

fn period_us(view: &View<'_>) -> f64 {
    view.settings.period.as_secs_f64() * 1e6
}

/// The latency by which a miner keeps its allotment's rate with all its places taken; 0 where
/// it states none.
fn promised(offer: &Offer, period_us: f64) -> f64 {
    match offer.concurrency {
        Some(places) if !offer.allotment.is_zero() => {
            f64::from(places) * period_us / offer.allotment.as_f64()
        }
        Some(_) | None => 0.0,
    }
}

/// Leaves out who fails, worst first, but never more than half: when more look bad, the
/// fault is likely not theirs.
fn eject(candidates: &mut [Candidate<'_>], view: &View<'_>) {
    let most = candidates.len() / 2;
    let is_failing = |candidate: &Candidate<'_>| {
        let pulse = view.vitals.pulse(candidate.offer.cell);
        pulse.is_ejected(view.now_ms)
    };
    let mut failing: Vec<_> = candidates
        .iter_mut()
        .filter(|candidate| is_failing(candidate))
        .collect();
    failing.sort_by(|a, b| a.history.success().total_cmp(&b.history.success()));
    for (place, candidate) in failing.into_iter().enumerate() {
        candidate.ejected = place < most;
        // Who is busy or draining is passed over all the same.
        if candidate.standing == Standing::Open {
            candidate.standing = if candidate.ejected {
                Standing::Ejected
            } else {
                Standing::Spared
            };
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a market has far fewer miners than 2^53"
)]
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| {
        (sum + value, count + 1)
    });
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// The median of what is known; 0 where nothing is.
fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| *value > 0.0);
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Lays places out on a wheel as often as their weights say: wherever it is stopped, it stops
/// at each with its weight. There are about as many points as places, so that the wheel stays
/// near in memory; as it begins elsewhere each time, whoever weighs too little for a point of
/// its own has one now and then, and over time everyone gets its part. Empty where nobody has
/// any weight.
#[expect(
    clippy::cast_precision_loss,
    reason = "a market has far fewer miners than 2^53"
)]
fn wheel(places: impl Iterator<Item = Place>, weights: &[f64], start: f64) -> Vec<Place> {
    // A few miners are told apart to a thousandth.
    const POINTS_MIN: usize = 1024;
    let total: f64 = weights.iter().sum();
    if total.is_nan() || total <= 0.0 {
        return Vec::new();
    }
    let points = weights.len().max(POINTS_MIN);
    let step = total / points as f64;
    let mut wheel = Vec::with_capacity(points);
    let (mut reach, mut next) = (0.0, start * step);
    for (place, weight) in places.zip(weights) {
        reach += weight;
        while next < reach && wheel.len() < points {
            wheel.push(place);
            next += step;
        }
    }
    wheel
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(weights: &[f64], start: f64) -> Vec<Place> {
        let cells = (0..).map(CellId);
        let places = (0..).zip(cells).map(|(at, cell)| Place { at, cell });
        wheel(places, weights, start)
    }

    #[test]
    fn the_wheel_keeps_each_weight() {
        let weights = [1.0, 0.0, 3.0, 6.0];
        let wheel = laid_out(&weights, 0.5);
        let mut shares = [0.0; 4];
        for place in &wheel {
            shares[place.at as usize] += 10.0 / wheel.len() as f64;
        }
        for (share, weight) in shares.iter().zip(weights) {
            assert!((share - weight).abs() < 0.02, "{shares:?}");
        }
        assert!(shares[1].abs() < 1e-9, "{shares:?}");
    }

    #[test]
    fn whoever_is_too_small_for_a_point_has_one_now_and_then() {
        // A tenth of what a point stands for, about.
        let mut weights = vec![10.0; 2000];
        weights[777] = 1.0;
        let has_one = |start: &u32| {
            let wheel = laid_out(&weights, f64::from(*start) / 1000.0);
            wheel.iter().any(|place| place.at == 777)
        };
        let times = (0..1000).filter(has_one).count();
        assert!((50..200).contains(&times), "{times} of 1000");
    }

    #[test]
    fn no_weight_means_no_sample() {
        assert!(laid_out(&[0.0, 0.0], 0.0).is_empty());
        assert!(laid_out(&[], 0.0).is_empty());
    }
}
