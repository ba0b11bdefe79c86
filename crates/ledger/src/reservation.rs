//! A reservation: units taken from every cell that a call is charged to, all or nothing.
//! It moves, it ends once, and dropping it posts what was delivered and gives back the rest.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::ids::{CellId, Origin};
use crate::table::Table;
use crate::units::Units;

/// Units of several cells, held for one call.
///
/// ```compile_fail
/// # use taugate_ledger::{reservation::*, units::Units};
/// fn twice(held: Reservation) {
///     held.post(Units::ZERO);
///     held.void(Cause::Failover); // a reservation ends once
/// }
/// ```
#[derive(Debug)]
#[must_use = "dropping a reservation ends it"]
pub struct Reservation {
    table: Arc<Table>,
    cells: SmallVec<[CellId; 3]>,
    origin: Origin,
    /// All that was taken, posted parts included.
    reserved: Units,
    delivered: Units,
    posted: Units,
    ended: bool,
}

/// Why a reservation gives everything back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Another miner is tried.
    Failover,
    /// The client left.
    Cancelled,
    /// The attempt failed.
    Failed,
    /// The request was refused.
    Refused,
    /// The gateway ends.
    Drained,
}

/// A reservation that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Units that were booked.
    pub posted: Units,
}

/// Nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// A cell has too little free.
    #[error("cell {cell:?} lacks {lacking} units")]
    Short {
        /// The cell.
        cell: CellId,
        /// What it lacks.
        lacking: Units,
    },
}

/// More was delivered than is held, or less than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("delivered units must grow within what is reserved")]
pub struct DeliverError;

/// A void came too late: a part was posted. What was delivered is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part was posted; {posted} units stand")]
pub struct VoidRefused {
    /// Units that were booked.
    pub posted: Units,
}

// === impl Reservation ===

impl Reservation {
    /// Takes units from every cell, or from none.
    ///
    /// # Errors
    /// Names the first cell that has too little free, and what it lacks.
    pub fn take(
        table: &Arc<Table>,
        cells: &[CellId],
        units: Units,
        origin: Origin,
    ) -> Result<Self, ReserveError> {
        take_all(table, cells, units)?;
        for cell in cells.iter().filter_map(|cell| table.get(*cell)) {
            cell.enter();
        }
        Ok(Self {
            table: Arc::clone(table),
            cells: cells.iter().copied().collect(),
            origin,
            reserved: units,
            delivered: Units::ZERO,
            posted: Units::ZERO,
            ended: false,
        })
    }

    /// The table that it came from.
    #[must_use]
    pub const fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The cells that it holds, as they were given.
    #[must_use]
    pub fn cells(&self) -> &[CellId] {
        &self.cells
    }

    /// All units taken, posted parts included.
    #[must_use]
    pub const fn reserved(&self) -> Units {
        self.reserved
    }

    /// Units delivered so far.
    #[must_use]
    pub const fn delivered(&self) -> Units {
        self.delivered
    }

    /// Units posted so far, in parts.
    #[must_use]
    pub const fn posted(&self) -> Units {
        self.posted
    }

    /// Takes more, from every cell or from none.
    ///
    /// # Errors
    /// As [`Reservation::take`]; what was held stays held.
    pub fn extend(&mut self, by: Units) -> Result<(), ReserveError> {
        take_all(&self.table, &self.cells, by)?;
        self.reserved = self.reserved.saturating_add(by);
        Ok(())
    }

    /// Says how many units were delivered in all.
    ///
    /// # Errors
    /// When that is more than is held, or less than was said before; nothing changes then.
    pub fn deliver(&mut self, total: Units) -> Result<(), DeliverError> {
        if total > self.reserved || total < self.delivered {
            return Err(DeliverError);
        }
        self.delivered = total;
        Ok(())
    }

    /// Posts what was delivered so far; says what is posted in all.
    pub fn post_part(&mut self) -> Units {
        let part = self.delivered.saturating_sub(self.posted);
        self.settle(part, Units::ZERO);
        self.posted = self.delivered;
        self.posted
    }

    /// Posts so many units in all and gives back the rest. Never less than was posted in
    /// parts, never more than is held.
    pub fn post(mut self, total: Units) -> Settled {
        self.delivered = total.min(self.reserved).max(self.posted);
        self.end()
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// When a part was posted already; then what was delivered is posted.
    pub fn void(mut self, _: Cause) -> Result<Settled, VoidRefused> {
        if !self.posted.is_zero() {
            let Settled { posted } = self.end();
            return Err(VoidRefused { posted });
        }
        self.delivered = Units::ZERO;
        Ok(self.end())
    }

    /// The one exit.
    fn end(&mut self) -> Settled {
        if !self.ended {
            self.ended = true;
            let last = self.delivered.saturating_sub(self.posted);
            let back = self.reserved.saturating_sub(self.delivered);
            self.settle(last, back);
            self.posted = self.delivered;
            for cell in self.cells.iter().filter_map(|cell| self.table.get(*cell)) {
                cell.leave();
            }
        }
        Settled {
            posted: self.posted,
        }
    }

    fn settle(&self, posted: Units, back: Units) {
        for cell in self.cells.iter().filter_map(|cell| self.table.get(*cell)) {
            cell.settle(self.origin, posted, back);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes from every cell, or gives back what it took. No order is needed for that: nobody
/// waits while holding.
fn take_all(table: &Table, cells: &[CellId], units: Units) -> Result<(), ReserveError> {
    for (done, cell) in cells.iter().enumerate() {
        let taken = table
            .touch(*cell)
            .map_or(Err(Units::ZERO), |cell| cell.reserve(units));
        if let Err(free) = taken {
            for cell in cells.iter().take(done).filter_map(|cell| table.get(*cell)) {
                cell.settle(Origin::Organic, Units::ZERO, units);
            }
            return Err(ReserveError::Short {
                cell: *cell,
                lacking: units.saturating_sub(free),
            });
        }
    }
    Ok(())
}
