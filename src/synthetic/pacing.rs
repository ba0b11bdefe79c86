//! When a cell's next check leaves: what is due is spread over the rest of the period, each
//! wait a little shorter than it need be, the first one anywhere in its span.
//!
//! Moments are parts of the period, 0 to 1, so that a period may last an hour or ten seconds.
//! A wait is not fixed when it begins: when clients do some of what was due, it grows; when
//! they do not come, it shrinks.

use rand::RngExt as _;
use rand::rngs::StdRng;

/// By then everything is to be out, as in Vision 4.0.
const LAST: f64 = 0.98;

/// Checks that follow another leave between this part of the wait and all of it.
const JITTER_LEAST: f64 = 0.95;

/// A check that did not get out is tried again within this part of the period.
const RETRY: f64 = 0.02;

/// A check brings less than it holds, so that what looks covered is not: so many more of them,
/// one after the other, may follow those that leave last.
const ROUNDS: f64 = 4.0;

/// At most this part of the period is kept for that.
const SPARE_MAX: f64 = 0.25;

/// A cell's wait for its next check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// When it began.
    since: f64,
    /// Which part of the span is waited.
    jitter: f64,
    /// The longest that is waited.
    most: f64,
}

// === impl Pace ===

impl Pace {
    /// The wait of a cell that is new to this process: anywhere in the span, so that cells
    /// which begin together do not go on together.
    #[must_use]
    pub fn first(now: f64, rng: &mut StdRng) -> Self {
        Self {
            since: now,
            jitter: rng.random(),
            most: 1.0,
        }
    }

    /// The wait after a check that left now.
    #[must_use]
    pub fn after(now: f64, rng: &mut StdRng) -> Self {
        Self {
            since: now,
            jitter: rng.random_range(JITTER_LEAST..1.0),
            most: 1.0,
        }
    }

    /// The wait after a check that was not sent, or gave its place away.
    #[must_use]
    pub fn retry(now: f64, rng: &mut StdRng) -> Self {
        Self {
            most: RETRY,
            ..Self::first(now, rng)
        }
    }

    /// When the next one leaves, if so many are due; none: never. Each takes about
    /// `takes`: what falls short in the last ones is still to be made up for.
    #[must_use]
    pub fn leaves(&self, checks: u64, takes: f64) -> Option<f64> {
        if checks == 0 {
            return None;
        }
        let until = LAST - (ROUNDS * takes).clamp(0.0, SPARE_MAX);
        let span = (until - self.since).max(0.0) / whole(checks);
        Some(self.jitter.mul_add(span.min(self.most), self.since))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a divisor needs no more digits")]
const fn whole(checks: u64) -> f64 {
    checks as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;

    fn rng(seed: u64) -> StdRng {
        StdRng::seed_from_u64(seed)
    }

    /// When each of so many checks leaves, if nothing changes on the way.
    fn departures(checks: u64, seed: u64) -> Vec<f64> {
        let mut rng = rng(seed);
        let mut pace = Pace::first(0.0, &mut rng);
        let mut all = Vec::new();
        for left in (1..=checks).rev() {
            let at = pace.leaves(left, 0.0).unwrap();
            all.push(at);
            pace = Pace::after(at, &mut rng);
        }
        all
    }

    #[test]
    fn a_single_check_leaves_anywhere_in_the_period() {
        let firsts: Vec<f64> = (0..2000).map(|seed| departures(1, seed)[0]).collect();
        for tenth in 0..9 {
            let (from, to) = (f64::from(tenth) * 0.098, f64::from(tenth + 1) * 0.098);
            let in_it = firsts.iter().filter(|at| (from..to).contains(*at)).count();
            assert!(
                (120..280).contains(&in_it),
                "{in_it} between {from} and {to}"
            );
        }
    }

    #[test]
    fn who_begins_together_does_not_go_on_together() {
        let (one, other) = (departures(16, 1), departures(16, 2));
        let apart = one
            .iter()
            .zip(&other)
            .filter(|(a, b)| (*a - *b).abs() > 1e-4);
        assert!(apart.count() > 12);
    }

    #[test]
    fn clients_work_makes_the_wait_longer_and_its_absence_shorter() {
        let pace = Pace::after(0.2, &mut rng(3));
        let waits: Vec<f64> = [1, 2, 8, 100]
            .into_iter()
            .map(|checks| pace.leaves(checks, 0.0).unwrap())
            .collect();
        assert!(
            waits.is_sorted_by(|sooner, later| sooner > later),
            "{waits:?}"
        );
        assert_eq!(pace.leaves(0, 0.0), None);
    }

    #[test]
    fn a_check_that_did_not_get_out_is_tried_again_soon() {
        for seed in 0..100 {
            let pace = Pace::retry(0.3, &mut rng(seed));
            let at = pace.leaves(1, 0.0).unwrap();
            assert!((0.3..0.3 + RETRY).contains(&at), "{at}");
        }
    }

    proptest! {
        #[test]
        fn all_leave_in_order_and_before_the_period_ends(checks in 1_u64..200, seed: u64) {
            let all = departures(checks, seed);
            prop_assert!(all.is_sorted());
            prop_assert!(all.iter().all(|at| (0.0..=LAST + 1e-9).contains(at)));
            let longest = LAST / whole(checks);
            let gaps = all.windows(2).map(|pair| pair[1] - pair[0]);
            // Spread out, not in a crowd: no gap is much longer than an even one.
            prop_assert!(gaps.fold(0.0, f64::max) <= longest * 2.5 + 1e-9);
        }

        #[test]
        fn time_is_kept_for_slow_checks_and_what_is_late_leaves_at_once(
            since in 0.0..=1.0, takes in 0.0..=1.0, checks in 1_u64..1000, seed: u64,
        ) {
            let pace = Pace::first(since, &mut rng(seed));
            let at = pace.leaves(checks, takes).unwrap();
            let until = LAST - f64::min(ROUNDS * takes, SPARE_MAX);
            prop_assert!(at >= since && at <= until.max(since) + 1e-9);
        }
    }
}
