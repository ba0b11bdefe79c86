//! Where every miner stands: from what a store keeps to weights, each step kept, so that it
//! can be shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::net::{TaskScore, net};
use super::profile::Profile;
use super::quality::{ANSWERS_MAX, Answer, Quality};
use super::reliability::{Kept, PastPeriod, Tally, history, weights};
use super::rows::{Demonstration, Finding, PeriodRow, Rows};
use super::verified::{counted, counting, shown};
use crate::identity::hotkey::Hotkey;
use crate::task::{TaskId, UsualTime};

/// A task, as far as scores are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredTask {
    /// Its id.
    pub id: TaskId,
    /// Its part of all scores.
    pub weight: f64,
    /// Its usual time; none: speed counts for nothing.
    pub usual: Option<UsualTime>,
    /// Whether its judges are lenient, so that a low mean is not squared.
    pub lenient: bool,
}

/// What a miner offers now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The miner.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// What it may be asked for, units a period.
    pub allotment: Units,
}

/// By which rules, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// The profile's name.
    pub name: Arc<str>,
    /// Its constants.
    pub profile: Profile,
    /// The running period.
    pub period: Period,
    /// The length of periods, seconds.
    pub period_s: u64,
}

/// Where every miner stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// By which rules, and when.
    pub scale: Scale,
    /// The tasks, in the order in which they came.
    pub tasks: Vec<TaskStanding>,
    /// By miner, the sum of its scores, each times the task's weight.
    pub scores: BTreeMap<Hotkey, f64>,
    /// By miner, its part of everything. They sum to 1, or all are 0.
    pub weights: BTreeMap<Hotkey, f64>,
}

/// Where the miners of a task stand.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskStanding {
    /// The task.
    pub task: ScoredTask,
    /// Who does it, or did.
    pub miners: BTreeMap<Hotkey, Steps>,
}

/// How a miner's score in a task came about, from the rows up.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Its periods, newest first; those in which nothing was tried do not count.
    pub periods: Vec<PeriodStep>,
    /// The factor for a short history.
    pub newcomer: f64,
    /// Its checked answers that count, those to this task first, each newest first.
    pub answers: Vec<Answer>,
    /// How many of them are to this task.
    pub own_answers: usize,
    /// What they come to.
    pub quality: Quality,
    /// What was shown in bursts, newest first.
    pub shown: Vec<Demonstration>,
    /// What it may be asked for, units a period.
    pub allotment: Units,
    /// What was shown, units a period.
    pub verified: Units,
    /// What of the allotment counts, units a period.
    pub capacity: Units,
    /// Quality, reliability and the capacity that counts.
    pub score: TaskScore,
    /// Its part of all effective capacity.
    pub of_all: f64,
    /// Its part of the task.
    pub part: f64,
}

/// What a period adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeriodStep {
    /// The period.
    pub period: Period,
    /// What was counted.
    pub tally: Tally,
    /// What it says.
    pub kept: Kept,
    /// How much it counts among the others.
    pub weight: f64,
}

// === impl Standing ===

impl Standing {
    /// Where every miner stands that offers something or did within the rows.
    #[must_use]
    pub fn new(tasks: &[ScoredTask], offers: &[Offered], rows: &Rows, scale: Scale) -> Self {
        let sorted = Sorted::new(tasks, offers, rows);
        let mut tasks: Vec<TaskStanding> = tasks
            .iter()
            .map(|task| TaskStanding {
                task: task.clone(),
                miners: sorted.of_task(task, &scale),
            })
            .collect();
        let effective: Vec<(f64, BTreeMap<Hotkey, f64>)> = tasks
            .iter()
            .map(|standing| {
                let miners = standing.miners.iter();
                let effective = miners.map(|(miner, steps)| (*miner, steps.score.effective()));
                (standing.task.weight, effective.collect())
            })
            .collect();
        let net = net(&effective, &scale.profile);
        let parts = net.capacities.iter().zip(&net.parts);
        for (standing, (of_all, parts)) in tasks.iter_mut().zip(parts) {
            for (miner, steps) in &mut standing.miners {
                steps.of_all = of_all.get(miner).copied().unwrap_or(0.0);
                steps.part = parts.get(miner).copied().unwrap_or(0.0);
            }
        }
        Self {
            scale,
            tasks,
            scores: net.scores,
            weights: net.weights,
        }
    }

    /// Whether anybody has any weight.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.weights.values().any(|weight| *weight > 0.0)
    }
}

