//! Scores: the worked examples to their digits, and sense whatever comes in.

use std::collections::BTreeMap;

use proptest::prelude::*;
use taugate::scoring::profile::{Newcomer, QualityRule};
use taugate::scoring::quality::{Answer, UsualTime};
use taugate::scoring::reliability::{PastPeriod, Tally, history};
use taugate::scoring::{Profile, TaskScore, net};
use taugate_ledger::units::Units;

const JUNE: UsualTime = UsualTime {
    overhead_s: 1.0,
    unit_s: 0.0125,
    variance: 80.0,
};
const JULY: UsualTime = UsualTime {
    unit_s: 0.008,
    ..JUNE
};

#[track_caller]
fn close(found: f64, expected: f64, digits: i32) {
    let half = 0.500_001 * 10_f64.powi(-digits);
    assert!((found - expected).abs() <= half, "{found}, not {expected}");
}

fn tally(posted: u64) -> Tally {
    Tally {
        allotment: Units::new(100_000),
        posted: Units::new(posted),
        good: 184,
        busy: 10,
        failed: 6,
    }
}

// === Worked examples ===

#[test]
fn a_periods_reliability() {
    let of = |posted, profile| tally(posted).reliability(&profile).unwrap();
    close(of(25_000, Profile::vision_4_0()), 0.865_576_25, 12);
    close(of(25_000, Profile::nineteen_6_3()), 0.846_100_784_375, 12);
    for profile in [Profile::vision_4_0(), Profile::nineteen_6_3()] {
        close(of(100_000, profile.clone()), 0.92, 12);
        close(of(250_000, profile), 0.92, 12);
    }
}

/// N7: "too many" was recorded as a failure, and squared.
#[test]
fn n7_too_many_is_held_against_what_was_left_only() {
    let of = |busy, failed, posted| {
        let tally = Tally {
            busy,
            failed,
            ..tally(posted)
        };
        tally
            .reliability(&Profile::taugate())
            .expect("it was tried")
    };
    close(of(16, 0, 100_000), 1.0, 12);
    close(of(0, 16, 100_000), 0.92, 12);
    close(of(16, 0, 25_000), 1.0 - 0.08 * 0.75, 12);
    close(of(0, 16, 25_000), 0.92 * (1.0 - 0.08 * 0.75), 12);
    let refuses = Tally {
        good: 0,
        failed: 0,
        ..tally(0)
    };
    close(
        refuses.reliability(&Profile::taugate()).expect("tried"),
        0.0,
        12,
    );
}

#[test]
fn reliability_over_periods() {
    let past =
        [(0.9, 25_000), (0.8, 50_000), (1.0, 25_000)].map(|(reliability, posted)| PastPeriod {
            reliability,
            posted: Units::new(posted),
        });
    close(history(&past, 3, &Profile::vision_4_0()), 0.866_667, 6);
    close(history(&past, 3, &Profile::vision_2024_07()), 0.731_25, 6);
    close(history(&past, 3, &Profile::nineteen_6_3()), 0.216_667, 6);
    // A newcomer is whole after eight periods in the one profile, after nine in the other.
    for (rule, factors) in [
        (
            Profile::vision_2024_07().newcomer,
            [0.75, 0.84375, 1.0, 1.0],
        ),
        (Profile::nineteen_6_3().newcomer, [0.25, 0.25, 0.25, 1.0]),
        (Newcomer::Equal, [1.0; 4]),
    ] {
        for (periods, factor) in [0, 3, 8, 9].into_iter().zip(factors) {
            close(rule.factor(periods), factor, 12);
        }
    }
}

#[test]
fn speed_against_the_usual_time() {
    let answer = |seconds| Answer {
        quality: 1.0,
        seconds,
        units: Units::new(1200),
        usual: None,
    };
    close(JUNE.speed(&answer(7.0), 1.4, 0.5), 1.309_839, 6);
    close(JULY.speed(&answer(7.0), 1.6, 0.25), 1.469_525, 6);
    close(JUNE.speed(&answer(13.0), 1.4, 0.5), 1.178_885, 6);
    close(JULY.speed(&answer(13.0), 1.6, 0.25), 0.852_144, 6);
    close(JUNE.speed(&answer(0.5), 1.4, 0.5), 1.4, 12);
}

