//! From rows to weights, with every step.

use std::sync::Arc;

use proptest::prelude::*;
use taugate::identity::hotkey::Hotkey;
use taugate::scoring::explain::explain;
use taugate::scoring::profile::CapacityRule;
use taugate::scoring::reliability::Tally;
use taugate::scoring::rows::{Demonstration, Finding, PeriodRow};
use taugate::scoring::standing::{Offered, Scale, ScoredTask, Standing};
use taugate::scoring::{Profile, Rows};
use taugate::task::{TaskId, UsualTime};
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

const CHAT: &str = "chat";
const IMAGE: &str = "image";

fn miner(number: u8) -> Hotkey {
    Hotkey::from_bytes([number; 32])
}

fn id(name: &str) -> TaskId {
    name.into()
}

fn task(name: &str, weight: f64) -> ScoredTask {
    ScoredTask {
        id: id(name),
        weight,
        usual: None,
        lenient: false,
    }
}

fn scale(profile: Profile) -> Scale {
    Scale {
        name: "a profile".into(),
        profile,
        period: Period::starting_at(36_000),
        period_s: 3600,
    }
}

fn offer(who: u8, name: &str, allotment: u64) -> Offered {
    Offered {
        miner: miner(who),
        task: id(name),
        allotment: Units::new(allotment),
    }
}

/// A period so many periods ago; 184 good, 10 busy, 6 failed attempts.
fn period(who: u8, name: &str, ago: u64, posted: u64) -> PeriodRow {
    PeriodRow {
        period: Period::starting_at(36_000 - ago * 3600),
        miner: miner(who),
        task: id(name),
        tally: Tally {
            allotment: Units::new(100_000),
            posted: Units::new(posted),
            good: 184,
            busy: 10,
            failed: 6,
        },
        synthetic: Units::ZERO,
    }
}

fn finding(who: u8, name: &str, at_ms: u64, quality: f64) -> Finding {
    Finding {
        miner: miner(who),
        task: id(name),
        quality,
        units: Units::new(1200),
        seconds: 7.0,
        at_ms,
    }
}

fn shown(who: u8, name: &str, begins_ms: u64, units: u64) -> Demonstration {
    Demonstration {
        miner: miner(who),
        task: id(name),
        begins_ms,
        length_ms: 10_000,
        common: true,
        asked: Units::new(1000),
        units: Units::new(units),
    }
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
}

/// One miner in chat, by the numbers of the worked examples.
fn one() -> Rows {
    Rows {
        periods: vec![
            period(1, CHAT, 1, 25_000),
            period(1, CHAT, 0, 25_000),
            PeriodRow {
                tally: Tally {
                    allotment: Units::new(100_000),
                    ..Tally::default()
                },
                ..period(1, CHAT, 2, 0)
            },
        ],
        findings: vec![finding(1, CHAT, 5, 1.0)],
        demonstrations: vec![
            shown(1, CHAT, 1, 50),
            shown(1, CHAT, 2, 90),
            shown(1, CHAT, 3, 70),
        ],
    }
}

#[test]
fn every_step_is_kept_and_leads_to_the_weight() {
    let usual = UsualTime {
        overhead_s: 1.0,
        unit_s: 0.0125,
        variance: 80.0,
    };
    let tasks = [ScoredTask {
        usual: Some(usual),
        ..task(CHAT, 1.0)
    }];
    let offers = [offer(1, CHAT, 100_000), offer(2, CHAT, 5)];
    let profile = Profile {
        busy_counts: 1.0,
        ..Profile::taugate()
    };
    let standing = Standing::new(&tasks, &offers, &one(), scale(profile));
    let steps = &standing.tasks[0].miners[&miner(1)];
    assert_eq!(steps.periods.len(), 2, "nothing was tried in the third");
    assert_eq!(steps.periods[0].period, Period::starting_at(36_000));
    close(steps.periods[0].weight, 0.5);
    close(steps.periods[1].weight, 0.25);
    close(steps.score.reliability, 0.865_576_25);
    assert_eq!(
        steps.verified,
        Units::new(7 * 3600),
        "the median of 9, 5, 7"
    );
    close(steps.score.capacity, 25_200.0);
    assert!((steps.score.quality - 1.309_839).abs() < 1e-6);
    close(standing.weights[&miner(1)], 1.0);
    close(standing.weights[&miner(2)], 0.0);

    let told = explain(&standing, miner(1)).expect("it is known");
    for line in [
        "C 100000, K 25000, n 200 = 184 good + 10 busy + 6 failed",
        "u = max(C - K, 0) / C = max(100000 - 25000, 0) / 100000 = 0.75",
        "a = x/n = 10/200 = 0.05   b = f/n = 6/200 = 0.03   g = (n - x - f)/(n - (1 - y) x) = 184/(200 - 0 x 10) = 0.92",
        "R = g (1 - a u) (1 - b u)^e = 0.92 (1 - 0.05 x 0.75) (1 - 0.03 x 0.75)^1 = 0.86557625",
        "w = K / sum K x (1 - d)^1 = 25000 / 50000 x (1 - 0.5)^1 = 0.25",
        "H = sum R w / sum w x newcomer(2) = (0.86557625 x 0.5 + 0.86557625 x 0.25) / 0.75 x 1",
        "t = max(7 - 1, 0) / 1200 = 0.005, s = 1 + (M - 1) ((m - t)/m)^c = \
         1 + (1.4 - 1) ((0.0125 - 0.005)/0.0125)^0.5 = 1.309838668",
        "Q = mean of quality x s over 1 answers (1 to this task) = 1.309838668",
        "v = min(median, mean) of 70/10s, 90/10s, 50/10s x 3600 s = 25200",
        "C = min(allotment, v) = min(100000, 25200) = 25200",
        "weight = S / sum of S over all miners = 1 / 1 = 1",
    ] {
        assert!(told.contains(line), "{line}\nis not in\n{told}");
    }
    assert_eq!(explain(&standing, miner(9)), None, "nobody knows it");
}