/// Rows by task and miner.
struct Sorted<'a> {
    usual: BTreeMap<&'a str, Option<UsualTime>>,
    miners: BTreeMap<&'a str, BTreeSet<Hotkey>>,
    allotments: BTreeMap<(&'a str, Hotkey), Units>,
    periods: BTreeMap<(&'a str, Hotkey), Vec<&'a PeriodRow>>,
    findings: BTreeMap<Hotkey, Vec<&'a Finding>>,
    shown: BTreeMap<(&'a str, Hotkey), Vec<&'a Demonstration>>,
}

// === impl Sorted ===

impl<'a> Sorted<'a> {
    fn new(tasks: &'a [ScoredTask], offers: &'a [Offered], rows: &'a Rows) -> Self {
        let usual = tasks.iter().map(|task| (&*task.id, task.usual)).collect();
        let mut sorted = Self {
            usual,
            miners: BTreeMap::new(),
            allotments: BTreeMap::new(),
            periods: BTreeMap::new(),
            findings: BTreeMap::new(),
            shown: BTreeMap::new(),
        };
        for offer in offers {
            let miners = sorted.miners.entry(&*offer.task).or_default();
            miners.insert(offer.miner);
            let key = (&*offer.task, offer.miner);
            sorted.allotments.insert(key, offer.allotment);
        }
        for row in &rows.periods {
            let miners = sorted.miners.entry(&*row.task).or_default();
            miners.insert(row.miner);
            let key = (&*row.task, row.miner);
            sorted.periods.entry(key).or_default().push(row);
        }
        for row in &rows.findings {
            sorted.findings.entry(row.miner).or_default().push(row);
        }
        for row in rows
            .demonstrations
            .iter()
            .filter(|row| !row.asked.is_zero())
        {
            let key = (&*row.task, row.miner);
            sorted.shown.entry(key).or_default().push(row);
        }
        for rows in sorted.periods.values_mut() {
            rows.sort_by_key(|row| std::cmp::Reverse(row.period));
        }
        for rows in sorted.findings.values_mut() {
            rows.sort_by_key(|row| std::cmp::Reverse(row.at_ms));
        }
        for rows in sorted.shown.values_mut() {
            rows.sort_by_key(|row| std::cmp::Reverse(row.begins_ms));
        }
        sorted
    }

    fn of_task(&self, task: &ScoredTask, scale: &Scale) -> BTreeMap<Hotkey, Steps> {
        let Some(miners) = self.miners.get(&*task.id) else {
            return BTreeMap::new();
        };
        let answers: Vec<(Vec<Answer>, usize)> = miners
            .iter()
            .map(|miner| self.answers(&task.id, *miner))
            .collect();
        let judged: Vec<&[Answer]> = answers.iter().map(|(all, _)| &all[..]).collect();
        let rule = scale.profile.quality;
        let qualities = rule.qualities(task.lenient, &judged);
        let judged = answers.into_iter().zip(qualities);
        miners
            .iter()
            .zip(judged)
            .map(|(miner, judged)| (*miner, self.steps((&task.id, *miner), judged, scale)))
            .collect()
    }

    fn steps(
        &self,
        key: (&str, Hotkey),
        ((answers, own_answers), quality): ((Vec<Answer>, usize), Quality),
        scale: &Scale,
    ) -> Steps {
        let (periods, reliability) = self.history(key, &scale.profile);
        let shown_rows = self.shown.get(&key).into_iter().flatten();
        let shown_rows: Vec<Demonstration> = shown_rows.map(|row| (*row).clone()).collect();
        let rates: Vec<(f64, bool)> = shown_rows
            .iter()
            .map(|row| (row.rate(), row.common))
            .collect();
        let rates = counting(&rates, scale.profile.capacity.newest());
        let allotment = self.allotments.get(&key).copied().unwrap_or_default();
        let rule = scale.profile.capacity;
        let capacity = counted(rule, allotment, &rates, scale.period_s);
        Steps {
            newcomer: scale.profile.newcomer.factor(count(periods.len())),
            periods,
            answers,
            own_answers,
            quality,
            shown: shown_rows,
            allotment,
            capacity,
            verified: shown(rule, allotment, &rates, scale.period_s),
            score: TaskScore {
                quality: quality.value,
                reliability,
                capacity: capacity.as_f64(),
            },
            of_all: 0.0,
            part: 0.0,
        }
    }

    /// The periods in which something was tried, and what they come to.
    fn history(&self, key: (&str, Hotkey), profile: &Profile) -> (Vec<PeriodStep>, f64) {
        let rows = self.periods.get(&key).into_iter().flatten();
        let mut periods: Vec<PeriodStep> = rows
            .filter_map(|row| {
                Some(PeriodStep {
                    period: row.period,
                    tally: row.tally,
                    kept: row.tally.kept(profile)?,
                    weight: 0.0,
                })
            })
            .collect();
        let past: Vec<PastPeriod> = periods
            .iter()
            .map(|step| PastPeriod {
                reliability: step.kept.reliability,
                posted: step.tally.posted,
            })
            .collect();
        for (step, weight) in periods.iter_mut().zip(weights(&past, profile)) {
            step.weight = weight;
        }
        let reliability = history(&past, count(past.len()), profile);
        (periods, reliability)
    }

    /// A miner's checked answers that count for a task, and how many of them are to it.
    fn answers(&self, task: &str, miner: Hotkey) -> (Vec<Answer>, usize) {
        let all = || self.findings.get(&miner).into_iter().flatten();
        let own = all().filter(|row| &*row.task == task).take(ANSWERS_MAX);
        let mut answers: Vec<Answer> = own.map(|row| self.answer(row)).collect();
        let own_answers = answers.len();
        let others = all().filter(|row| &*row.task != task);
        let room = ANSWERS_MAX.saturating_sub(own_answers);
        answers.extend(others.take(room).map(|row| self.answer(row)));
        (answers, own_answers)
    }

    fn answer(&self, row: &Finding) -> Answer {
        Answer {
            quality: row.quality,
            seconds: row.seconds,
            units: row.units,
            usual: self.usual.get(&*row.task).copied().flatten(),
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
