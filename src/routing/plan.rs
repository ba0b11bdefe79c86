//! A market, weighed: who may be sampled and how often. Rebuilt about once a second.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

use super::balances::Balances;
use super::cost::{Burden, cost, slowness};
use super::settings::RouterSettings;
use super::vitals::{Pulse, Vitals};
use crate::registry::snapshot::{Availability, Market, Offer};

/// A market with weights.
#[derive(Debug)]
pub(super) struct Plan {
    market: Arc<Market>,
    /// One per offer, in the same order.
    pub(super) entries: Vec<Entry>,
    alias: Vec<Slot>,
    latency_median: f64,
    pace_mean: f64,
}

/// What is kept of an offer's miner.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) pulse: Arc<Pulse>,
    /// Left out.
    pub(super) ejected: bool,
    /// Fails, but too many do: it is not left out.
    pub(super) spared: bool,
    /// Calls in flight at a miner that works at its allotment's rate; `None` while its pace
    /// is not known.
    usual: Option<f64>,
    /// Microseconds a unit may take in one of the places that it states, if all of them
    /// together are to keep its allotment's rate; 0 where it states none.
    promised: f64,
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
    threshold: f64,
    alias: usize,
}

// === impl Plan ===

impl Plan {
    pub(super) fn new(market: Arc<Market>, view: &View<'_>) -> Self {
        let offers = market.offers.iter();
        let mut entries: Vec<_> = offers
            .map(|offer| Entry {
                pulse: view.vitals.pulse(offer.cell),
                ejected: false,
                spared: false,
                usual: None,
                promised: promised(offer, view.settings.period),
            })
            .collect();
        eject(&mut entries, view);
        let pulses = entries.iter().map(|entry| &entry.pulse);
        let latency_median = median(pulses.map(|pulse| pulse.latency()).collect());
        for (offer, entry) in market.offers.iter().zip(&mut entries) {
            entry.usual = usual(offer, &entry.pulse, &view.settings);
        }
        let pairs = market.offers.iter().zip(&entries);
        let weights: Vec<f64> = pairs
            .clone()
            .map(|(offer, entry)| weight(offer, entry, latency_median, view.balances))
            .collect();
        Self {
            alias: alias(&weights),
            latency_median,
            pace_mean: mean(pairs.map(|(offer, entry)| pace(offer, entry))),
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
        reason = "32 bits of a draw are enough for a threshold"
    )]
    pub(super) fn sample(&self, draw: u64) -> Option<usize> {
        let place = usize::try_from(draw & 0xffff_ffff)
            .ok()?
            .checked_rem(self.alias.len())?;
        let slot = self.alias.get(place)?;
        let fraction = (draw >> 32) as f64 / f64::from(1_u32 << 31);
        Some(if fraction < slot.threshold {
            place
        } else {
            slot.alias
        })
    }

    pub(super) fn cost(&self, entry: &Entry, offer: &Offer) -> f64 {
        cost(&Burden {
            in_flight: entry.pulse.in_flight(),
            concurrency: entry.concurrency(offer),
            latency: entry.pulse.latency(),
            median: self.latency_median,
            promised: entry.promised,
            pace: pace(offer, entry),
            pace_mean: self.pace_mean,
            success: entry.pulse.success(),
        })
    }
}

// === impl Entry ===

impl Entry {
    /// Requests at once: what is stated, or what was learned where that is less.
    fn limit(&self, offer: &Offer) -> Option<u32> {
        match (offer.concurrency, self.pulse.concurrency()) {
            (Some(stated), Some(learned)) => Some(stated.min(learned)),
            (stated, learned) => stated.or(learned),
        }
    }

    /// What its occupancy is measured by: calls in flight at its allotment's rate, but no
    /// more than it takes. A miner that has not answered yet is tried one call at a time, as
    /// long as others are there: a burst into a silence is lost whole.
    fn concurrency(&self, offer: &Offer) -> f64 {
        let limit = self.limit(offer).map(f64::from);
        let usual = self.usual.unwrap_or(1.0);
        limit.map_or(usual, |limit| usual.min(limit))
    }

    pub(super) fn is_full(&self, offer: &Offer) -> bool {
        self.limit(offer)
            .is_some_and(|limit| self.pulse.in_flight() >= limit)
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

/// Calls in flight at a miner that works at its allotment's rate: units a second times
/// seconds a unit.
fn usual(offer: &Offer, pulse: &Pulse, settings: &RouterSettings) -> Option<f64> {
    let service = Some(pulse.service()).filter(|service| *service > 0.0)?;
    let period_us = settings.period.as_secs_f64() * 1e6;
    let allotment = number(offer.allotment.min(offer.verified));
    (period_us > 0.0).then(|| (allotment / period_us * service).max(1.0))
}

/// The latency by which a miner keeps its allotment's rate with all its places taken.
fn promised(offer: &Offer, period: Duration) -> f64 {
    let allotment = number(offer.allotment);
    match offer.concurrency {
        Some(places) if allotment > 0.0 => {
            f64::from(places) * period.as_secs_f64() * 1e6 / allotment
        }
        Some(_) | None => 0.0,
    }
}

/// What is left to spend, times success, over how slow it is: weight by what is left alone
/// would feed the dead and the slow, whose share of the table grows as the others spend.
fn weight(offer: &Offer, entry: &Entry, median: f64, balances: &dyn Balances) -> f64 {
    if entry.ejected || offer.availability == Availability::Draining {
        return 0.0;
    }
    let spendable = offer.allotment.min(offer.verified);
    let left = spendable
        .saturating_sub(balances.spent(offer.cell))
        .min(balances.left(offer.cell));
    let pulse = &entry.pulse;
    let slow = slowness(pulse.latency(), median, entry.promised).max(1.0);
    number(left) * pulse.success() / slow
}

/// The part of its allotment that attempts took.
fn pace(offer: &Offer, entry: &Entry) -> f64 {
    let allotment = number(offer.allotment.min(offer.verified));
    if allotment > 0.0 {
        number(entry.pulse.attempted()) / allotment
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "a weight needs no more digits")]
fn number(units: Units) -> f64 {
    units.get() as f64
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
    let mut slots: Vec<Slot> = (0..weights.len())
        .map(|alias| Slot {
            threshold: 1.0,
            alias,
        })
        .collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..rest.len()).partition(|at| rest[*at] < 1.0);
    while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
        slots[less] = Slot {
            threshold: rest[less],
            alias: more,
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
        let slots = alias(&weights);
        let mut shares = [0.0; 4];
        for (at, slot) in slots.iter().enumerate() {
            shares[at] += slot.threshold / 4.0;
            shares[slot.alias] += (1.0 - slot.threshold) / 4.0;
        }
        for (share, weight) in shares.iter().zip(weights) {
            assert!((share - weight / 10.0).abs() < 1e-9, "{shares:?}");
        }
    }

    #[test]
    fn no_weight_means_no_sample() {
        assert!(alias(&[0.0, 0.0]).is_empty());
        assert!(alias(&[]).is_empty());
    }
}
