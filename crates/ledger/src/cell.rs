//! A cell: one miner's (or ceiling's, or client's) units of one task and period, as this
//! process holds them. One cache line, no lock.
//!
//! `granted = posted + reserved + free`. What may be reserved stands in one word, `free`;
//! whoever lowers it by compare-and-swap owns what it took. `held` counts the same units a
//! second time, from the side of the reservations, so that the audit has something to
//! compare.

use crate::ids::Origin;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::Units;

/// One cell.
#[repr(align(64))]
#[derive(Debug)]
pub(crate) struct Cell {
    free: AtomicU64,
    granted: AtomicU64,
    posted: [AtomicU64; 2],
    held: AtomicU64,
    /// What the engine could still grant, as last heard; a hint for routing.
    rest: AtomicU64,
    in_flight: AtomicU32,
}

/// Four words that were read one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) granted: Units,
    pub(crate) posted: Units,
    pub(crate) held: Units,
    pub(crate) free: Units,
}

// === impl Cell ===

impl Cell {
    pub(crate) fn new() -> Self {
        Self {
            free: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            posted: [AtomicU64::new(0), AtomicU64::new(0)],
            held: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
        }
    }

    pub(crate) fn free(&self) -> Units {
        Units::new(self.free.load(Ordering::Acquire))
    }

    pub(crate) fn granted(&self) -> Units {
        Units::new(self.granted.load(Ordering::Acquire))
    }

    pub(crate) fn posted(&self, origin: Origin) -> Units {
        let [organic, synthetic] = &self.posted;
        let word = match origin {
            Origin::Organic => organic,
            Origin::Synthetic => synthetic,
        };
        Units::new(word.load(Ordering::Acquire))
    }

    pub(crate) fn posted_total(&self) -> Units {
        Origin::ALL
            .into_iter()
            .map(|origin| self.posted(origin))
            .sum()
    }

    pub(crate) fn held(&self) -> Units {
        Units::new(self.held.load(Ordering::Acquire))
    }

    pub(crate) fn rest(&self) -> Units {
        Units::new(self.rest.load(Ordering::Relaxed))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn read(&self) -> Reading {
        Reading {
            granted: self.granted(),
            posted: self.posted_total(),
            held: self.held(),
            free: self.free(),
        }
    }

    /// Moves units from free to reserved; all or nothing. Says what was free.
    pub(crate) fn reserve(&self, units: Units) -> Result<(), Units> {
        self.take(units)?;
        self.held.fetch_add(units.get(), Ordering::AcqRel);
        Ok(())
    }

    /// Moves reserved units: some to posted, some back to free. Both were reserved.
    pub(crate) fn settle(&self, origin: Origin, posted: Units, back: Units) {
        let [organic, synthetic] = &self.posted;
        let word = match origin {
            Origin::Organic => organic,
            Origin::Synthetic => synthetic,
        };
        // Posted rises before anything is given back: whoever reads in between sees less
        // free than there is, never more.
        word.fetch_add(posted.get(), Ordering::AcqRel);
        self.held
            .fetch_sub(posted.saturating_add(back).get(), Ordering::AcqRel);
        if !back.is_zero() {
            self.free.fetch_add(back.get(), Ordering::AcqRel);
        }
    }

    /// The engine granted more.
    pub(crate) fn raise(&self, units: Units) {
        self.granted.fetch_add(units.get(), Ordering::AcqRel);
        self.free.fetch_add(units.get(), Ordering::AcqRel);
    }

    /// Takes up to so many free units out of what is granted, to give them back to the
    /// engine. Done before the engine is asked: afterwards would be too late.
    pub(crate) fn lower(&self, most: Units) -> Units {
        loop {
            let taken = self.free().min(most);
            if taken.is_zero() {
                return taken;
            }
            if self.take(taken).is_ok() {
                self.granted.fetch_sub(taken.get(), Ordering::AcqRel);
                return taken;
            }
        }
    }

    pub(crate) fn hint_rest(&self, rest: Units) {
        self.rest.store(rest.get(), Ordering::Relaxed);
    }

    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    fn take(&self, units: Units) -> Result<(), Units> {
        let mut free = self.free.load(Ordering::Acquire);
        loop {
            let Some(left) = free.checked_sub(units.get()) else {
                return Err(Units::new(free));
            };
            let swapped =
                self.free
                    .compare_exchange_weak(free, left, Ordering::AcqRel, Ordering::Acquire);
            match swapped {
                Ok(_) => return Ok(()),
                Err(now) => free = now,
            }
        }
    }
}