#[test]
fn answers_to_other_tasks_fill_up_and_each_is_held_against_its_own_usual_time() {
    let slow = UsualTime {
        overhead_s: 1.0,
        unit_s: 0.0125,
        variance: 80.0,
    };
    let tasks = [
        task(CHAT, 0.5),
        ScoredTask {
            usual: Some(slow),
            ..task(IMAGE, 0.5)
        },
    ];
    let offers = [offer(1, CHAT, 1000), offer(1, IMAGE, 1000)];
    let mut rows = Rows::default();
    for at in 0..60 {
        rows.findings.push(finding(1, IMAGE, at, 1.0));
    }
    rows.findings.push(finding(1, CHAT, 0, 0.5));
    let standing = Standing::new(&tasks, &offers, &rows, scale(Profile::taugate()));
    let chat = &standing.tasks[0].miners[&miner(1)];
    assert_eq!((chat.answers.len(), chat.own_answers), (50, 1));
    close(chat.answers[0].quality, 0.5);
    let image = &standing.tasks[1].miners[&miner(1)];
    assert_eq!((image.answers.len(), image.own_answers), (50, 50));
    assert!((image.quality.value - 1.309_839).abs() < 1e-6);
    close(
        chat.quality.value,
        (49.0 * image.quality.value + 0.5) / 50.0,
    );
}

/// A miner declares a hundred and serves ten, and its twin declares what it serves.
#[test]
fn n36_ten_times_the_claim_is_worth_nothing_more() {
    let tasks = [task(CHAT, 1.0)];
    let rows = Rows {
        periods: vec![period(1, CHAT, 0, 20_000), period(2, CHAT, 0, 20_000)],
        findings: vec![finding(1, CHAT, 1, 1.0), finding(2, CHAT, 1, 1.0)],
        demonstrations: vec![shown(1, CHAT, 1, 100), shown(2, CHAT, 1, 100)],
    };
    let offers = [offer(1, CHAT, 360_000), offer(2, CHAT, 36_000)];
    let of = |profile: Profile| {
        let standing = Standing::new(&tasks, &offers, &rows, scale(profile));
        (standing.weights[&miner(1)], standing.weights[&miner(2)])
    };
    let (boasting, honest) = of(Profile::taugate());
    close(boasting, honest);
    let (boasting, honest) = of(Profile::vision_4_0());
    close(boasting, 10.0 * honest);
}

#[test]
fn who_offers_nothing_now_has_no_weight_and_a_tasks_weight_is_the_configurations() {
    let tasks = [task(CHAT, 0.75), task(IMAGE, 0.25), task("idle", 0.0)];
    let offers = [offer(1, CHAT, 10), offer(2, IMAGE, 999)];
    let mut rows = Rows::default();
    for (who, name) in [(1, CHAT), (2, IMAGE), (3, CHAT)] {
        rows.periods.push(period(who, name, 0, 1));
        rows.findings.push(finding(who, name, 1, 1.0));
    }
    let standing = Standing::new(&tasks, &offers, &rows, scale(Profile::vision_4_0()));
    close(standing.weights[&miner(1)], 0.75);
    close(standing.weights[&miner(2)], 0.25);
    close(standing.weights[&miner(3)], 0.0);
    assert!(standing.is_known());
}