/// Chat and image, weights 0.6 and 0.4; only one miner makes images.
fn market(a: &[(&'static str, f64)]) -> Vec<(f64, BTreeMap<&'static str, f64>)> {
    let chat = a.iter().copied().chain([("b", 45_600.0), ("c", 24_750.0)]);
    let image = [("c", 1.0)];
    vec![(0.6, chat.collect()), (0.4, image.into())]
}

#[test]
fn weights_over_tasks() {
    let exponent = |exponent| Profile {
        exponent,
        ..Profile::vision_4_0()
    };
    for (k, chat, total) in [
        (
            1.0,
            [0.573_248, 0.276_615, 0.150_136],
            [0.343_949, 0.165_969, 0.490_082],
        ),
        (
            3.0,
            [0.884_704, 0.099_402, 0.015_894],
            [0.530_822, 0.059_641, 0.409_536],
        ),
        (
            4.0,
            [0.944_357, 0.051_200, 0.004_443],
            [0.566_614, 0.030_720, 0.402_666],
        ),
    ] {
        let found = net(&market(&[("a", 94_500.0)]), &exponent(k));
        for (index, miner) in ["a", "b", "c"].into_iter().enumerate() {
            close(found.parts[0][miner], chat[index], 6);
            close(found.weights[miner], total[index], 6);
        }
    }
    // Two hotkeys of one miner get together what it got, unless the exponent says otherwise.
    for (k, together) in [(1.0, 0.5732), (3.0, 0.6573), (4.0, 0.6796)] {
        let found = net(&market(&[("a", 47_250.0), ("a2", 47_250.0)]), &exponent(k));
        close(found.parts[0]["a"] + found.parts[0]["a2"], together, 4);
    }
}

#[test]
fn quality_with_a_bonus_by_rank() {
    let answers = |qualities: [f64; 4], speeds: [u64; 4]| {
        let pairs = qualities.into_iter().zip(speeds);
        pairs
            .map(|(quality, speed)| Answer {
                quality,
                seconds: 1.0,
                units: Units::new(speed),
                usual: None,
            })
            .collect::<Vec<_>>()
    };
    let a = answers([1.0, 1.0, 0.9, 0.95], [40, 42, 38, 50]);
    let b = answers([0.9, 0.8, 0.95, 0.85], [60, 55, 58, 70]);
    let c = answers([1.0; 4], [20, 25, 22, 30]);
    let rule = Profile::nineteen_6_3().quality;
    let found = rule.qualities(false, &[&a, &b, &c]);
    close(found[0].value, 0.944_940, 6);
    close(found[1].value, 0.839_969, 6);
    close(found[2].value, 0.75, 6);
    // Alone there is no rank; a lenient judge's mean is not squared.
    close(rule.qualities(false, &[&b])[0].value, 0.671_975, 6);
    close(rule.qualities(true, &[&b])[0].value, 0.819_741, 6);
}

#[test]
fn quality_with_speed_counts_the_newest_fifty() {
    let rule = Profile::taugate().quality;
    let answer = |quality| Answer {
        quality,
        seconds: 7.0,
        units: Units::new(1200),
        usual: Some(JUNE),
    };
    let newest = [vec![answer(0.5); 50], vec![answer(1.0); 500]].concat();
    let found = rule.qualities(false, &[&newest, &[], &[answer(1.0)]]);
    close(found[0].value, 0.5 * 1.309_839, 6);
    close(found[1].value, 0.0, 12); // nothing was checked
    close(found[2].value, 1.309_839, 6);
    let no_time = Answer {
        usual: None,
        ..answer(0.75)
    };
    close(rule.qualities(false, &[&[no_time]])[0].value, 0.75, 12);
}

// === Sense, whatever comes in ===

/// Any number that a configuration, a checker or a clock could bring.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(-1.0),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        0.0..1e9_f64,
        any::<f64>(),
    ]
}

