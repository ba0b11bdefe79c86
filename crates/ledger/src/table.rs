//! The cells of one period. A table never changes its period: a reservation holds the table
//! it came from, so that a late end can only reach its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::cell::Cell;
use crate::ids::{CellId, Origin};
use crate::period::Period;
use crate::sync::{ArcSwap, Mutex};
use crate::units::Units;

/// How many cells a table has room for. They are made in chunks, when first touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Cells of a chunk, as a power of two.
    chunk_bits: u32,
    chunks: usize,
}

/// The cells of one period, by number. A cell that nobody touched reads as zero.
pub struct Table {
    period: Period,
    room: Room,
    chunks: Box<[OnceLock<Box<[Cell]>>]>,
}

/// The tables of all open periods.
#[derive(Debug)]
pub struct Tables {
    room: Room,
    current: ArcSwap<Table>,
    open: Mutex<BTreeMap<Period, Arc<Table>>>,
}

// === impl Room ===

impl Room {
    /// At least so many cells.
    #[must_use]
    pub fn of(cells: u32) -> Self {
        const CHUNK: u32 = 1024;
        let chunk = cells.clamp(1, CHUNK).next_power_of_two();
        Self {
            chunk_bits: chunk.trailing_zeros(),
            chunks: cells.div_ceil(chunk).max(1) as usize,
        }
    }

    const fn chunk(self) -> usize {
        1 << self.chunk_bits
    }

    /// The chunk of a cell, and its place in it.
    const fn place(self, cell: CellId) -> (usize, usize) {
        let at = cell.0 as usize;
        (at >> self.chunk_bits, at & !(usize::MAX << self.chunk_bits))
    }
}

impl Default for Room {
    /// Two million cells.
    fn default() -> Self {
        Self::of(1 << 21)
    }
}

// === impl Table ===

impl Table {
    /// The empty table of a period.
    #[must_use]
    pub fn new(period: Period, room: Room) -> Self {
        Self {
            period,
            room,
            chunks: (0..room.chunks).map(|_| OnceLock::new()).collect(),
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

    /// [`Table::left`], and units posted and reserved here, by one look.
    #[must_use]
    pub fn left_and_spent(&self, cell: CellId) -> (Units, Units) {
        let Some(cell) = self.get(cell) else {
            return (Units::ZERO, Units::ZERO);
        };
        let left = cell.free().saturating_add(cell.rest());
        (left, cell.posted_total().saturating_add(cell.held()))
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
        let size = self.room.chunk();
        chunks.flat_map(move |(chunk, _)| {
            let first = chunk.saturating_mul(size);
            (first..first.saturating_add(size)).filter_map(|at| u32::try_from(at).ok().map(CellId))
        })
    }

    /// A cell, if its chunk was ever touched.
    pub(crate) fn get(&self, cell: CellId) -> Option<&Cell> {
        let (chunk, place) = self.room.place(cell);
        self.chunks.get(chunk)?.get()?.get(place)
    }

    /// A cell, its chunk made if need be; `None` beyond the table's room.
    pub(crate) fn touch(&self, cell: CellId) -> Option<&Cell> {
        let (chunk, place) = self.room.place(cell);
        let cells = self.chunks.get(chunk)?;
        cells
            .get_or_init(|| (0..self.room.chunk()).map(|_| Cell::new()).collect())
            .get(place)
    }
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
        Self::with_room(first, Room::default())
    }

    /// The same for a number of cells that is known.
    #[must_use]
    pub fn with_room(first: Period, room: Room) -> Self {
        let table = Arc::new(Table::new(first, room));
        let open = Mutex::new(BTreeMap::from([(first, Arc::clone(&table))]));
        Self {
            room,
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
            .or_insert_with(|| Arc::new(Table::new(period, self.room)));
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
