//! Tries many schedules on two threads, and says in one line what was seen.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plan::Plan;
use crate::world::{Broken, Tally};

/// What is to be tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    pub(crate) name: &'static str,
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Whether the engine can lose commits.
    pub(crate) may_lose: bool,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    tried: u64,
    lossy: u64,
    tally: Tally,
    /// How many broke which promise.
    broken: BTreeMap<&'static str, u64>,
    first: Option<(Plan, Broken)>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to try is said from outside"
)]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(crate) fn number(name: &str) -> Option<u64> {
    text(name)?.parse().ok()
}

/// Tries them all, each thread with a way of its own.
///
/// # Panics
/// When a promise does not hold, or something was never tried.
pub(crate) fn try_all<R>(proof: &Proof, way: impl Fn() -> R + Sync)
where
    R: FnMut(&Plan) -> (Tally, Result<(), Broken>),
{
    if let Some(seed) = number("TAUGATE_SEED") {
        let plan = Plan::of(seed, proof.may_lose);
        let places = text("TAUGATE_STEPS").map_or_else(
            || plan.kept.clone(),
            |kept| kept.split(',').filter_map(|at| at.parse().ok()).collect(),
        );
        let plan = plan.only(&places);
        if let Some(broken) = tried(&plan, &mut way()).1 {
            panic!("{}", told(&plan, &broken));
        }
        return;
    }
    let halves = std::thread::scope(|scope| {
        let half = |from| {
            scope.spawn({
                let way = &way;
                move || half(proof, from, &mut way())
            })
        };
        [half(0), half(1)].map(|half| half.join().expect("a half"))
    });
    let mut all = Seen::default();
    halves.into_iter().for_each(|half| all.add(half));
    say(&all.line(proof.name));
    if let Some((plan, broken)) = &all.first {
        let rule = broken.rule;
        let run = std::cell::RefCell::new(way());
        let fails = |plan: &Plan| {
            let again = tried(plan, &mut *run.borrow_mut()).1;
            again.is_some_and(|again| again.rule == rule)
        };
        let short = plan.clone().shrunk(fails);
        let seen = tried(&short, &mut *run.borrow_mut()).1;
        panic!("{}", told(&short, &seen.unwrap_or_else(|| broken.clone())));
    }
    all.assert_busy(proof);
}

/// Every second seed.
fn half(
    proof: &Proof,
    from: u64,
    run: &mut impl FnMut(&Plan) -> (Tally, Result<(), Broken>),
) -> Seen {
    let go_on = text("TAUGATE_COUNT_ALL").is_some();
    let mut seen = Seen::default();
    for seed in (proof.first + from..proof.first + proof.count).step_by(2) {
        let plan = Plan::of(seed, proof.may_lose);
        let (tally, broken) = tried(&plan, run);
        seen.tried += 1;
        seen.lossy += u64::from(plan.lossy);
        seen.tally.add(&tally);
        if let Some(broken) = broken {
            *seen.broken.entry(broken.rule).or_default() += 1;
            seen.first.get_or_insert((plan, broken));
            if !go_on {
                break;
            }
        }
    }
    seen
}

fn tried(
    plan: &Plan,
    run: &mut impl FnMut(&Plan) -> (Tally, Result<(), Broken>),
) -> (Tally, Option<Broken>) {
    match catch_unwind(AssertUnwindSafe(|| run(plan))) {
        Ok((tally, held)) => (tally, held.err()),
        Err(_) => {
            let seen = "the code itself stopped".to_owned();
            let rule = "panic";
            (Tally::default(), Some(Broken { rule, seen }))
        }
    }
}

fn told(plan: &Plan, broken: &Broken) -> String {
    let steps = plan.kept.iter().zip(&plan.steps);
    let steps = steps.map(|(at, step)| format!("\n  {at:>2} {:?}", step.what));
    let steps: String = steps.collect();
    let Broken { rule, seen } = broken;
    let lossy = if plan.lossy {
        ", with lost commits"
    } else {
        ""
    };
    format!(
        "{rule} is broken: {seen}\n{} steps{lossy}:{steps}\nagain: {plan}",
        plan.steps.len()
    )
}

fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "{line}").expect("somebody reads");
}

// === impl Seen ===

impl Seen {
    fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.lossy += other.lossy;
        self.tally.add(&other.tally);
        for (rule, count) in other.broken {
            *self.broken.entry(rule).or_default() += count;
        }
        self.first = self.first.take().or(other.first);
    }

    fn line(&self, name: &str) -> String {
        let (most, of) = self.tally.worst;
        let broken: u64 = self.broken.values().sum();
        let by_rule: Vec<_> = self
            .broken
            .iter()
            .map(|(rule, n)| format!("{rule} {n}"))
            .collect();
        let ended = if broken == 0 {
            "0 broken: held".to_owned()
        } else {
            format!("{broken} broken ({}): BROKEN", by_rule.join(", "))
        };
        format!(
            "{name}: {} tried, {} of them with {} lost commits; {} units posted, {} messages lost, \
             {} doubled, {} kills, {} stops, {} cuts; fullest cell {most} of {of} units; {ended}",
            self.tried,
            self.lossy,
            self.tally.commits_lost,
            self.tally.posted,
            self.tally.lost,
            self.tally.doubled,
            self.tally.killed,
            self.tally.stopped,
            self.tally.cut,
        )
    }

    fn assert_busy(&self, proof: &Proof) {
        let it = &self.tally;
        let always = [
            it.posted, it.shorts, it.parts, it.lost, it.doubled, it.killed, it.stopped, it.closed,
            it.paused, it.cut, it.checks,
        ];
        let never = always.contains(&0) || (proof.may_lose && it.frozen.min(it.commits_lost) == 0);
        // Receipts overtake an ask in few schedules.
        let never = never || (proof.count >= 100_000 && it.overtaken == 0);
        assert!(
            proof.count < 1_000 || !never,
            "something was never tried: {it:?}"
        );
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, other: &Self) {
        let (most, of) = other.worst;
        if most * self.worst.1.max(1) > self.worst.0 * of.max(1) || self.worst.1 == 0 {
            self.worst = other.worst;
        }
        for (sum, more) in [
            (&mut self.posted, other.posted),
            (&mut self.shorts, other.shorts),
            (&mut self.parts, other.parts),
            (&mut self.lost, other.lost),
            (&mut self.doubled, other.doubled),
            (&mut self.overtaken, other.overtaken),
            (&mut self.killed, other.killed),
            (&mut self.stopped, other.stopped),
            (&mut self.closed, other.closed),
            (&mut self.paused, other.paused),
            (&mut self.cut, other.cut),
            (&mut self.checks, other.checks),
            (&mut self.commits_lost, other.commits_lost),
            (&mut self.frozen, other.frozen),
        ] {
            *sum += more;
        }
    }
}
