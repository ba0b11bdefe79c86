//! `[scores]`: by which rules miners are scored.

use crate::scoring::Profile;
use crate::scoring::profile::{CapacityRule, Newcomer, QualityRule};

use super::field::{Fields, Section};
use super::slot::{MaybeDecimal, MaybeWhole, MaybeWord, Word};

/// A profile that counts what was shown counts as many bursts, where none are said: a day's
/// worth would let a miner live on what it once could.
const BURSTS: u32 = 5;

/// The longest time that rows are kept for scores, seconds: a month.
const KEPT_S_MAX: u64 = 31 * 24 * 3600;

/// By which rules miners are scored: a profile, and the constants of it that are changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The profile's name.
    pub profile: &'static str,
    /// The power to which failures count.
    pub failure_exponent: Option<f64>,
    /// The part of its busy attempts that a miner is held to.
    pub busy_counts: Option<f64>,
    /// The part of its weight that a period loses when the next one comes.
    pub decay: Option<f64>,
    /// What a miner with a short history loses.
    pub newcomer: Option<NewcomerWord>,
    /// Periods until it loses nothing.
    pub newcomer_periods: Option<u32>,
    /// The factor without any period.
    pub newcomer_factor: Option<f64>,
    /// How answers become a quality.
    pub quality: Option<QualityWord>,
    /// The most that speed is worth.
    pub speed_best: Option<f64>,
    /// How soon being quicker is worth something.
    pub speed_curve: Option<f64>,
    /// Each answer's quality counts to this power.
    pub quality_power: Option<f64>,
    /// A mean up to this is squared.
    pub squared_up_to: Option<f64>,
    /// Where in a miner's sorted speeds its own is read.
    pub speed_at: Option<f64>,
    /// From the best's bonus to the last's.
    pub rank_spread: Option<f64>,
    /// The power to which a miner's part of a task counts.
    pub exponent: Option<f64>,
    /// What of a declaration counts.
    pub capacity: Option<CapacityWord>,
    /// The newest bursts that count.
    pub bursts: Option<u32>,
    /// How far back periods count, seconds.
    pub periods_s: Option<u64>,
    /// How far back checked answers count, seconds.
    pub answers_s: Option<u64>,
}

/// What a miner with a short history loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewcomerWord {
    /// Nothing.
    Equal,
    /// Less with each period.
    Ramp,
    /// The same up to some period.
    Step,
}

/// How answers become a quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QualityWord {
    /// Quality x speed.
    Paced,
    /// Quality with a bonus by rank.
    Ranked,
}

/// What of a declaration counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityWord {
    /// All of it.
    Declared,
    /// What was shown.
    Verified,
}

const PROFILES: &[(&str, &str)] = &[
    ("taugate", "taugate"),
    ("vision-4.0", "vision-4.0"),
    ("vision-2024-07", "vision-2024-07"),
    ("nineteen-6.3", "nineteen-6.3"),
];

const NEWCOMERS: &[(&str, NewcomerWord)] = &[
    ("equal", NewcomerWord::Equal),
    ("ramp", NewcomerWord::Ramp),
    ("step", NewcomerWord::Step),
];

const QUALITIES: &[(&str, QualityWord)] = &[
    ("paced", QualityWord::Paced),
    ("ranked", QualityWord::Ranked),
];

const CAPACITIES: &[(&str, CapacityWord)] = &[
    ("declared", CapacityWord::Declared),
    ("verified", CapacityWord::Verified),
];

// === impl Scores ===

impl Scores {
    /// The profile with what is changed.
    #[must_use]
    pub fn effective(&self) -> Profile {
        let named = Profile::named(self.profile).unwrap_or_default();
        Profile {
            failure_exponent: self.failure_exponent.unwrap_or(named.failure_exponent),
            busy_counts: self.busy_counts.unwrap_or(named.busy_counts),
            decay: self.decay.unwrap_or(named.decay),
            newcomer: self.newcomer(named.newcomer),
            quality: self.quality(named.quality),
            exponent: self.exponent.unwrap_or(named.exponent),
            capacity: self.capacity(named.capacity),
            periods_s: self.periods_s.unwrap_or(named.periods_s),
            answers_s: self.answers_s.unwrap_or(named.answers_s),
        }
    }