#[test]
fn without_rows_there_are_no_weights() {
    let standing = Standing::new(&[], &[], &one(), scale(Profile::taugate()));
    assert!(standing.weights.is_empty() && !standing.is_known());
    let tasks = [task(CHAT, 1.0)];
    let offers = [offer(1, CHAT, 10)];
    let standing = Standing::new(&tasks, &offers, &Rows::default(), scale(Profile::taugate()));
    close(standing.weights[&miner(1)], 0.0);
    let told = explain(&standing, miner(1)).expect("it offers");
    for line in [
        "H = 0: nothing was delivered yet",
        "Q = 0: no answer was checked",
        "v = 0",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

// === Sense, whatever comes in ===

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(0.0),
        0.0..1.0_f64,
        any::<f64>(),
    ]
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), 0..10_u64, any::<u64>()]
}

fn named() -> impl Strategy<Value = (u8, TaskId)> {
    let names = prop::sample::select(vec![CHAT, IMAGE, "empty", "unknown"]);
    (0..6_u8, names.prop_map(id))
}

fn rows() -> impl Strategy<Value = Rows> {
    let ended = (
        named(),
        0..8_u64,
        [amount(), amount(), amount(), amount(), amount()],
    );
    let ended = ended.prop_map(|((who, task), ago, counts)| PeriodRow {
        task,
        tally: Tally {
            allotment: Units::new(counts[0]),
            posted: Units::new(counts[1]),
            good: counts[2],
            busy: counts[3],
            failed: counts[4],
        },
        ..period(who, CHAT, ago, 0)
    });
    let found = (named(), number(), number(), amount(), amount());
    let found = found.prop_map(|((who, task), quality, seconds, units, at_ms)| Finding {
        task,
        seconds,
        units: Units::new(units),
        ..finding(who, CHAT, at_ms, quality)
    });
    let demonstrated = (named(), amount(), amount(), amount(), amount());
    let demonstrated = demonstrated.prop_map(
        |((who, task), begins_ms, length_ms, asked, units)| Demonstration {
            miner: miner(who),
            task,
            begins_ms,
            length_ms,
            common: begins_ms.is_multiple_of(2),
            asked: Units::new(asked),
            units: Units::new(units),
        },
    );
    let of = |max| 0..max;
    (
        prop::collection::vec(ended, of(20)),
        prop::collection::vec(found, of(20)),
        prop::collection::vec(demonstrated, of(20)),
    )
        .prop_map(|(periods, findings, demonstrations)| Rows {
            periods,
            findings,
            demonstrations,
        })
}

proptest! {
    #[test]
    fn weights_sum_to_1_or_are_all_0_and_nothing_is_nan(
        name in prop::sample::select(Profile::NAMES.to_vec()),
        verified in any::<bool>(),
        weights in prop::array::uniform3(number()),
        usual in prop::option::of((number(), number(), number())),
        offers in prop::collection::vec((named(), amount()), 0..12),
        rows in rows(),
        period_s in amount(),
    ) {
        let mut profile = Profile::named(name).expect("a name");
        if verified {
            profile.capacity = CapacityRule::Verified { bursts: 5 };
        }
        let usual = usual.map(|(overhead_s, unit_s, variance)| UsualTime {
            overhead_s,
            unit_s,
            variance,
        });
        let tasks: Vec<ScoredTask> = [CHAT, IMAGE, "empty"]
            .into_iter()
            .zip(weights)
            .map(|(name, weight)| ScoredTask { usual, ..task(name, weight) })
            .collect();
        let offers: Vec<Offered> = offers
            .into_iter()
            .map(|((who, task), allotment)| Offered {
                task: Arc::clone(&task),
                ..offer(who, CHAT, allotment)
            })
            .collect();
        let scale = Scale { period_s, ..scale(profile) };
        let standing = Standing::new(&tasks, &offers, &rows, scale);
        let sum: f64 = standing.weights.values().sum();
        prop_assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-12, "{sum}");
        for (miner, weight) in &standing.weights {
            prop_assert!((0.0..=1.0).contains(weight), "{weight}");
            let told = explain(&standing, *miner).expect("it has a weight");
            prop_assert!(told.ends_with('\n'));
        }
        for steps in standing.tasks.iter().flat_map(|task| task.miners.values()) {
            let score = steps.score;
            for number in [
                score.quality,
                score.reliability,
                score.capacity,
                score.effective(),
                steps.of_all,
                steps.part,
                steps.newcomer,
            ] {
                prop_assert!(number.is_finite() && number >= 0.0, "{number}: {steps:?}");
            }
        }
    }
}
