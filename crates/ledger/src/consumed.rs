//! What a consumer of counters keeps.
//!
//! Counters are told as absolute totals with a revision that rises with each change. Of each
//! the consumer keeps the newest that it heard, and sums over them. So loss, repetition and
//! another order change nothing in the end; who adds up differences comes to other totals as
//! soon as one message is lost or doubled.

use std::collections::BTreeMap;

use crate::units::Units;

/// The newest that was heard of each counter. `K` names a counter: incarnation, period,
/// miner, task and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumed<K>(BTreeMap<K, Heard>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    rev: u64,
    units: Units,
}

// === impl Consumed ===

impl<K> Default for Consumed<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Consumed<K> {
    /// Takes a counter as it was told.
    pub fn heed(&mut self, counter: K, rev: u64, units: Units) {
        let heard = self.0.entry(counter).or_insert(Heard {
            rev: 0,
            units: Units::ZERO,
        });
        if rev > heard.rev {
            *heard = Heard { rev, units };
        }
    }

    /// What is known of each counter.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Units)> {
        self.0.iter().map(|(counter, heard)| (counter, heard.units))
    }

    /// The sum over all counters.
    #[must_use]
    pub fn total(&self) -> Units {
        self.iter().map(|(_, units)| units).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_repetition_and_order_change_nothing() {
        let told = [
            ("a", 1, 5),
            ("a", 2, 9),
            ("b", 1, 4),
            ("a", 3, 11),
            ("b", 2, 4),
        ];
        let kept = |order: &[usize]| {
            let mut consumed = Consumed::default();
            for at in order {
                let (counter, rev, units) = told[*at];
                consumed.heed(counter, rev, Units::new(units));
            }
            consumed.total()
        };
        for order in [
            &[0, 1, 2, 3, 4][..],
            &[3, 4, 1, 0, 2],
            &[3, 3, 4, 4, 0, 0],
            &[4, 3],
        ] {
            assert_eq!(kept(order), Units::new(15), "{order:?}");
        }
    }
}