    /// The constants of a rule that is not the profile's are those of a profile that has it.
    fn newcomer(&self, named: Newcomer) -> Newcomer {
        let (word, periods, factor) = match named {
            Newcomer::Equal => (NewcomerWord::Equal, 8.0, 0.75),
            Newcomer::Ramp { full, loss } => (NewcomerWord::Ramp, full, 1.0 - loss),
            Newcomer::Step { periods, factor } => (NewcomerWord::Step, f64::from(periods), factor),
        };
        let factor = self.newcomer_factor.unwrap_or(factor);
        match self.newcomer.unwrap_or(word) {
            NewcomerWord::Equal => Newcomer::Equal,
            NewcomerWord::Ramp => Newcomer::Ramp {
                full: self.newcomer_periods.map_or(periods, f64::from),
                loss: 1.0 - factor,
            },
            NewcomerWord::Step => Newcomer::Step {
                periods: self.newcomer_periods.unwrap_or(8),
                factor,
            },
        }
    }

    fn quality(&self, named: QualityRule) -> QualityRule {
        let of_named = match named {
            QualityRule::Paced { .. } => QualityWord::Paced,
            QualityRule::Ranked { .. } => QualityWord::Ranked,
        };
        let wanted = self.quality.unwrap_or(of_named);
        let start = match wanted {
            _ if wanted == of_named => named,
            QualityWord::Paced => Profile::taugate().quality,
            QualityWord::Ranked => Profile::nineteen_6_3().quality,
        };
        match start {
            QualityRule::Paced { best, curve } => QualityRule::Paced {
                best: self.speed_best.unwrap_or(best),
                curve: self.speed_curve.unwrap_or(curve),
            },
            QualityRule::Ranked {
                power,
                squared_up_to,
                speed_at,
                spread,
            } => QualityRule::Ranked {
                power: self.quality_power.unwrap_or(power),
                squared_up_to: self.squared_up_to.unwrap_or(squared_up_to),
                speed_at: self.speed_at.unwrap_or(speed_at),
                spread: self.rank_spread.unwrap_or(spread),
            },
        }
    }

    fn capacity(&self, named: CapacityRule) -> CapacityRule {
        let (word, bursts) = match named {
            CapacityRule::Declared => (CapacityWord::Declared, BURSTS as usize),
            CapacityRule::Verified { bursts } => (CapacityWord::Verified, bursts),
        };
        match self.capacity.unwrap_or(word) {
            CapacityWord::Declared => CapacityRule::Declared,
            CapacityWord::Verified => CapacityRule::Verified {
                bursts: self.bursts.map_or(bursts, |bursts| bursts as usize),
            },
        }
    }

    /// The constants that are set and that the rules in effect do not have, with what they need.
    pub(crate) fn idle(&self) -> Vec<(&'static str, &'static str)> {
        const RANKED: &str = "quality = \"ranked\"";
        const PACED: &str = "quality = \"paced\"";
        const SHORT: &str = "newcomer = \"ramp\" or \"step\"";
        let profile = self.effective();
        let newcomer = profile.newcomer != Newcomer::Equal;
        let paced = matches!(profile.quality, QualityRule::Paced { .. });
        let verified = profile.capacity != CapacityRule::Declared;
        [
            (
                "newcomer_periods",
                self.newcomer_periods.is_some(),
                newcomer,
                SHORT,
            ),
            (
                "newcomer_factor",
                self.newcomer_factor.is_some(),
                newcomer,
                SHORT,
            ),
            ("speed_best", self.speed_best.is_some(), paced, PACED),
            ("speed_curve", self.speed_curve.is_some(), paced, PACED),
            (
                "quality_power",
                self.quality_power.is_some(),
                !paced,
                RANKED,
            ),
            (
                "squared_up_to",
                self.squared_up_to.is_some(),
                !paced,
                RANKED,
            ),
            ("speed_at", self.speed_at.is_some(), !paced, RANKED),
            ("rank_spread", self.rank_spread.is_some(), !paced, RANKED),
            (
                "bursts",
                self.bursts.is_some(),
                verified,
                "capacity = \"verified\"",
            ),
        ]
        .into_iter()
        .filter_map(|(key, set, counts, needs)| (set && !counts).then_some((key, needs)))
        .collect()
    }
}

impl Default for Scores {
    fn default() -> Self {
        Self {
            profile: "taugate",
            failure_exponent: None,
            busy_counts: None,
            decay: None,
            newcomer: None,
            newcomer_periods: None,
            newcomer_factor: None,
            quality: None,
            speed_best: None,
            speed_curve: None,
            quality_power: None,
            squared_up_to: None,
            speed_at: None,
            rank_spread: None,
            exponent: None,
            capacity: None,
            bursts: None,
            periods_s: None,
            answers_s: None,
        }
    }
}

