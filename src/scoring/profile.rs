//! The constants of scoring, each set of them under a name.

use std::time::Duration;

/// How scores are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The power to which failures count.
    pub failure_exponent: f64,
    /// The part of its busy attempts that a miner is held to as if they were not good, 0 to 1.
    pub busy_counts: f64,
    /// The part of its weight that a period loses when the next one comes, 0 to 1.
    pub decay: f64,
    /// What a miner with a short history loses.
    pub newcomer: Newcomer,
    /// How answers become a quality.
    pub quality: QualityRule,
    /// The power to which a miner's part of a task counts. 1 is neutral to a miner that splits
    /// itself over several hotkeys; more rewards concentration.
    pub exponent: f64,
    /// What of a declaration counts.
    pub capacity: CapacityRule,
    /// How far back periods count, seconds.
    pub periods_s: u64,
    /// How far back checked answers count, seconds.
    pub answers_s: u64,
}

/// What a miner with few periods loses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Newcomer {
    /// Nothing.
    Equal,
    /// `1 - loss x max(0, 1 - periods / full)`: grows with each period.
    Ramp {
        /// Periods until nothing is lost.
        full: f64,
        /// What is lost without any period, 0 to 1.
        loss: f64,
    },
    /// A factor up to so many periods, then nothing is lost.
    Step {
        /// Periods, the last that loses included.
        periods: u32,
        /// The factor, 0 to 1.
        factor: f64,
    },
}

/// How a miner's checked answers become one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QualityRule {
    /// The mean of quality x speed, speed held against the task's usual time.
    Paced {
        /// The most that speed is worth, 1 or more.
        best: f64,
        /// How soon being quicker is worth something, above 0; 1 is linear.
        curve: f64,
    },
    /// Quality alone, with a bonus by a miner's rank in quality x units a second.
    Ranked {
        /// Each answer's quality counts to this power.
        power: f64,
        /// A mean up to this is squared, but for tasks whose judges are lenient.
        squared_up_to: f64,
        /// The part of a miner's sorted speeds at which its own is read, 0 to 1.
        speed_at: f64,
        /// From the best's bonus to the last's.
        spread: f64,
    },
}

/// What of a declaration counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityRule {
    /// All of it.
    Declared,
    /// No more than bursts have shown.
    Verified {
        /// The newest bursts that count.
        bursts: usize,
    },
}

// === impl Profile ===

impl Profile {
    /// The names that [`Profile::named`] knows.
    pub const NAMES: [&str; 4] = ["taugate", "vision-4.0", "vision-2024-07", "nineteen-6.3"];

    /// Ours: the proposal's formulas, over capacities that were shown.
    #[must_use]
    pub const fn taugate() -> Self {
        Self {
            capacity: CapacityRule::Verified { bursts: 5 },
            // "Too many" is back-pressure: it is held against what was left, not against what
            // was done.
            busy_counts: 0.0,
            ..Self::vision_4_0()
        }
    }

    /// Vision 4.0, June 2024.
    #[must_use]
    pub const fn vision_4_0() -> Self {
        Self {
            failure_exponent: 1.0,
            busy_counts: 1.0,
            decay: 0.5,
            newcomer: Newcomer::Equal,
            quality: QualityRule::Paced {
                best: 1.4,
                curve: 0.5,
            },
            exponent: 1.0,
            capacity: CapacityRule::Declared,
            periods_s: 48 * 3600,
            answers_s: 72 * 3600,
        }
    }

    /// Vision as of July 2024. To compare with.
    #[must_use]
    pub const fn vision_2024_07() -> Self {
        Self {
            newcomer: Newcomer::Ramp {
                full: 8.0,
                loss: 0.25,
            },
            quality: QualityRule::Paced {
                best: 1.6,
                curve: 0.25,
            },
            exponent: 3.0,
            ..Self::vision_4_0()
        }
    }

    /// Nineteen 6.3.1. To compare with.
    #[must_use]
    pub const fn nineteen_6_3() -> Self {
        Self {
            failure_exponent: 2.0,
            newcomer: Newcomer::Step {
                periods: 8,
                factor: 0.25,
            },
            quality: QualityRule::Ranked {
                power: 1.5,
                squared_up_to: 0.85,
                speed_at: 0.3,
                spread: 0.5,
            },
            exponent: 4.0,
            periods_s: 3 * 24 * 3600,
            answers_s: 5 * 24 * 3600,
            ..Self::vision_4_0()
        }
    }

    /// How far back any of the named profiles looks.
    #[must_use]
    pub fn longest_look_back() -> Duration {
        let all = Self::NAMES.into_iter().filter_map(Self::named);
        all.map(|profile| profile.look_back())
            .max()
            .unwrap_or_default()
    }

    /// How far back it looks, at periods or at answers.
    #[must_use]
    pub fn look_back(&self) -> Duration {
        Duration::from_secs(self.periods_s.max(self.answers_s))
    }

    /// The profile of that name, as it came.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "taugate" => Some(Self::taugate()),
            "vision-4.0" => Some(Self::vision_4_0()),
            "vision-2024-07" => Some(Self::vision_2024_07()),
            "nineteen-6.3" => Some(Self::nineteen_6_3()),
            _ => None,
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::taugate()
    }
}

// === impl CapacityRule ===

impl CapacityRule {
    /// How many of the newest bursts count.
    #[must_use]
    pub const fn newest(self) -> usize {
        match self {
            Self::Declared => 0,
            Self::Verified { bursts } => bursts,
        }
    }
}

// === impl Newcomer ===

impl Newcomer {
    /// The factor of a miner with so many periods.
    #[must_use]
    pub fn factor(self, periods: u32) -> f64 {
        match self {
            Self::Equal => 1.0,
            Self::Ramp { full, loss } if full > 0.0 => {
                1.0 - loss * (1.0 - f64::from(periods) / full).max(0.0)
            }
            Self::Ramp { .. } => 1.0,
            Self::Step {
                periods: short,
                factor,
            } => {
                if periods <= short {
                    factor
                } else {
                    1.0
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_a_profile() {
        for name in Profile::NAMES {
            assert!(Profile::named(name).is_some(), "{name}");
        }
        assert_eq!(Profile::named("vision"), None);
        assert_eq!(Profile::default(), Profile::taugate());
    }
}
