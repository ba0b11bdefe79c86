//! The reference engine: the rules of the two calls, in memory and in one place, for tests
//! of whatever stands on an engine or beside one.
//!
//! What a database would check itself is checked here as well, apart from the rules, so that
//! a wrong rule fails: `granted <= allotment`, `wanted <= allotment`, `posted <= granted`, a
//! cell's `granted` is the sum of its leases, and a lease's counters are the sum of its
//! receipts.

mod rows;

use std::future::ready;

use self::rows::Rows;
pub use self::rows::{CheckFailed, ModelCell, ModelLease};
use crate::engine::{
    AppendAsk, AppendError, AppendReply, BoxFuture, Engine, ExchangeAsk, ExchangeError,
    ExchangeReply,
};
use crate::ids::{CellId, Incarnation, Origin};
use crate::period::Period;
use crate::receipt::{Outcome, Receipt};
use crate::sync::Mutex;
use crate::units::Units;

/// An engine in memory. It keeps all that it acknowledged, and has no clock: a period is open
/// for exchanges from its first cell until [`ModelStore::end_period`].
#[derive(Debug, Default)]
pub struct ModelStore {
    rows: Mutex<Rows>,
}

/// All rows as they stood once: to try what a restored backup or a lost tail of commits does.
#[derive(Clone, Debug)]
pub struct Snapshot(Rows);

// === impl ModelStore ===

impl ModelStore {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine whose next incarnation is the one after this: to stand beside another.
    #[must_use]
    pub fn continuing(last: Incarnation) -> Self {
        let rows = Rows {
            last: last.0,
            ..Rows::default()
        };
        Self {
            rows: Mutex::new(rows),
        }
    }

    /// Starts an incarnation of a gateway.
    pub fn new_incarnation(&self, gateway: &str) -> Incarnation {
        let mut rows = self.rows.lock();
        rows.last = rows.last.saturating_add(1);
        let inc = Incarnation(rows.last);
        rows.live.insert(inc);
        rows.gateways.insert(inc, gateway.into());
        inc
    }

    /// Makes a cell in a period, or sets what it may be spent to.
    ///
    /// # Errors
    /// When a check fails.
    pub fn open_cell(
        &self,
        period: Period,
        cell: CellId,
        wanted: Units,
    ) -> Result<(), CheckFailed> {
        self.set_wanted(period, cell, wanted)
    }

    /// Sets what a cell may be spent to. The only call that raises an allotment; what was
    /// granted before a cut stands.
    ///
    /// # Errors
    /// When a check fails.
    pub fn set_wanted(
        &self,
        period: Period,
        cell: CellId,
        wanted: Units,
    ) -> Result<(), CheckFailed> {
        let mut rows = self.rows.lock();
        let row = rows.cells.entry((period, cell)).or_default();
        let before = *row;
        row.wanted = wanted;
        row.allotment = wanted.max(row.granted);
        let checked = rows.check_cell(period, cell);
        if checked.is_err() {
            rows.cells.insert((period, cell), before);
        }
        checked
    }

    /// No exchange of a period is answered any more.
    pub fn end_period(&self, period: Period) {
        self.rows.lock().ended.insert(period);
    }

    /// Commits of a period may be lost: no grant of it is raised any more.
    pub fn freeze(&self, period: Period) {
        self.rows.lock().frozen.insert(period);
    }

    /// All rows as they stand.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.rows.lock().clone())
    }

    /// Goes back to an earlier state. No number of an incarnation is given twice for that.
    pub fn restore(&self, to: Snapshot) {
        let mut rows = self.rows.lock();
        let last = rows.last;
        *rows = to.0;
        rows.last = last;
    }

    /// Raises or lowers what an incarnation may spend: all cells of an ask or none.
    ///
    /// # Errors
    /// As an engine's. A failed check is [`ExchangeError::LostCommits`].
    pub fn exchange(&self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError> {
        let mut rows = self.rows.lock();
        rows.undoing_leases(|rows| rows.exchange(ask))
    }

    /// Takes receipts: all of an ask or none.
    ///
    /// # Errors
    /// As an engine's. A failed check is [`AppendError::BeyondGrant`].
    pub fn append(&self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
        let mut rows = self.rows.lock();
        rows.undoing_leases(|rows| rows.append(ask))
    }

    /// Says that nothing of an incarnation is open in a period.
    ///
    /// # Errors
    /// When the incarnation was closed.
    pub fn close_period(&self, inc: Incarnation, period: Period) -> Result<(), ExchangeError> {
        let mut rows = self.rows.lock();
        rows.fence(inc)?;
        rows.closed.insert((period, inc));
        Ok(())
    }

    /// Ends an incarnation; repeating it changes nothing.
    ///
    /// # Errors
    /// When there was never such an incarnation.
    pub fn close(&self, inc: Incarnation) -> Result<(), ExchangeError> {
        let mut rows = self.rows.lock();
        if inc.0 == 0 || inc.0 > rows.last {
            return Err(ExchangeError::Fenced);
        }
        rows.live.remove(&inc);
        Ok(())
    }

    /// A cell.
    #[must_use]
    pub fn cell(&self, period: Period, cell: CellId) -> Option<ModelCell> {
        self.rows.lock().cells.get(&(period, cell)).copied()
    }

    /// A lease.
    #[must_use]
    pub fn lease(&self, period: Period, cell: CellId, inc: Incarnation) -> Option<ModelLease> {
        self.rows.lock().leases.get(&(period, cell, inc)).copied()
    }

    /// An incarnation's receipts of a period, in order.
    #[must_use]
    pub fn receipts(&self, period: Period, inc: Incarnation) -> Vec<Receipt> {
        let rows = self.rows.lock();
        let kept = rows.receipts.get(&(period, inc)).into_iter().flatten();
        kept.map(|receipt| Receipt::clone(receipt)).collect()
    }

    /// Attempts of a cell that ended so.
    #[must_use]
    pub fn tally(&self, period: Period, cell: CellId, origin: Origin, outcome: Outcome) -> u64 {
        let rows = self.rows.lock();
        let key = (period, cell, origin, outcome);
        rows.tallies.get(&key).copied().unwrap_or(0)
    }

    /// Tries every check on all that is kept.
    ///
    /// # Errors
    /// Names the first that fails.
    pub fn check(&self) -> Result<(), CheckFailed> {
        let rows = self.rows.lock();
        rows.cells
            .keys()
            .try_for_each(|(period, cell)| rows.check_cell(*period, *cell))?;
        rows.check_counters()
    }
}

impl Engine for ModelStore {
    fn exchange(&self, ask: ExchangeAsk) -> BoxFuture<'_, Result<ExchangeReply, ExchangeError>> {
        Box::pin(ready(Self::exchange(self, &ask)))
    }

    fn append(&self, ask: AppendAsk) -> BoxFuture<'_, Result<AppendReply, AppendError>> {
        Box::pin(ready(Self::append(self, &ask)))
    }

    fn close_period(
        &self,
        incarnation: Incarnation,
        period: Period,
    ) -> BoxFuture<'_, Result<(), ExchangeError>> {
        Box::pin(ready(Self::close_period(self, incarnation, period)))
    }

    fn close(&self, incarnation: Incarnation) -> BoxFuture<'_, Result<(), ExchangeError>> {
        Box::pin(ready(Self::close(self, incarnation)))
    }
}
