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
