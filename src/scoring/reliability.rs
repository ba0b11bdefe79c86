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

/// What a period's tally says, by its letters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// `u`: the part of the allotment that was not delivered.
    pub left: f64,
    /// `a`: the part of the attempts that found it busy.
    pub busy: f64,
    /// `b`: the part of the attempts that failed.
    pub failed: f64,
    /// `g`: the part of the attempts that were good; busy ones among them as far as they count.
    pub good: f64,
    /// `R`: its reliability, 0 to 1.
    pub reliability: f64,
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
    /// `n`: the attempts that count.
    #[must_use]
    pub fn attempts(&self) -> Units {
        Units::new(self.good)
            .saturating_add(Units::new(self.busy))
            .saturating_add(Units::new(self.failed))
    }

    /// `R = g (1 - a u) (1 - b u)^e`: of the attempts `g` were good, `a` found it busy and `b`
    /// failed; `u` is the part of the allotment that was not delivered. 0 to 1; none where
    /// nothing was allotted or tried.
    ///
    /// What a miner could not do counts the less the more it did: one that delivered all that
    /// it declared loses the attempts themselves and nothing beyond.
    #[must_use]
    pub fn kept(&self, profile: &Profile) -> Option<Kept> {
        let attempts = self.attempts();
        if attempts.is_zero() || self.allotment.is_zero() {
            return None;
        }
        let of_all = |count: u64| Units::new(count).as_f64() / attempts.as_f64();
        let (busy, failed) = (of_all(self.busy), of_all(self.failed));
        let held = attempts.as_f64() - (1.0 - profile.busy_counts) * Units::new(self.busy).as_f64();
        let good = if held > 0.0 {
            Units::new(self.good).as_f64() / held
        } else {
            0.0
        };
        let left = self.allotment.saturating_sub(self.posted).as_f64() / self.allotment.as_f64();
        let kept = (1.0 - failed * left)
            .max(0.0)
            .powf(profile.failure_exponent);
        Some(Kept {
            left,
            busy,
            failed,
            good,
            reliability: part(good * (1.0 - busy * left) * kept),
        })
    }

    /// The last of [`Tally::kept`].
    #[must_use]
    pub fn reliability(&self, profile: &Profile) -> Option<f64> {
        self.kept(profile).map(|kept| kept.reliability)
    }
}

/// How much each of these periods counts, the newest first: `w = K / sum K (1 - d)^i`. All 0
/// where nothing was delivered.
#[must_use]
pub fn weights(past: &[PastPeriod], profile: &Profile) -> Vec<f64> {
    let delivered: f64 = past.iter().map(|period| period.posted.as_f64()).sum();
    let mut age = 1.0;
    let weight = |period: &PastPeriod| {
        let own = age;
        age *= part(1.0 - profile.decay);
        if delivered > 0.0 {
            period.posted.as_f64() / delivered * own
        } else {
            0.0
        }
    };
    past.iter().map(weight).collect()
}

/// `H`: the reliability over periods, the newest first, each weighed by what was delivered in it
/// and halved (by `decay`) with each period that came after; times the newcomer's factor.
/// 0 where nothing was delivered.
///
/// `periods` says how many the miner has behind it, those that count no more included.
#[must_use]
pub fn history(past: &[PastPeriod], periods: u32, profile: &Profile) -> f64 {
    let (mut sum, mut weights_sum) = (0.0, 0.0);
    for (period, weight) in past.iter().zip(weights(past, profile)) {
        sum += weight * part(period.reliability);
        weights_sum += weight;
    }
    if weights_sum > 0.0 {
        part(sum / weights_sum * profile.newcomer.factor(periods))
    } else {
        0.0
    }
}
