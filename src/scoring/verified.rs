//! What of a declaration was shown. A declaration is a claim; a burst at its rate is a proof.

use taugate_ledger::units::Units;

use super::profile::CapacityRule;

/// What of an allotment counts, units a period.
///
/// `bursts` are the rates that a miner showed when all miners were asked at once, units a
/// second, newest first. The median of the newest of them holds, for one lucky burst proves
/// little; but no more than their mean, for else a machine behind several hotkeys would be paid
/// for five thirds of itself by letting each answer in three windows of five. A miner without a
/// burst has shown nothing.
#[must_use]
pub fn counted(rule: CapacityRule, allotment: Units, bursts: &[f64], period_s: u64) -> Units {
    allotment.min(shown(rule, allotment, bursts, period_s))
}

/// What was shown, units a period, be it more than the allotment; the allotment where nothing
/// has to be shown.
#[must_use]
pub fn shown(rule: CapacityRule, allotment: Units, bursts: &[f64], period_s: u64) -> Units {
    match rule {
        CapacityRule::Declared => allotment,
        CapacityRule::Verified { bursts: newest } => {
            let newest = &bursts[..bursts.len().min(newest)];
            Units::new(period_s).scaled(median(newest).min(mean(newest)))
        }
    }
}

/// The rates that count, of all that were shown, newest first, each with whether its window was
/// common to all miners.
///
/// A machine behind several hotkeys that come one by one shows all of itself for each; it does
/// not where all are asked at once. So common windows count alone as soon as there is one among
/// the newest; until then those of newcomers do.
#[must_use]
pub fn counting(rates: &[(f64, bool)], newest: usize) -> Vec<f64> {
    let newest = &rates[..rates.len().min(newest)];
    let any = newest.iter().any(|(_, common)| *common);
    let counting = newest.iter().filter(|(_, common)| *common == any);
    counting.map(|(rate, _)| *rate).collect()
}

/// 0 of nothing. Rates that are no number, or below zero, are none.
fn mean(rates: &[f64]) -> f64 {
    let count = f64::from(u32::try_from(rates.len()).unwrap_or(u32::MAX));
    let sum: f64 = rates.iter().map(|rate| rate.max(0.0)).sum();
    if count > 0.0 { sum / count } else { 0.0 }
}

/// The middle one, or the mean of the middle two; 0 of nothing. Rates that are no number, or
/// below zero, are none.
fn median(rates: &[f64]) -> f64 {
    let mut rates: Vec<f64> = rates
        .iter()
        .map(|rate| if rate.is_nan() { 0.0 } else { rate.max(0.0) })
        .collect();
    rates.sort_by(f64::total_cmp);
    let middle = rates.len() / 2;
    match (rates.len().is_multiple_of(2), rates.get(middle)) {
        (_, None) => 0.0,
        (false, Some(rate)) => *rate,
        (true, Some(upper)) => f64::midpoint(rates[middle - 1], *upper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: CapacityRule = CapacityRule::Verified { bursts: 5 };

    /// A miner declares a hundred and serves ten.
    #[test]
    fn n36_declaring_more_than_was_shown_gains_nothing() {
        let honest = counted(RULE, Units::new(36_000), &[10.0; 5], 3600);
        let boasting = counted(RULE, Units::new(360_000), &[10.0; 5], 3600);
        assert_eq!(honest, Units::new(36_000));
        assert_eq!(boasting, honest);
        let declared = counted(CapacityRule::Declared, Units::new(360_000), &[10.0], 3600);
        assert_eq!(declared, Units::new(360_000), "as Vision had it");
    }

    #[test]
    fn common_windows_count_alone_as_soon_as_there_is_one() {
        let mut rates = vec![(9.0, false), (8.0, false)];
        assert_eq!(counting(&rates, 5), [9.0, 8.0]);
        rates.insert(0, (2.0, true));
        assert_eq!(counting(&rates, 5), [2.0]);
        rates.insert(0, (3.0, false));
        assert_eq!(counting(&rates, 1), [3.0], "the newest only");
    }

    #[test]
    fn the_median_of_the_newest_bursts_holds() {
        let of = |bursts: &[f64]| counted(RULE, Units::new(1_000_000), bursts, 100).get();
        assert_eq!(of(&[]), 0, "nothing was shown");
        assert_eq!(of(&[3.0]), 300);
        assert_eq!(of(&[1.0, 4.0]), 250);
        assert_eq!(of(&[1.0, 9.0, 2.0, 900.0, 3.0, 1e9, 1e9, 1e9]), 300);
        assert_eq!(of(&[9.0, 9.0, 9.0, 0.0, 0.0]), 540, "no more than the mean");
        assert_eq!(of(&[f64::NAN, -5.0, f64::INFINITY]), 0);
        assert_eq!(
            of(&[f64::INFINITY; 3]),
            1_000_000,
            "no more than the allotment"
        );
    }
}
