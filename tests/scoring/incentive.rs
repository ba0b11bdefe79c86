//! What scores pay for, with production code over invented machines: smaller runs of what
//! `examples/incentive_simulation.rs` prints.

use taugate::scoring::Profile;

use crate::simulation::{JOINS, Trick, agreement, gain, two_validators, with_trick};

/// The largest and the last gain of a trick, once there was a window and a period.
fn gains(trick: Trick, periods: u64) -> (f64, f64) {
    let mut world = with_trick(trick, 7);
    let (mut largest, mut last) = (0.0_f64, 0.0);
    for _ in 0..periods {
        world.turn();
        last = gain(&world.standing("taugate", Profile::taugate()));
        largest = largest.max(last);
    }
    (largest, last)
}

/// N36: a claim of ten times the rate earned ten times as much.
#[test]
fn n36_who_declares_ten_times_what_it_serves_never_scores_above_its_twin() {
    let (largest, _) = gains(Trick::TenTimes, 12);
    assert!(largest <= 1.0 + 5e-3, "{largest}");
}

/// The limit of it: a validator that may ask for a quarter sees no more than a machine can do.
#[test]
fn a_validator_of_little_stake_cannot_tell_a_claim_up_to_the_whole_machine() {
    let (_, last) = gains(Trick::TenTimesOfAQuarter, 8);
    assert!((1.0..=4.05).contains(&last), "{last}");
}

#[test]
fn one_machine_behind_many_hotkeys_or_two_tasks_is_paid_as_one() {
    for trick in [Trick::FourHotkeys, Trick::Rotating, Trick::TwoTasks] {
        let (_, last) = gains(trick, 12);
        assert!(last <= 1.15, "{trick:?}: {last}");
    }
}

#[test]
fn an_honest_split_gains_nothing() {
    let (_, last) = gains(Trick::Split, 12);
    assert!((last - 1.0).abs() <= 0.01, "{last}");
}

#[test]
fn a_newcomer_reaches_its_full_score_within_ten_periods() {
    let (_, last) = gains(Trick::Newcomer, JOINS + 10);
    assert!(last >= 0.98, "{last}");
}

#[test]
fn who_says_too_many_is_not_punished_as_one_that_fails() {
    let (_, polite) = gains(Trick::Polite, 12);
    let (_, failing) = gains(Trick::Failing, 12);
    // Both do half of what their twin does.
    assert!(
        polite >= 0.44 && polite > 1.02 * failing,
        "{polite}, {failing}"
    );
}

#[test]
fn validators_with_other_traffic_agree() {
    let mut worlds = two_validators(60, 3);
    for world in &mut worlds {
        for _ in 0..8 {
            world.turn();
        }
    }
    let [busy, quiet] = &worlds;
    let of = |profile: Profile| {
        let [one, other] = [busy, quiet].map(|world| world.standing("a profile", profile.clone()));
        agreement(&one.weights, &other.weights)
    };
    let (correlation, apart) = of(Profile::taugate());
    assert!(
        correlation >= 0.99 && apart <= 0.04,
        "{correlation}, {apart}"
    );
    // The proposal's approach 2 pays for what was served.
    let (_, by_queries) = agreement(&busy.served(), &quiet.served());
    assert!(by_queries > 2.0 * apart, "{by_queries}");
}
