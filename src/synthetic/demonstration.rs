//! What miners showed in bursts, as rows, and what follows from the newest of them.

use std::cmp::Reverse;
use std::collections::HashMap;

use futures_util::future::BoxFuture;
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::PeriodLength;
use taugate_ledger::units::Units;

use super::burst::{BurstSettings, Window};
use crate::identity::StoreAway;
use crate::registry::snapshot::Shown;
use crate::scoring::profile::CapacityRule;
use crate::scoring::verified::{counted, counting};

/// The newest bursts of a cell that count.
pub const NEWEST: usize = 5;

/// What a cell was asked for and delivered in a window. There is none of a window in which it
/// was asked for less than [`ASKED_MIN`] of its rate: what it did not show there, nobody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demonstration {
    /// The cell.
    pub cell: CellId,
    /// When.
    pub window: Window,
    /// What it was asked for, whether it could take it or not.
    pub asked: Units,
    /// What was delivered within the window, clients' requests included.
    pub units: Units,
}

/// A window counts for a cell that was asked for this part of its rate.
pub const ASKED_MIN: f64 = 0.8;

/// Keeps what was shown.
pub trait DemonstrationStore: Send + Sync + std::fmt::Debug {
    /// Keeps what an incarnation saw; of a window that it has told of already nothing changes.
    fn put_demonstrations(
        &self,
        incarnation: Incarnation,
        rows: Vec<Demonstration>,
    ) -> BoxFuture<'_, Result<(), StoreAway>>;

    /// The newest of each cell, at most so many, each summed over incarnations.
    fn demonstrations(&self, newest: usize)
    -> BoxFuture<'_, Result<Vec<Demonstration>, StoreAway>>;
}

// === impl Demonstration ===

impl Demonstration {
    /// Units a second that it showed.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.units.as_f64() / self.window.length_s()
    }
}

/// What the newest demonstrations of all cells say of each.
#[must_use]
pub fn shown(
    settings: &BurstSettings,
    length: PeriodLength,
    mut rows: Vec<Demonstration>,
) -> HashMap<CellId, Shown> {
    rows.sort_by_key(|row| Reverse(row.window.begins_ms));
    let mut by_cell: HashMap<CellId, Vec<Demonstration>> = HashMap::new();
    for row in rows {
        by_cell.entry(row.cell).or_default().push(row);
    }
    let of_cell = |rows: Vec<Demonstration>| one_shown(settings, length, &rows);
    by_cell
        .into_iter()
        .map(|(cell, rows)| (cell, of_cell(rows)))
        .collect()
}

/// What the demonstrations of one cell say, newest first.
fn one_shown(settings: &BurstSettings, length: PeriodLength, rows: &[Demonstration]) -> Shown {
    let newest = &rows[..rows.len().min(NEWEST)];
    let rates: Vec<(f64, bool)> = newest
        .iter()
        .map(|row| (row.rate(), row.window.common))
        .collect();
    let counting = counting(&rates, NEWEST);
    let rule = CapacityRule::Verified { bursts: NEWEST };
    let period_s = u64::from(length.secs());
    let passes = |row: &Demonstration| row.units >= row.asked.scaled(settings.passes_at);
    let best = newest.iter().map(Demonstration::rate).fold(0.0, f64::max);
    let passes_to = if settings.passes_at > 0.0 {
        Units::new(period_s).scaled(best / settings.passes_at)
    } else {
        Units::MAX
    };
    Shown {
        verified: counted(rule, Units::MAX, &counting, period_s),
        passes_to: if newest.iter().any(passes) {
            Units::MAX
        } else {
            passes_to
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH_S: u32 = 100;

    /// A window of a second, `at` seconds after the first.
    fn row(at: u64, common: bool, asked: u64, units: u64) -> Demonstration {
        Demonstration {
            cell: CellId(7),
            window: Window {
                begins_ms: at * 1000,
                length_ms: 1000,
                common,
            },
            asked: Units::new(asked),
            units: Units::new(units),
        }
    }

    fn of(rows: &[Demonstration]) -> Shown {
        let length = PeriodLength::from_secs(LENGTH_S).unwrap();
        shown(&BurstSettings::default(), length, rows.to_vec())[&CellId(7)]
    }

    #[test]
    fn the_median_of_the_newest_five_common_bursts_is_verified() {
        let rates = [9, 9, 9, 1, 2, 3, 4, 5];
        let rows: Vec<_> = (0..)
            .zip(rates)
            .map(|(at, rate)| row(at, true, 5, rate))
            .collect();
        assert_eq!(of(&rows).verified, Units::new(300));
    }

    #[test]
    fn a_newcomers_own_burst_counts_until_all_were_asked_at_once() {
        let first = row(1, false, 10, 10);
        assert_eq!(of(&[first]).verified, Units::new(1000));
        let shared = row(2, true, 10, 2);
        assert_eq!(of(&[first, shared]).verified, Units::new(200));
    }

    #[test]
    fn half_of_what_was_asked_passes_and_less_passes_for_less() {
        assert_eq!(of(&[row(1, false, 10, 5)]).passes_to, Units::MAX);
        // Four units a second: enough for who declares no more than twice that.
        assert_eq!(of(&[row(1, false, 10, 4)]).passes_to, Units::new(800));
        assert_eq!(of(&[row(1, false, 10, 0)]).passes_to, Units::ZERO);
        // Once is enough, as long as it is one of the newest.
        let mut rows = vec![row(1, true, 10, 5)];
        rows.extend((2..6).map(|at| row(at, true, 10, 1)));
        assert_eq!(of(&rows).passes_to, Units::MAX);
        rows.push(row(6, true, 10, 1));
        assert_eq!(of(&rows).passes_to, Units::new(200));
    }
}