fn profile() -> impl Strategy<Value = Profile> {
    (0..Profile::NAMES.len()).prop_map(|at| Profile::named(Profile::NAMES[at]).expect("a name"))
}

proptest! {
    #[test]
    fn reliabilities_lie_between_0_and_1(
        profile in profile(),
        counts in any::<[u64; 5]>(),
        small in any::<bool>(),
        others in prop::collection::vec((number(), any::<u64>()), 0..5),
        periods in any::<u32>(),
    ) {
        let [allotment, posted, good, busy, failed] =
            counts.map(|count| if small { count % 4 } else { count });
        let tally = Tally {
            allotment: Units::new(allotment),
            posted: Units::new(posted),
            good,
            busy,
            failed,
        };
        let found = tally.reliability(&profile);
        if let Some(found) = found {
            prop_assert!((0.0..=1.0).contains(&found), "{found}");
        } else {
            prop_assert!(allotment == 0 || good == 0 && busy == 0 && failed == 0);
        }
        let mut past = vec![PastPeriod {
            reliability: found.unwrap_or(0.0),
            posted: Units::new(posted),
        }];
        past.extend(others.into_iter().map(|(reliability, posted)| PastPeriod {
            reliability,
            posted: Units::new(posted),
        }));
        let found = history(&past, periods, &profile);
        prop_assert!((0.0..=1.0).contains(&found), "{found}");
    }

    #[test]
    fn qualities_are_numbers(
        profile in profile(),
        lenient in any::<bool>(),
        usual in prop::option::of((number(), number(), number())),
        miners in prop::collection::vec(
            prop::collection::vec((number(), number(), any::<u64>()), 0..8),
            0..6,
        ),
    ) {
        let usual = usual.map(|(overhead_s, unit_s, variance)| UsualTime {
            overhead_s,
            unit_s,
            variance,
        });
        let miners: Vec<Vec<Answer>> = miners
            .into_iter()
            .map(|answers| {
                let answers = answers.into_iter();
                answers
                    .map(|(quality, seconds, units)| Answer {
                        quality,
                        seconds,
                        units: Units::new(units),
                        usual,
                    })
                    .collect()
            })
            .collect();
        let borrowed: Vec<&[Answer]> = miners.iter().map(Vec::as_slice).collect();
        let found = profile.quality.qualities(lenient, &borrowed);
        prop_assert_eq!(found.len(), miners.len());
        let most = match profile.quality {
            QualityRule::Paced { best, .. } => best,
            QualityRule::Ranked { spread, .. } => 1.0 + spread / 2.0,
        };
        for quality in found.into_iter().map(|quality| quality.value) {
            prop_assert!((0.0..=most + 1e-9).contains(&quality), "{quality}");
        }
    }

    #[test]
    fn weights_sum_to_1_or_all_are_0(
        profile in profile(),
        tasks in prop::collection::vec(
            (
                number(),
                prop::collection::btree_map(0_u8..20, (number(), number(), number()), 0..10),
            ),
            0..5,
        ),
    ) {
        let tasks: Vec<(f64, BTreeMap<u8, f64>)> = tasks
            .into_iter()
            .map(|(weight, miners)| {
                let effective = miners.into_iter().map(|(miner, (quality, reliability, capacity))| {
                    let score = TaskScore { quality, reliability, capacity };
                    (miner, score.effective())
                });
                (weight, effective.collect())
            })
            .collect();
        let found = net(&tasks, &profile);
        let sums = found.parts.iter().chain([&found.weights]);
        for (index, parts) in sums.enumerate() {
            prop_assert!(parts.values().all(|part| (0.0..=1.0).contains(part)), "{parts:?}");
            let sum: f64 = parts.values().sum();
            prop_assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-12, "{index}: {sum}");
        }
    }
}
