//! A market, weighed: who may be sampled and how often. Rebuilt about once a second.

use std::sync::Arc;

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

use super::balances::{Balance, Balances};
use super::cost::{Burden, cost, slowness};
use super::settings::RouterSettings;
use super::vitals::{PulseRef, Vitals};
use crate::registry::snapshot::{Availability, Market, Offer};

/// A market with weights.
#[derive(Debug)]
pub(super) struct Plan {
    market: Arc<Market>,
    /// One per offer, in the same order.
    pub(super) entries: Vec<Entry>,
    /// Whether anyone has any weight.
    sampled: bool,
    latency_median: f64,
    pace_mean: f64,
}

/// What a choice needs of an offer: one cache line, because it reads two among very many.
#[repr(align(64))]
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) pulse: PulseRef,
    pub(super) cell: CellId,
    pub(super) availability: Availability,
    /// Left out.
    pub(super) ejected: bool,
    /// Fails, but too many do: it is not left out.
    pub(super) spared: bool,
    pub(super) allotment: Units,
    /// The smaller of the allotment and what was verified.
    spendable: Units,
    /// Requests at once that it states.
    concurrency: Option<u32>,
    /// Calls in flight at a miner that works at its allotment's rate; 0 while its pace is not
    /// known.
    usual: f32,
    /// Microseconds a unit may take in one of the places that it states, if all of them
    /// together are to keep its allotment's rate; 0 where it states none.
    promised: f32,
    /// Its slot of the alias table: a draw below this is for itself,
    threshold: f32,
    /// one above it for this one.
    alias: u32,
}

/// What a market is weighed by.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) settings: RouterSettings,
    pub(super) balances: &'a dyn Balances,
    pub(super) vitals: &'a Vitals,
    pub(super) now_ms: u64,
}

/// A slot of the alias table: below the threshold itself, above it another.
#[derive(Clone, Copy, Debug)]
struct Slot {
    threshold: f32,
    alias: u32,
}

// === impl Plan ===

impl Plan {
    pub(super) fn new(market: Arc<Market>, view: &View<'_>) -> Self {
        let offers = market.offers.iter();
        let mut entries: Vec<_> = offers.map(|offer| Entry::new(offer, view)).collect();
        eject(&mut entries, view);
        let latencies = entries.iter().map(|entry| entry.pulse.latency());
        let latency_median = median(latencies.collect());
        let weights = entries
            .iter()
            .map(|entry| entry.weight(latency_median, view.balances));
        let slots = alias(&weights.collect::<Vec<_>>());
        for (entry, slot) in entries.iter_mut().zip(&slots) {
            (entry.threshold, entry.alias) = (slot.threshold, slot.alias);
        }
        Self {
            sampled: !slots.is_empty(),
            latency_median,
            pace_mean: mean(entries.iter().map(Entry::pace)),
            entries,
            market,
        }
    }

    pub(super) fn offer(&self, at: usize) -> Option<&Offer> {
        self.market.offers.get(at)
    }

    pub(super) fn knows(&self, cell: CellId) -> bool {
        self.market.offers.iter().any(|offer| offer.cell == cell)
    }

    /// An entry by weight; `None` where nobody has any.
    #[expect(
        clippy::cast_precision_loss,
        reason = "24 bits of a draw are enough for a threshold"
    )]
    pub(super) fn sample(&self, draw: u64) -> Option<usize> {
        if !self.sampled {
            return None;
        }
        let place = below(draw & 0xffff_ffff, self.entries.len());
        let entry = self.entries.get(place)?;
        let fraction = (draw >> 40) as f32 / (1_u32 << 24) as f32;
        if fraction < entry.threshold {
            Some(place)
        } else {
            usize::try_from(entry.alias).ok()
        }
    }

    pub(super) fn cost(&self, entry: &Entry, in_flight: u32) -> f64 {
        cost(&Burden {
            in_flight,
            concurrency: entry.concurrency(),
            latency: entry.pulse.latency(),
            median: self.latency_median,
            promised: f64::from(entry.promised),
            pace: entry.pace(),
            pace_mean: self.pace_mean,
            success: entry.pulse.success(),
        })
    }
}

/// One of so many by 32 bits of a draw, without a division.
pub(super) fn below(draw: u64, many: usize) -> usize {
    let many = u64::try_from(many).unwrap_or(u64::MAX);
    usize::try_from(draw.saturating_mul(many) >> 32).unwrap_or(0)
}

// === impl Entry ===

impl Entry {
    fn new(offer: &Offer, view: &View<'_>) -> Self {
        let mut entry = Self {
            pulse: view.vitals.pulse(offer.cell),
            cell: offer.cell,
            availability: offer.availability,
            ejected: false,
            spared: false,
            allotment: offer.allotment,
            spendable: offer.allotment.min(offer.verified),
            concurrency: offer.concurrency,
            usual: 0.0,
            promised: 0.0,
            threshold: 1.0,
            alias: 0,
        };
        let period_us = view.settings.period.as_secs_f64() * 1e6;
        entry.usual = short(entry.usual(period_us));
        entry.promised = short(entry.promised(period_us));
        entry
    }

