//! The cells of one period. A table never changes its period: a reservation holds the table
//! it came from, so that a late end can only reach its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::cell::Cell;
use crate::ids::{CellId, Origin};
use crate::period::Period;
use crate::units::Units;

const CHUNK: usize = 1024;

/// Chunks of a table: room for two million cells.
const CHUNKS: usize = 2048;

/// The cells of one period, by number. A cell that nobody touched reads as zero.
pub struct Table {
    period: Period,
    chunks: Box<[OnceLock<Box<[Cell]>>]>,
}

/// The tables of all open periods.
#[derive(Debug)]
pub struct Tables {
    current: ArcSwap<Table>,
    open: Mutex<BTreeMap<Period, Arc<Table>>>,
}

// === impl Table ===

impl Table {
    /// The empty table of a period.
    #[must_use]
    pub fn new(period: Period) -> Self {
        Self {
            period,
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Its period.
    #[must_use]
    pub const fn period(&self) -> Period {
        self.period
    }

    /// Units that a call may reserve now.
    #[must_use]
    pub fn free(&self, cell: CellId) -> Units {
        self.get(cell).map_or(Units::ZERO, Cell::free)
    }

    /// Units that the engine let this process spend.
    #[must_use]
    pub fn granted(&self, cell: CellId) -> Units {
        self.get(cell).map_or(Units::ZERO, Cell::granted)
    }

    /// Units delivered and booked of one origin.
    #[must_use]
    pub fn posted(&self, cell: CellId, origin: Origin) -> Units {
        self.get(cell)
            .map_or(Units::ZERO, |cell| cell.posted(origin))
    }

    /// Units delivered and booked.
    #[must_use]
    pub fn posted_total(&self, cell: CellId) -> Units {
        self.get(cell).map_or(Units::ZERO, Cell::posted_total)
    }

    /// Units held by live reservations.
    #[must_use]
    pub fn reserved(&self, cell: CellId) -> Units {
        self.get(cell).map_or(Units::ZERO, Cell::held)
    }

    /// Live reservations.
    #[must_use]
    pub fn in_flight(&self, cell: CellId) -> u32 {
        self.get(cell).map_or(0, Cell::in_flight)
    }

    /// Units that can still be spent: what is free here and what the engine could still
    /// grant, as last heard.
    #[must_use]
    pub fn left(&self, cell: CellId) -> Units {
        self.get(cell)
            .map_or(Units::ZERO, |cell| cell.free().saturating_add(cell.rest()))
    }

    /// Says what the engine could grant of a cell, before it was ever asked.
    pub fn hint_rest(&self, cell: CellId, rest: Units) {
        if let Some(cell) = self.touch(cell) {
            cell.hint_rest(rest);
        }
    }

    /// Numbers of the cells in chunks that were ever touched.
    pub fn touched(&self) -> impl Iterator<Item = CellId> + '_ {
        let chunks = self
            .chunks
            .iter()
            .enumerate()
            .filter(|(_, chunk)| chunk.get().is_some());
        chunks.flat_map(|(chunk, _)| {
            let first = chunk.saturating_mul(CHUNK);
            (first..first.saturating_add(CHUNK)).filter_map(|at| u32::try_from(at).ok().map(CellId))
        })
    }

    /// A cell, if its chunk was ever touched.
    pub(crate) fn get(&self, cell: CellId) -> Option<&Cell> {
        let (chunk, place) = place(cell);
        self.chunks.get(chunk)?.get()?.get(place)
    }

    /// A cell, its chunk made if need be; `None` beyond the table's room.
    pub(crate) fn touch(&self, cell: CellId) -> Option<&Cell> {
        let (chunk, place) = place(cell);
        let cells = self.chunks.get(chunk)?;
        cells
            .get_or_init(|| (0..CHUNK).map(|_| Cell::new()).collect())
            .get(place)
    }
}

const fn place(cell: CellId) -> (usize, usize) {
    let at = cell.0 as usize;
    (at / CHUNK, at % CHUNK)
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

// === impl Tables ===

impl Tables {
    /// The tables of a process that starts in `first`.
    #[must_use]
    pub fn new(first: Period) -> Self {
        let table = Arc::new(Table::new(first));
        let open = Mutex::new(BTreeMap::from([(first, Arc::clone(&table))]));
        Self {
            current: ArcSwap::new(table),
            open,
        }
    }

    /// The table that new calls are charged to.
    #[must_use]
    pub fn current(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// Opens a period ahead of its turn, or finds it open.
    pub fn open(&self, period: Period) -> Arc<Table> {
        let mut open = self.open.lock();
        let table = open
            .entry(period)
            .or_insert_with(|| Arc::new(Table::new(period)));
        Arc::clone(table)
    }

    /// The table of a period, if it is open.
    #[must_use]
    pub fn get(&self, period: Period) -> Option<Arc<Table>> {
        self.open.lock().get(&period).cloned()
    }

    /// The open periods, oldest first.
    #[must_use]
    pub fn periods(&self) -> Vec<Period> {
        self.open.lock().keys().copied().collect()
    }

    /// Publishes a later period's table; an earlier one is not gone back to.
    pub fn turn(&self, to: Period) {
        let table = self.open(to);
        // Under the lock, so that two turns at once cannot step back.
        let open = self.open.lock();
        if to > self.current.load().period() {
            self.current.store(table);
        }
        drop(open);
    }

    /// Forgets a past period; live reservations keep its table.
    pub fn forget(&self, period: Period) {
        if period < self.current.load().period() {
            self.open.lock().remove(&period);
        }
    }
}
