//! What routing asks of the books.

use taugate_ledger::ids::CellId;
use taugate_ledger::table::Table;
use taugate_ledger::units::Units;

/// What can still be spent of cells.
pub trait Balances: Sync {
    /// What a cell has come to.
    fn balance(&self, cell: CellId) -> Balance;
}

/// What a cell has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Units that could be had, from here or from the engine.
    pub left: Units,
    /// Units posted and reserved here.
    pub spent: Units,
}

// === impl Balances ===

impl Balances for Table {
    fn balance(&self, cell: CellId) -> Balance {
        let (left, spent) = self.left_and_spent(cell);
        Balance { left, spent }
    }
}