    /// Requests at once: what is stated, or what was learned where that is less.
    fn limit(&self) -> Option<u32> {
        match (self.concurrency, self.pulse.concurrency()) {
            (Some(stated), Some(learned)) => Some(stated.min(learned)),
            (stated, learned) => stated.or(learned),
        }
    }

    /// What its occupancy is measured by: calls in flight at its allotment's rate, but no
    /// more than it takes. A miner that has not answered yet is tried one call at a time, as
    /// long as others are there: a burst into a silence is lost whole.
    fn concurrency(&self) -> f64 {
        let usual = f64::from(self.usual).max(1.0);
        self.limit()
            .map_or(usual, |limit| usual.min(f64::from(limit)))
    }

    pub(super) fn is_full(&self, in_flight: u32) -> bool {
        self.limit().is_some_and(|limit| in_flight >= limit)
    }

    /// Calls in flight at a miner that works at its allotment's rate: units a second times
    /// seconds a unit; 0 while that is not known.
    fn usual(&self, period_us: f64) -> f64 {
        if period_us > 0.0 {
            number(self.spendable) / period_us * self.pulse.service()
        } else {
            0.0
        }
    }

    /// The latency by which a miner keeps its allotment's rate with all its places taken.
    fn promised(&self, period_us: f64) -> f64 {
        match self.concurrency {
            Some(places) if !self.allotment.is_zero() => {
                f64::from(places) * period_us / number(self.allotment)
            }
            Some(_) | None => 0.0,
        }
    }

    /// What is left to spend, times success, over how slow it is: weight by what is left
    /// alone would feed the dead and the slow, whose share of the table grows as the others
    /// spend.
    fn weight(&self, median: f64, balances: &dyn Balances) -> f64 {
        if self.ejected || self.availability == Availability::Draining {
            return 0.0;
        }
        let Balance { left, spent } = balances.balance(self.cell);
        let left = self.spendable.saturating_sub(spent).min(left);
        let slow = slowness(self.pulse.latency(), median, f64::from(self.promised)).max(1.0);
        number(left) * self.pulse.success() / slow
    }

    /// The part of its allotment that attempts took.
    fn pace(&self) -> f64 {
        if self.spendable.is_zero() {
            0.0
        } else {
            number(self.pulse.attempted()) / number(self.spendable)
        }
    }
}

/// Leaves out who fails, worst first, but never more than half: when more look bad, the
/// fault is likely not theirs.
fn eject(entries: &mut [Entry], view: &View<'_>) {
    let most = entries.len() / 2;
    let mut failing: Vec<usize> = (0..entries.len())
        .filter(|at| entries[*at].pulse.is_ejected(view.now_ms))
        .collect();
    failing.sort_by(|a, b| {
        entries[*a]
            .pulse
            .success()
            .total_cmp(&entries[*b].pulse.success())
    });
    for (place, at) in failing.into_iter().enumerate() {
        entries[at].ejected = place < most;
        entries[at].spared = place >= most;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a weight needs no more digits")]
fn number(units: Units) -> f64 {
    units.get() as f64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "seven digits are enough for a choice"
)]
const fn short(value: f64) -> f32 {
    value as f32
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

/// An alias table (Vose's method): one draw finds an entry by weight in constant time.
#[expect(
    clippy::cast_precision_loss,
    reason = "a market has far fewer miners than 2^53"
)]
fn alias(weights: &[f64]) -> Vec<Slot> {
    let total: f64 = weights.iter().sum();
    if total.is_nan() || total <= 0.0 {
        return Vec::new();
    }
    let scale = weights.len() as f64 / total;
    let mut rest: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let mut slots = vec![
        Slot {
            threshold: 1.0,
            alias: 0,
        };
        weights.len()
    ];
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..rest.len()).partition(|at| rest[*at] < 1.0);
    while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
        slots[less] = Slot {
            threshold: short(rest[less]),
            alias: u32::try_from(more).unwrap_or(0),
        };
        rest[more] -= 1.0 - rest[less];
        if rest[more] < 1.0 {
            large.pop();
            small.push(more);
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alias_table_keeps_each_weight() {
        let weights = [1.0, 0.0, 3.0, 6.0];
        let slots = alias(&weights.map(f64::from));
        let mut shares = [0.0_f32; 4];
        for (at, slot) in slots.iter().enumerate() {
            shares[at] += slot.threshold / 4.0;
            shares[slot.alias as usize] += (1.0 - slot.threshold) / 4.0;
        }
        for (share, weight) in shares.iter().zip(weights) {
            assert!((share - weight / 10.0).abs() < 1e-6, "{shares:?}");
        }
    }

    #[test]
    fn no_weight_means_no_sample() {
        assert!(alias(&[0.0, 0.0]).is_empty());
        assert!(alias(&[]).is_empty());
    }
}
