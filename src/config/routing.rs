//! `[routing]`: which miner takes a call.

use std::time::Duration;

use super::field::{Fields, Section};
use super::slot::{Decimal, Millis, Seconds, Whole, Word};

/// A slow answer shows at once; half of it counts.
const LATENCY_RISE: f64 = 0.5;

/// A fast one counts a tenth, so that one lucky answer does not hide ten slow ones.
const LATENCY_FALL: f64 = 0.1;

/// About seven calls make up most of what is known of a miner's success.
const SUCCESS_WEIGHT: f64 = 0.15;

/// Every other call failed.
const EJECT_BELOW: f64 = 0.5;

/// Long enough that a dead miner costs one call in fifteen seconds, not more.
const EJECT: Duration = Duration::from_secs(15);

/// Four of five calls failed.
const EJECT_LONG_BELOW: f64 = 0.2;

/// Such a miner comes back by a minute's patience or not at all.
const EJECT_LONG: Duration = Duration::from_secs(60);

/// When more than half of a task's miners look bad, the fault is likely ours.
const EJECTED_PART_MAX: f64 = 0.5;

/// Six samples find a miner that is not busy, unless hardly any is; then a scan does.
const RESAMPLES_MAX: u32 = 6;

/// Weights change slowly; a rebuild over ten thousand miners takes under a millisecond.
const REBUILD: Duration = Duration::from_secs(1);

/// Which miner takes a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// How it is chosen.
    pub policy: Policy,
    /// How much of a slower answer counts at once, 0 to 1.
    pub latency_rise: f64,
    /// How much of a faster one does.
    pub latency_fall: f64,
    /// How much of one call's success or failure counts at once, 0 to 1.
    pub success_weight: f64,
    /// A miner whose success falls below this is ejected for `eject`.
    pub eject_below: f64,
    /// For how long.
    pub eject: Duration,
    /// A miner whose success falls below this is ejected for `eject_long`.
    pub eject_long_below: f64,
    /// For how long.
    pub eject_long: Duration,
    /// The largest part of a task's miners that is ejected at once.
    pub ejected_part_max: f64,
    /// Samples after the first two before all miners are looked at.
    pub resamples_max: u32,
    /// How often the table of weights is made anew.
    pub rebuild: Duration,
}

/// How a miner is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The better of two, drawn by what is left to spend.
    TwoChoices,
    /// Any with capacity left.
    Random,
    /// Each in turn.
    RoundRobin,
}

// === impl Policy ===

impl Policy {
    const WORDS: &[(&str, Self)] = &[
        ("two_choices", Self::TwoChoices),
        ("random", Self::Random),
        ("round_robin", Self::RoundRobin),
    ];
}

// === impl Routing ===

impl Default for Routing {
    fn default() -> Self {
        Self {
            policy: Policy::TwoChoices,
            latency_rise: LATENCY_RISE,
            latency_fall: LATENCY_FALL,
            success_weight: SUCCESS_WEIGHT,
            eject_below: EJECT_BELOW,
            eject: EJECT,
            eject_long_below: EJECT_LONG_BELOW,
            eject_long: EJECT_LONG,
            ejected_part_max: EJECTED_PART_MAX,
            resamples_max: RESAMPLES_MAX,
            rebuild: REBUILD,
        }
    }
}

impl Section for Routing {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "policy",
            "How a miner is chosen: \"two_choices\" (the better of two, drawn by what is left to \
             spend), \"random\" or \"round_robin\" to compare with.",
            &mut Word(&mut self.policy, Policy::WORDS),
        );
        fields.field(
            "latency_rise",
            "How much of a slower answer counts at once.",
            &mut Decimal(&mut self.latency_rise, 0.01..=1.0),
        );
        fields.field(
            "latency_fall",
            "How much of a faster answer counts at once.",
            &mut Decimal(&mut self.latency_fall, 0.01..=1.0),
        );
        fields.field(
            "success_weight",
            "How much of one call's success or failure counts at once.",
            &mut Decimal(&mut self.success_weight, 0.01..=1.0),
        );
        self.ejection(fields);
        fields.field(
            "resamples_max",
            "Samples after the first two before all miners are looked at.",
            &mut Whole(&mut self.resamples_max, 0..=64),
        );
        fields.field(
            "rebuild_ms",
            "How often the weights by which miners are drawn are made anew.",
            &mut Millis(&mut self.rebuild, 50..=60_000),
        );
    }
}

impl Routing {
    fn ejection(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "eject_below",
            "A miner whose success falls below this is left out for eject_s.",
            &mut Decimal(&mut self.eject_below, 0.0..=1.0),
        );
        fields.field(
            "eject_s",
            "For how long.",
            &mut Seconds(&mut self.eject, 1..=3600),
        );
        fields.field(
            "eject_long_below",
            "A miner whose success falls below this is left out for eject_long_s.",
            &mut Decimal(&mut self.eject_long_below, 0.0..=1.0),
        );
        fields.field(
            "eject_long_s",
            "For how long.",
            &mut Seconds(&mut self.eject_long, 1..=3600),
        );
        fields.field(
            "ejected_part_max",
            "The largest part of a task's miners that is left out at once.",
            &mut Decimal(&mut self.ejected_part_max, 0.0..=1.0),
        );
    }
}
