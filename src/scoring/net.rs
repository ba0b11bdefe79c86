//! From effective capacities to weights that sum to 1.

use std::collections::BTreeMap;

use super::profile::Profile;

/// A miner in one task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskScore {
    /// Quality and speed.
    pub quality: f64,
    /// Reliability over the periods before, 0 to 1.
    pub reliability: f64,
    /// The capacity that counts, units a period.
    pub capacity: f64,
}

/// Everybody's part, by miner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Net<M: Ord> {
    /// `l`: a miner's part of all effective capacity, 0 to 1, in the order of the tasks.
    pub capacities: Vec<BTreeMap<M, f64>>,
    /// `S_task`: its part of each task that it does, 0 to 1, in the same order.
    pub parts: Vec<BTreeMap<M, f64>>,
    /// The sum of its parts, each times the task's weight.
    pub scores: BTreeMap<M, f64>,
    /// A miner's part of everything, 0 to 1. They sum to 1, or all are 0.
    pub weights: BTreeMap<M, f64>,
}

// === impl TaskScore ===

impl TaskScore {
    /// `quality x reliability x capacity`, never below 0 and never NaN.
    #[must_use]
    pub fn effective(&self) -> f64 {
        let effective = self.quality * self.reliability * self.capacity;
        if effective.is_finite() {
            effective.max(0.0)
        } else {
            0.0
        }
    }
}

/// The parts and weights of miners over tasks, each with its weight in the network and its
/// miners' effective capacities.
///
/// A miner's part of a task is its `l^k` over everybody's, `l` being its part of all effective
/// capacity; its weight is the sum of parts x task weights, over the sum of that. A task in
/// which nobody has any counts for nobody.
#[must_use]
pub fn net<M: Ord + Clone>(tasks: &[(f64, BTreeMap<M, f64>)], profile: &Profile) -> Net<M> {
    let capacities: Vec<BTreeMap<M, f64>> = tasks
        .iter()
        .map(|(_, effective)| shares(effective, 1.0))
        .collect();
    let parts: Vec<BTreeMap<M, f64>> = capacities
        .iter()
        .map(|of_all| shares(of_all, profile.exponent))
        .collect();
    let mut scores: BTreeMap<M, f64> = BTreeMap::new();
    for ((weight, _), parts) in tasks.iter().zip(&parts) {
        let weight = if weight.is_finite() {
            weight.max(0.0)
        } else {
            0.0
        };
        for (miner, part) in parts {
            *scores.entry(miner.clone()).or_default() += part * weight;
        }
    }
    Net {
        weights: shares(&scores, 1.0),
        capacities,
        parts,
        scores,
    }
}

/// Each value to a power, over the sum of all; zeros where that is 0.
fn shares<M: Ord + Clone>(values: &BTreeMap<M, f64>, power: f64) -> BTreeMap<M, f64> {
    // Over the largest first, so that neither powers nor sums leave the range of numbers.
    let largest = values.values().copied().fold(0.0, f64::max);
    let value = |value: f64| {
        if largest > 0.0 && value > 0.0 {
            (value / largest).powf(power)
        } else {
            0.0
        }
    };
    let sum: f64 = values.values().map(|own| value(*own)).sum();
    let part = |own: f64| if sum > 0.0 { value(own) / sum } else { 0.0 };
    values
        .iter()
        .map(|(miner, own)| (miner.clone(), part(*own)))
        .collect()
}