impl Section for Scores {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "profile",
            "The formulas' constants: \"taugate\" (the proposal's, over capacities that were \
             shown), \"vision-4.0\", \"vision-2024-07\" or \"nineteen-6.3\". Those below change \
             it; docs/SCORES.md says what each does.",
            &mut Word(&mut self.profile, PROFILES),
        );
        self.reliability(fields);
        self.answers(fields);
        self.capacities(fields);
    }
}

impl Scores {
    fn reliability(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "failure_exponent",
            "e: the power to which failures count.",
            &mut MaybeDecimal(&mut self.failure_exponent, 0.0..=10.0, "1.0"),
        );
        fields.field(
            "busy_counts",
            "y: the part of its busy attempts that a miner is held to as if they were not good.",
            &mut MaybeDecimal(&mut self.busy_counts, 0.0..=1.0, "0.0"),
        );
        fields.field(
            "decay",
            "d: the part of its weight that a period loses when the next one comes.",
            &mut MaybeDecimal(&mut self.decay, 0.0..=1.0, "0.5"),
        );
        fields.field(
            "newcomer",
            "What a miner with a short history loses: \"equal\" (nothing), \"ramp\" (less with \
             each period) or \"step\" (the same up to some period).",
            &mut MaybeWord(&mut self.newcomer, NEWCOMERS, "\"equal\""),
        );
        fields.field(
            "newcomer_periods",
            "Periods until it loses nothing.",
            &mut MaybeWhole(&mut self.newcomer_periods, 0..=10_000, "8"),
        );
        fields.field(
            "newcomer_factor",
            "The factor without any period.",
            &mut MaybeDecimal(&mut self.newcomer_factor, 0.0..=1.0, "0.75"),
        );
        fields.field(
            "periods_s",
            "How far back periods count, at most 200 of them.",
            &mut MaybeWhole(&mut self.periods_s, 60..=KEPT_S_MAX, "172800"),
        );
    }

    fn answers(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "quality",
            "How checked answers become a quality: \"paced\" (the mean of quality x speed) or \
             \"ranked\" (quality with a bonus by rank in speed).",
            &mut MaybeWord(&mut self.quality, QUALITIES, "\"paced\""),
        );
        fields.field(
            "speed_best",
            "M: the most that speed is worth. Paced only.",
            &mut MaybeDecimal(&mut self.speed_best, 1.0..=10.0, "1.4"),
        );
        fields.field(
            "speed_curve",
            "c: how soon being quicker is worth something; 1 is linear. Paced only.",
            &mut MaybeDecimal(&mut self.speed_curve, 0.01..=10.0, "0.5"),
        );
        fields.field(
            "quality_power",
            "Each answer's quality counts to this power. Ranked only.",
            &mut MaybeDecimal(&mut self.quality_power, 0.1..=10.0, "1.5"),
        );
        fields.field(
            "squared_up_to",
            "A mean up to this is squared. Ranked only.",
            &mut MaybeDecimal(&mut self.squared_up_to, 0.0..=1.0, "0.85"),
        );
        fields.field(
            "speed_at",
            "Where in a miner's sorted speeds its own is read. Ranked only.",
            &mut MaybeDecimal(&mut self.speed_at, 0.0..=1.0, "0.3"),
        );
        fields.field(
            "rank_spread",
            "From the quickest's bonus to the slowest's. Ranked only.",
            &mut MaybeDecimal(&mut self.rank_spread, 0.0..=2.0, "0.5"),
        );
        fields.field(
            "answers_s",
            "How far back checked answers count.",
            &mut MaybeWhole(&mut self.answers_s, 60..=KEPT_S_MAX, "259200"),
        );
    }

    fn capacities(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "exponent",
            "k: the power to which a miner's part of a task counts. 1 is neutral to a miner that \
             splits itself over hotkeys; more rewards concentration.",
            &mut MaybeDecimal(&mut self.exponent, 0.1..=10.0, "1.0"),
        );
        fields.field(
            "capacity",
            "What of a declaration counts: \"declared\" (all of it) or \"verified\" (what was \
             shown in common windows, where these are planned).",
            &mut MaybeWord(&mut self.capacity, CAPACITIES, "\"verified\""),
        );
        fields.field(
            "bursts",
            "The newest windows of which the median counts. Verified only.",
            &mut MaybeWhole(&mut self.bursts, 1..=1_000, "5"),
        );
    }
}
