//! How well a miner kept its word: within a period, and over the periods before.

use taugate_ledger::units::Units;

use super::part;
use super::profile::Profile;

/// What a period shows of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What it could have been asked for.
    pub allotment: Units,
    /// What it delivered.
    pub posted: Units,
    /// Attempts that ended good.
    pub good: u64,
    /// Attempts that it had no room for.
    pub busy: u64,
    /// Attempts that failed by its fault. What a client ended counts nowhere.
    pub failed: u64,
}

/// A period of a miner's history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PastPeriod {
    /// Its reliability, 0 to 1.
    pub reliability: f64,
    /// What was delivered in it.
    pub posted: Units,
}

// === impl Tally ===

impl Tally {
    /// `g (1 - a u) (1 - b u)^e`: of the attempts `g` were good, `a` found it busy and `b`
    /// failed; `u` is the part of the allotment that was not delivered. 0 to 1; none where
    /// nothing was allotted or tried.
    ///
    /// What a miner could not do counts the less the more it did: one that delivered all that
    /// it declared loses the attempts themselves and nothing beyond.
    #[must_use]
    pub fn reliability(&self, profile: &Profile) -> Option<f64> {
        let attempts = Units::new(self.good)
            .saturating_add(Units::new(self.busy))
            .saturating_add(Units::new(self.failed));
        if attempts.is_zero() || self.allotment.is_zero() {
            return None;
        }
        let of_all = |count: u64| Units::new(count).as_f64() / attempts.as_f64();
        let (good, busy, failed) = (of_all(self.good), of_all(self.busy), of_all(self.failed));
        let left = self.allotment.saturating_sub(self.posted).as_f64() / self.allotment.as_f64();
        let kept = (1.0 - failed * left)
            .max(0.0)
            .powf(profile.failure_exponent);
        Some(part(good * (1.0 - busy * left) * kept))
    }
}

/// The reliability over periods, the newest first, each weighed by what was delivered in it
/// and halved (by `decay`) with each period that came after; times the newcomer's factor.
/// 0 where nothing was delivered.
///
/// `periods` says how many the miner has behind it, those that count no more included.
#[must_use]
pub fn history(past: &[PastPeriod], periods: u32, profile: &Profile) -> f64 {
    let mut age = 1.0;
    let (mut sum, mut weights) = (0.0, 0.0);
    for period in past {
        let weight = period.posted.as_f64() * age;
        sum += weight * part(period.reliability);
        weights += weight;
        age *= part(1.0 - profile.decay);
    }
    if weights > 0.0 {
        sum / weights * profile.newcomer.factor(periods)
    } else {
        0.0
    }
}
