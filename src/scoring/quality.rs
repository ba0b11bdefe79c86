//! How good a miner's answers are, and how quick, over all miners of a task: some rules rank.

use taugate_ledger::units::Units;

use super::part;
use super::profile::QualityRule;

pub use crate::task::UsualTime;

/// Checked answers that count, the newest: more of them tell little that these do not.
pub const ANSWERS_MAX: usize = 50;

/// An answer that was checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// 0 (worthless) to 1 (as it should be).
    pub quality: f64,
    /// From dispatch to the end, seconds.
    pub seconds: f64,
    /// What was delivered.
    pub units: Units,
    /// The usual time of the task that it was to; none: speed counts for nothing.
    pub usual: Option<UsualTime>,
}

/// A miner's quality in a task, and how it came about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// What counts.
    pub value: f64,
    /// The mean over the answers, of quality x speed or of quality to a power.
    pub mean: f64,
    /// Whether the mean was so low that it was squared.
    pub squared: bool,
    /// Units x quality a second, and the bonus for its rank, where the rule ranks.
    pub rank: Option<(f64, f64)>,
}

// === impl UsualTime ===

impl UsualTime {
    /// Seconds a unit beyond the overhead; none for an answer without units.
    #[must_use]
    pub fn took(&self, answer: &Answer) -> Option<f64> {
        let beyond = (answer.seconds - self.overhead_s).max(0.0);
        (!answer.units.is_zero()).then(|| beyond / answer.units.as_f64())
    }

    /// `1 + (best - 1) ((m - t) / m)^curve` for an answer quicker than usual, else
    /// `exp((m - t) v)`: `t` is seconds a unit beyond the overhead, `m` the usual. 1 for an
    /// answer without units.
    #[must_use]
    pub fn speed(&self, answer: &Answer, best: f64, curve: f64) -> f64 {
        let Some(took) = self.took(answer) else {
            return 1.0;
        };
        let speed = if took > self.unit_s || self.unit_s <= 0.0 {
            ((self.unit_s - took) * self.variance).min(0.0).exp()
        } else {
            1.0 + (best - 1.0) * ((self.unit_s - took) / self.unit_s).powf(curve)
        };
        // Times that are no numbers say nothing.
        if speed.is_nan() { 1.0 } else { speed }
    }
}

// === impl Answer ===

impl Answer {
    /// What its speed is worth; 1 where the task has no usual time.
    #[must_use]
    pub fn speed(&self, best: f64, curve: f64) -> f64 {
        self.usual
            .map_or(1.0, |usual| usual.speed(self, best, curve))
    }
}

// === impl QualityRule ===

impl QualityRule {
    /// The quality of each miner of a task, in the order in which they came; 0 for one without
    /// a checked answer. Of each the first [`ANSWERS_MAX`] count, so they come newest first, a
    /// miner's answers to other tasks behind those to this one. Where the task's judges are
    /// `lenient`, a low mean is not squared.
    #[must_use]
    pub fn qualities(&self, lenient: bool, miners: &[&[Answer]]) -> Vec<Quality> {
        let miners: Vec<&[Answer]> = miners
            .iter()
            .map(|answers| &answers[..answers.len().min(ANSWERS_MAX)])
            .collect();
        match *self {
            Self::Paced { best, curve } => {
                let paced = |answer: &Answer| part(answer.quality) * answer.speed(best, curve);
                let means = miners.iter().map(|answers| mean(answers.iter().map(paced)));
                means
                    .map(|mean| Quality {
                        value: mean,
                        mean,
                        ..Quality::default()
                    })
                    .collect()
            }
            Self::Ranked {
                power,
                squared_up_to,
                speed_at,
                spread,
            } => {
                let speeds: Vec<f64> = miners
                    .iter()
                    .map(|answers| typical_speed(answers, speed_at))
                    .collect();
                let quality = |(answers, speed): (&&[Answer], &f64)| {
                    let all = answers
                        .iter()
                        .map(|answer| part(answer.quality).powf(power));
                    let mean = mean(all);
                    let squared = mean <= squared_up_to && !lenient;
                    let bonus = rank_bonus(&speeds, *speed, spread);
                    let kept = if squared { mean * mean } else { mean };
                    Quality {
                        value: kept * (1.0 + bonus),
                        mean,
                        squared,
                        rank: Some((*speed, bonus)),
                    }
                };
                miners.iter().zip(&speeds).map(quality).collect()
            }
        }
    }
}

/// Quality x units a second, at a part of the sorted answers; 0 without answers.
fn typical_speed(answers: &[Answer], at: f64) -> f64 {
    let mut speeds: Vec<f64> = answers
        .iter()
        .filter(|answer| answer.seconds > 0.0 && answer.seconds.is_finite())
        .map(|answer| part(answer.quality) * answer.units.as_f64() / answer.seconds)
        .collect();
    speeds.sort_by(f64::total_cmp);
    let count = Units::new(u64::try_from(speeds.len()).unwrap_or(u64::MAX));
    let index = usize::try_from(count.scaled(at).get()).unwrap_or(usize::MAX);
    speeds
        .get(index.min(speeds.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

/// From `spread / 2` for the quickest to `-spread / 2` for the slowest; 0 for one alone.
fn rank_bonus(speeds: &[f64], own: f64, spread: f64) -> f64 {
    let count = |matches: &dyn Fn(&f64) -> bool| {
        let count = speeds.iter().filter(|speed| matches(speed)).count();
        f64::from(u32::try_from(count).unwrap_or(u32::MAX))
    };
    let others = count(&|_| true) - 1.0;
    if others <= 0.0 {
        return 0.0;
    }
    spread * (0.5 - count(&|speed| *speed > own) / others)
}

/// 0 of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}
