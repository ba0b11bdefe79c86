//! A miner's weight as arithmetic that can be followed by hand, line by line.
//!
//! The letters are those of the formulas: C allotment, K posted, n attempts, x busy, f failed, y how
//! much of the busy ones counts as not good;
//! u, a, b, g their parts; R a period's reliability and w its weight, H the reliability over
//! periods; t seconds a unit and s what they are worth, Q quality; v what was shown, E the
//! effective capacity, l its part of everybody's, `S_task` the part of a task, S the sum.

use std::fmt::{self, Write as _};

use super::profile::{CapacityRule, Profile, QualityRule};
use super::quality::{Answer, Quality};
use super::standing::{PeriodStep, Standing, Steps, TaskStanding};
use crate::identity::hotkey::Hotkey;

/// How a miner's weight came about; none for one that neither offers anything nor did.
#[must_use]
pub fn explain(standing: &Standing, miner: Hotkey) -> Option<String> {
    let weight = standing.weights.get(&miner)?;
    let mut page = Page(String::new());
    let scale = &standing.scale;
    let profile = &scale.profile;
    page.line(format_args!(
        "miner {miner}, profile {}, period {}",
        scale.name, scale.period
    ));
    let mut terms = Vec::new();
    for task in &standing.tasks {
        if let Some(steps) = task.miners.get(&miner) {
            task_lines(&mut page, task, steps, standing);
            terms.push(format!("{} x {}", n(task.task.weight), n(steps.part)));
        }
    }
    let score = standing.scores.get(&miner).copied().unwrap_or(0.0);
    let all: f64 = standing.scores.values().sum();
    page.line(format_args!(
        "\nS = sum of weight x S_task = {} = {}",
        terms.join(" + "),
        n(score)
    ));
    page.line(format_args!(
        "weight = S / sum of S over all miners = {} / {} = {}",
        n(score),
        n(all),
        n(*weight)
    ));
    if let Some(note) = note(profile) {
        page.line(format_args!("{note}"));
    }
    Some(page.0)
}

fn task_lines(page: &mut Page, task: &TaskStanding, steps: &Steps, standing: &Standing) {
    let profile = &standing.scale.profile;
    page.line(format_args!(
        "\ntask {}, weight {}",
        task.task.id,
        n(task.task.weight)
    ));
    for (age, step) in steps.periods.iter().enumerate() {
        period_lines(page, (age, step), steps, profile);
    }
    history_line(page, steps);
    for answer in &steps.answers {
        answer_line(page, answer, profile.quality);
    }
    quality_line(page, steps, profile.quality);
    capacity_lines(page, steps, standing);
    let score = &steps.score;
    page.line(format_args!(
        "  E = Q H C = {} x {} x {} = {}",
        n(score.quality),
        n(score.reliability),
        n(score.capacity),
        n(score.effective())
    ));
    let all: f64 = task.miners.values().map(|one| one.score.effective()).sum();
    page.line(format_args!(
        "  l = E / sum E = {} / {} = {}",
        n(score.effective()),
        n(all),
        n(steps.of_all)
    ));
    let k = profile.exponent;
    let powers: f64 = task.miners.values().map(|one| one.of_all.powf(k)).sum();
    page.line(format_args!(
        "  S_task = l^k / sum l^k = {}^{} / {} = {}",
        n(steps.of_all),
        n(k),
        n(powers),
        n(steps.part)
    ));
}

fn period_lines(
    page: &mut Page,
    (age, step): (usize, &PeriodStep),
    steps: &Steps,
    profile: &Profile,
) {
    let (tally, kept) = (&step.tally, &step.kept);
    let (allotment, posted) = (tally.allotment, tally.posted);
    let attempts = tally.attempts();
    page.line(format_args!(
        "  period {}: C {allotment}, K {posted}, n {attempts} = {} good + {} busy + {} failed",
        step.period, tally.good, tally.busy, tally.failed
    ));
    page.line(format_args!(
        "    u = max(C - K, 0) / C = max({allotment} - {posted}, 0) / {allotment} = {}",
        n(kept.left)
    ));
    page.line(format_args!(
        "    a = x/n = {}/{attempts} = {}   b = f/n = {}/{attempts} = {}   \
         g = (n - x - f)/(n - (1 - y) x) = {}/({attempts} - {} x {}) = {}",
        tally.busy,
        n(kept.busy),
        tally.failed,
        n(kept.failed),
        tally.good,
        n(1.0 - profile.busy_counts),
        tally.busy,
        n(kept.good)
    ));
    page.line(format_args!(
        "    R = g (1 - a u) (1 - b u)^e = {} (1 - {} x {}) (1 - {} x {})^{} = {}",
        n(kept.good),
        n(kept.busy),
        n(kept.left),
        n(kept.failed),
        n(kept.left),
        n(profile.failure_exponent),
        n(kept.reliability)
    ));
    let all: f64 = steps
        .periods
        .iter()
        .map(|one| one.tally.posted.as_f64())
        .sum();
    page.line(format_args!(
        "    w = K / sum K x (1 - d)^{age} = {posted} / {} x (1 - {})^{age} = {}",
        n(all),
        n(profile.decay),
        n(step.weight)
    ));
}

