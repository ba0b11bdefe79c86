//! What routing asks of the books.

use taugate_ledger::ids::CellId;
use taugate_ledger::table::Table;
use taugate_ledger::units::Units;

/// What can still be spent of a cell.
pub trait Balances: Sync {
    /// Units that could be had, from here or from the engine.
    fn left(&self, cell: CellId) -> Units;
    /// Units posted and reserved here.
    fn spent(&self, cell: CellId) -> Units;
}

// === impl Balances ===

impl Balances for Table {
    fn left(&self, cell: CellId) -> Units {
        Self::left(self, cell)
    }

    fn spent(&self, cell: CellId) -> Units {
        self.posted_total(cell).saturating_add(self.reserved(cell))
    }
}
