//! Compares what each cell says with what reservations hold of it.

use crate::cell::Reading;
use crate::ids::CellId;
use crate::period::Period;
use crate::table::Table;
use crate::units::Units;

/// A cell whose books do not close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The period.
    pub period: Period,
    /// The cell.
    pub cell: CellId,
    /// What the engine granted.
    pub granted: Units,
    /// What posted, reserved and free come to.
    pub found: Units,
}

/// Remembers what audits found, to tell a divergence from a call between two steps.
#[derive(Debug, Default)]
pub struct Auditor {
    at_ms: u64,
    last: Vec<Divergence>,
    standing: Vec<Divergence>,
}

/// The cells of a table that do not close. A cell in motion is read again until it stands
/// still for a moment; one that never does is left for the next time.
#[must_use]
pub fn audit(table: &Table) -> Vec<Divergence> {
    table
        .touched()
        .filter_map(|cell| look(table, cell))
        .collect()
}

fn look(table: &Table, id: CellId) -> Option<Divergence> {
    const READINGS: usize = 16;
    let cell = table.get(id)?;
    let mut before = cell.read();
    for _ in 0..READINGS {
        let found = sum(before);
        if found == before.granted {
            return None;
        }
        let now = cell.read();
        if now == before {
            return Some(Divergence {
                period: table.period(),
                cell: id,
                granted: now.granted,
                found,
            });
        }
        before = now;
    }
    None
}

fn sum(reading: Reading) -> Units {
    reading
        .posted
        .saturating_add(reading.held)
        .saturating_add(reading.free)
}

// === impl Auditor ===

impl Auditor {
    /// Takes what [`audit`] found in all open tables; says what has stood unchanged since a
    /// look well before. A call that is between two of its steps looks like a divergence for
    /// a moment; two looks well apart do not meet it at the same place.
    pub fn look(&mut self, now_ms: u64, found: Vec<Divergence>) -> Vec<Divergence> {
        const APART_MS: u64 = 500;
        let stands = |before: &[Divergence]| -> Vec<Divergence> {
            let same = |now: &Divergence| before.iter().any(|then| then.is_same(now));
            found.iter().filter(|now| same(now)).copied().collect()
        };
        if now_ms.abs_diff(self.at_ms) < APART_MS {
            return stands(&self.standing);
        }
        self.standing = stands(&self.last);
        (self.last, self.at_ms) = (found, now_ms);
        self.standing.clone()
    }
}

// === impl Divergence ===

impl Divergence {
    /// The same cell is off by the same amount; what is granted of it may have moved.
    fn is_same(&self, other: &Self) -> bool {
        let off = |it: &Self| {
            (
                it.granted > it.found,
                it.granted.get().abs_diff(it.found.get()),
            )
        };
        (self.period, self.cell, off(self)) == (other.period, other.cell, off(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(granted: u64, found: u64) -> Vec<Divergence> {
        vec![Divergence {
            period: Period::starting_at(0),
            cell: CellId(1),
            granted: Units::new(granted),
            found: Units::new(found),
        }]
    }

    #[test]
    fn a_divergence_counts_when_two_looks_well_apart_agree() {
        let mut auditor = Auditor::default();
        assert!(auditor.look(10_000, off(10, 9)).is_empty());
        assert!(auditor.look(10_100, off(10, 9)).is_empty(), "too soon");
        assert!(auditor.look(11_000, off(10, 8)).is_empty(), "another");
        assert_eq!(auditor.look(12_000, off(20, 18)), off(20, 18));
        assert_eq!(auditor.look(12_001, off(20, 18)), off(20, 18));
        assert!(auditor.look(12_002, Vec::new()).is_empty());
        assert!(auditor.look(13_000, Vec::new()).is_empty());
    }
}
