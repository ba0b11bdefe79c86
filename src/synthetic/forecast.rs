//! What clients are still expected to ask of a cell in the running period, by what they asked
//! in those before and by what they asked in this one so far.
//!
//! It is used in two ways, each on its safe side: room is left for the larger of the two, and
//! only the smaller is counted on to do what checks would do.

use taugate_ledger::units::Units;

/// How much less each older period tells.
const OLDER: f64 = 0.5;

/// A period's own rate says nothing before this part of it has passed.
const SOME: f64 = 0.05;

/// Clients are counted on until this part of the period has passed; then there is still time to
/// make up for what they did not do.
const COUNTED_UNTIL: f64 = 0.8;

/// What is expected of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// What clients ask of it in a whole period; `None`: no period before is known.
    pub whole: Option<Units>,
}

// === impl Forecast ===

impl Forecast {
    /// From what clients got in the periods before, the newest first.
    #[must_use]
    pub fn of(before: &[Units]) -> Self {
        let (mut sum, mut weights, mut weight) = (0.0, 0.0, 1.0);
        for units in before {
            sum += weight * units.as_f64();
            weights += weight;
            weight *= OLDER;
        }
        let known = !before.is_empty();
        Self {
            whole: known.then(|| Units::new(1).scaled(sum / weights)),
        }
    }

    /// The room that checks leave to clients for the rest of the period, of which so large a
    /// part (0 to 1) has passed.
    #[must_use]
    pub fn room(self, organic: Units, passed: f64) -> Units {
        let rest = 1.0 - passed;
        self.by_history(rest)
            .unwrap_or_default()
            .max(by_rate(organic, passed, rest).unwrap_or_default())
    }

    /// What clients are counted on to do while there is time to make up for it. Nothing without a period
    /// before to learn from.
    #[must_use]
    pub fn counted_on(self, organic: Units, passed: f64) -> Units {
        let rest = COUNTED_UNTIL - passed;
        let history = self.by_history(rest).unwrap_or_default();
        by_rate(organic, passed, rest).map_or(history, |rate| rate.min(history))
    }

    fn by_history(self, rest: f64) -> Option<Units> {
        Some(self.whole?.scaled(rest.clamp(0.0, 1.0)))
    }
}

fn by_rate(organic: Units, passed: f64, rest: f64) -> Option<Units> {
    (passed >= SOME).then(|| organic.scaled((rest / passed).max(0.0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(amounts: &[u64]) -> Vec<Units> {
        amounts.iter().copied().map(Units::new).collect()
    }

    #[test]
    fn the_newest_period_tells_most() {
        assert_eq!(Forecast::of(&[]).whole, None);
        let same = Forecast::of(&units(&[500, 500, 500]));
        assert_eq!(same.whole, Some(Units::new(500)));
        let risen = Forecast::of(&units(&[1000, 0])).whole.unwrap();
        assert!((Units::new(666)..=Units::new(667)).contains(&risen));
    }

    #[test]
    fn nothing_is_counted_on_that_neither_this_period_nor_those_before_have_shown() {
        let none = Forecast::default();
        assert_eq!(none.counted_on(Units::new(900), 0.5), Units::ZERO);
        let busy = Forecast::of(&units(&[1000]));
        assert_eq!(busy.counted_on(Units::ZERO, 0.5), Units::ZERO);
        assert_eq!(busy.counted_on(Units::new(400), 0.4), Units::new(400));
        assert_eq!(busy.counted_on(Units::new(5_000), 0.4), Units::new(400));
        assert_eq!(busy.counted_on(Units::ZERO, 0.0), Units::new(800));
        assert_eq!(busy.counted_on(Units::new(500), 0.8), Units::ZERO);
    }

    #[test]
    fn room_is_left_for_what_either_of_them_shows() {
        let busy = Forecast::of(&units(&[1000]));
        assert_eq!(busy.room(Units::ZERO, 0.25), Units::new(750));
        assert_eq!(busy.room(Units::new(2_000), 0.5), Units::new(2_000));
        assert_eq!(
            Forecast::default().room(Units::new(300), 0.75),
            Units::new(100)
        );
    }

    proptest! {
        #[test]
        fn at_the_end_nothing_is_expected_any_more(
            before in prop::collection::vec(0_u64..1_000_000_000, 0..4),
            organic in 0_u64..1_000_000_000,
        ) {
            let forecast = Forecast::of(&units(&before));
            prop_assert_eq!(forecast.room(Units::new(organic), 1.0), Units::ZERO);
            prop_assert_eq!(forecast.counted_on(Units::new(organic), 1.0), Units::ZERO);
        }

        #[test]
        fn what_is_counted_on_never_exceeds_the_room_that_is_left(
            before in prop::collection::vec(0_u64..1_000_000_000, 0..4),
            organic in 0_u64..1_000_000_000,
            passed in 0.0..=1.0,
        ) {
            let forecast = Forecast::of(&units(&before));
            let organic = Units::new(organic);
            prop_assert!(forecast.counted_on(organic, passed) <= forecast.room(organic, passed));
        }
    }
}
