//! What of checks is durable: who plans, and what was drawn. What is due is derived from these
//! rows and the books, so that a restart in mid-period goes on where it was.

use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::draw::Part;
use crate::identity::StoreAway;

/// The right to plan. A newer one fences those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// What was drawn for a cell in a period; once, whoever asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The cell.
    pub cell: CellId,
    /// The part of its allotment that is to be checked.
    pub part: Part,
    /// It had shown nothing yet when that was drawn.
    pub newcomer: bool,
}

/// How often checks of a cell were tried, those that were cancelled left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// However they ended.
    pub all: u64,
    /// Good.
    pub good: u64,
}

/// What the store knows of a cell in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellBooks {
    /// The cell.
    pub cell: CellId,
    /// Posted for clients by other incarnations; this one's own units stand in its table.
    pub organic: Units,
    /// Posted for checks by other incarnations.
    pub synthetic: Units,
    /// Checks of other incarnations.
    pub others: Attempts,
    /// Checks of this one, as far as their receipts are durable.
    pub own: Attempts,
}

/// What clients got of a cell in a period before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// How many known periods ago: 0 is the last one.
    pub ago: usize,
    /// The cell.
    pub cell: CellId,
    /// Units.
    pub organic: Units,
}

/// Keeps who plans and what was drawn, and reads the books for it.
pub trait PlanStore: Send + Sync + std::fmt::Debug {
    /// Takes a new term, by compare-and-swap. `None` while another incarnation that may still
    /// live holds one which it was seen with less than so many milliseconds ago.
    fn take_term(
        &self,
        own: Incarnation,
        silent_ms: u64,
    ) -> BoxFuture<'_, Result<Option<Term>, StoreAway>>;

    /// Says that the term's holder lives. `false`: there is a newer one.
    fn keep_term(&self, term: Term) -> BoxFuture<'_, Result<bool, StoreAway>>;

    /// Whether there is no newer term.
    fn term_stands(&self, term: Term) -> BoxFuture<'_, Result<bool, StoreAway>>;

    /// Writes what was drawn for cells that have nothing drawn yet, and answers what stands of
    /// all of them. Whether a cell is a newcomer the store knows, whatever is said. `None`, and
    /// nothing is written, when there is a newer term.
    fn draw(
        &self,
        term: Term,
        period: Period,
        drawn: Vec<(CellId, Part)>,
    ) -> BoxFuture<'_, Result<Option<Vec<Drawn>>, StoreAway>>;

    /// All cells of which anything is booked in a period, seen from one incarnation.
    fn cell_books(
        &self,
        period: Period,
        own: Incarnation,
    ) -> BoxFuture<'_, Result<Vec<CellBooks>, StoreAway>>;

    /// What clients got in the last so many known periods before this one, and how many these
    /// are: a cell that is not named got nothing in them.
    fn organic_before(
        &self,
        period: Period,
        periods: usize,
    ) -> BoxFuture<'_, Result<(usize, Vec<Before>), StoreAway>>;
}