fn history_line(page: &mut Page, steps: &Steps) {
    let reliability = n(steps.score.reliability);
    let weights: f64 = steps.periods.iter().map(|step| step.weight).sum();
    if weights <= 0.0 {
        page.line(format_args!("  H = 0: nothing was delivered yet"));
        return;
    }
    let terms: Vec<String> = steps
        .periods
        .iter()
        .map(|step| format!("{} x {}", n(step.kept.reliability), n(step.weight)))
        .collect();
    page.line(format_args!(
        "  H = sum R w / sum w x newcomer({}) = ({}) / {} x {} = {reliability}",
        steps.periods.len(),
        terms.join(" + "),
        n(weights),
        n(steps.newcomer)
    ));
}

fn answer_line(page: &mut Page, answer: &Answer, rule: QualityRule) {
    let (quality, seconds, units) = (answer.quality, answer.seconds, answer.units);
    let QualityRule::Paced { best, curve } = rule else {
        page.line(format_args!(
            "  answer: quality {}, {units} units in {} s",
            n(quality),
            n(seconds)
        ));
        return;
    };
    let speed = answer.speed(best, curve);
    let Some((usual, took)) = answer
        .usual
        .and_then(|usual| Some((usual, usual.took(answer)?)))
    else {
        page.line(format_args!(
            "  answer: quality {}, {units} units in {} s: s = 1, there is no usual time",
            n(quality),
            n(seconds)
        ));
        return;
    };
    let mean = n(usual.unit_s);
    let how = if took > usual.unit_s || usual.unit_s <= 0.0 {
        format!(
            "exp((m - t) v) = exp(({mean} - {}) x {})",
            n(took),
            n(usual.variance)
        )
    } else {
        format!(
            "1 + (M - 1) ((m - t)/m)^c = 1 + ({} - 1) (({mean} - {})/{mean})^{}",
            n(best),
            n(took),
            n(curve)
        )
    };
    page.line(format_args!(
        "  answer: quality {}, t = max({} - {}, 0) / {units} = {}, s = {how} = {}",
        n(quality),
        n(seconds),
        n(usual.overhead_s),
        n(took),
        n(speed)
    ));
}

fn quality_line(page: &mut Page, steps: &Steps, rule: QualityRule) {
    let (answers, own) = (steps.answers.len(), steps.own_answers);
    let Quality {
        value,
        mean,
        squared,
        rank,
    } = steps.quality;
    match (rule, rank) {
        _ if answers == 0 => page.line(format_args!("  Q = 0: no answer was checked")),
        (QualityRule::Ranked { power, .. }, Some((speed, bonus))) => {
            let square = if squared { ", squared" } else { "" };
            page.line(format_args!(
                "  Q = q' (1 + bonus) = {}{square} x (1 + {}) = {}: q' is the mean of quality^{} \
                 over {answers} answers ({own} to this task), the bonus is for {} units a second",
                n(mean),
                n(bonus),
                n(value),
                n(power),
                n(speed)
            ));
        }
        (QualityRule::Ranked { .. } | QualityRule::Paced { .. }, _) => page.line(format_args!(
            "  Q = mean of quality x s over {answers} answers ({own} to this task) = {}",
            n(value)
        )),
    }
}

fn capacity_lines(page: &mut Page, steps: &Steps, standing: &Standing) {
    let allotment = steps.allotment;
    let CapacityRule::Verified { bursts } = standing.scale.profile.capacity else {
        page.line(format_args!("  C = allotment = {allotment}"));
        return;
    };
    let newest = || steps.shown.iter().take(bursts);
    let common = newest().any(|one| one.common);
    let rates: Vec<String> = newest()
        .filter(|one| one.common == common)
        .map(|one| format!("{}/{}s", one.units, n(rate_s(one.length_ms))))
        .collect();
    if rates.is_empty() {
        page.line(format_args!("  v = 0: nothing was shown in a burst"));
    } else {
        page.line(format_args!(
            "  v = min(median, mean) of {} x {} s = {}",
            rates.join(", "),
            standing.scale.period_s,
            steps.verified
        ));
    }
    page.line(format_args!(
        "  C = min(allotment, v) = min({allotment}, {}) = {}",
        steps.verified,
        n(steps.score.capacity)
    ));
}

/// Milliseconds as seconds.
fn rate_s(length_ms: u64) -> f64 {
    taugate_ledger::units::Units::new(length_ms).as_f64() / 1000.0
}

/// What is not said by any line.
fn note(profile: &Profile) -> Option<&'static str> {
    matches!(profile.capacity, CapacityRule::Declared)
        .then_some("What is declared counts: nothing has to be shown.")
}

/// Text that grows by lines.
struct Page(String);

// === impl Page ===

impl Page {
    fn line(&mut self, text: fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").unwrap_or_default();
    }
}

/// A number with the digits that it needs: nine behind the point at most.
pub(super) fn n(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-6 {
        return format!("{value:.6e}");
    }
    let text = format!("{value:.9}");
    if text.contains('.') {
        let text = text.trim_end_matches('0').trim_end_matches('.');
        text.to_owned()
    } else {
        text
    }
}
