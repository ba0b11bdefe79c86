//! The reference engine: the rules of the two calls, in memory and in one place, for tests
//! of whatever stands on an engine or beside one.
//!
//! What a database would check itself is checked here as well, apart from the rules, so that
//! a wrong rule fails: `granted <= allotment`, `wanted <= allotment`, `posted <= granted`, and
//! a cell's `granted` is the sum of its leases.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::{
    AppendAsk, AppendError, AppendReply, BoxFuture, CellAsk, CellGrant, Engine, ExchangeAsk,
    ExchangeError, ExchangeReply,
};
use crate::ids::{CellId, Incarnation, Origin};
use crate::period::Period;
use crate::receipt::{Outcome, Receipt};
use crate::units::Units;

/// An engine in memory. It keeps all that it acknowledged, and has no clock: a period is open
/// for exchanges from its first cell until [`ModelStore::end_period`].
#[derive(Debug, Default)]
pub struct ModelStore {
    rows: Mutex<Rows>,
}

/// A cell as the engine keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCell {
    /// What the newest declaration allows.
    pub wanted: Units,
    /// What may be granted: `wanted`, or what was granted before a cut.
    pub allotment: Units,
    /// Granted over all incarnations.
    pub granted: Units,
}

/// What one incarnation may spend of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelLease {
    /// The newest ask that was answered.
    pub seq: u64,
    /// Cumulative.
    pub granted: Units,
    /// Proven by receipts, per origin.
    pub posted: [Units; 2],
}

/// A check that failed. With right rules there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckFailed {
    /// More is granted than is allotted.
    #[error("cell {0:?}: granted beyond the allotment")]
    Granted(CellId),
    /// More is wanted than is allotted.
    #[error("cell {0:?}: wanted beyond the allotment")]
    Wanted(CellId),
    /// More is posted than is granted.
    #[error("cell {0:?}: posted beyond the grant")]
    Posted(CellId),
    /// What a cell says is granted is not the sum of its leases.
    #[error("cell {0:?}: granted is not the sum of the leases")]
    Sum(CellId),
}

type LeaseKey = (Period, CellId, Incarnation);

/// All rows; a transaction works on a copy.
#[derive(Clone, Debug, Default)]
struct Rows {
    last: u64,
    live: BTreeSet<Incarnation>,
    ended: BTreeSet<Period>,
    cells: BTreeMap<(Period, CellId), ModelCell>,
    leases: BTreeMap<LeaseKey, ModelLease>,
    closed: BTreeSet<(Period, Incarnation)>,
    receipts: BTreeMap<(Period, Incarnation), Vec<Arc<Receipt>>>,
    tallies: BTreeMap<(Period, CellId, Origin, Outcome), u64>,
}

// === impl ModelStore ===

impl ModelStore {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts an incarnation.
    pub fn new_incarnation(&self) -> Incarnation {
        let mut rows = self.rows.lock();
        rows.last = rows.last.saturating_add(1);
        let inc = Incarnation(rows.last);
        rows.live.insert(inc);
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
        let mut after = rows.clone();
        let row = after.cells.entry((period, cell)).or_default();
        row.wanted = wanted;
        row.allotment = wanted.max(row.granted);
        after.check_cell(period, cell)?;
        *rows = after;
        Ok(())
    }

    /// No exchange of a period is answered any more.
    pub fn end_period(&self, period: Period) {
        self.rows.lock().ended.insert(period);
    }

    /// Raises or lowers what an incarnation may spend: all cells of an ask or none.
    ///
    /// # Errors
    /// As an engine's. A failed check is [`ExchangeError::LostCommits`].
    pub fn exchange(&self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError> {
        let mut rows = self.rows.lock();
        let before = (rows.cells.clone(), rows.leases.clone());
        let answer = rows.exchange(ask);
        if answer.is_err() {
            (rows.cells, rows.leases) = before;
        }
        answer
    }

    /// Takes receipts: all of an ask or none.
    ///
    /// # Errors
    /// As an engine's. A failed check is [`AppendError::BeyondGrant`].
    pub fn append(&self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
        let mut rows = self.rows.lock();
        let mut after = rows.clone();
        let reply = after.append(ask)?;
        *rows = after;
        Ok(reply)
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
            .try_for_each(|(period, cell)| rows.check_cell(*period, *cell))
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

// === impl ModelLease ===

impl ModelLease {
    /// Units proven by receipts.
    #[must_use]
    pub fn proven(&self) -> Units {
        self.posted.iter().copied().sum()
    }
}

// === impl Rows ===

impl Rows {
    fn fence(&self, inc: Incarnation) -> Result<(), ExchangeError> {
        let live = self.live.contains(&inc);
        live.then_some(()).ok_or(ExchangeError::Fenced)
    }

    fn exchange(&mut self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError> {
        self.fence(ask.incarnation)?;
        let closed = self.closed.contains(&(ask.period, ask.incarnation));
        if closed || self.ended.contains(&ask.period) {
            return Err(ExchangeError::PeriodNotOpen(ask.period));
        }
        let cells = ask.cells.iter().map(|wish| self.grant(ask, *wish));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        for wish in &ask.cells {
            self.check_cell(ask.period, wish.cell)
                .map_err(|_| ExchangeError::LostCommits)?;
        }
        Ok(ExchangeReply {
            seq: ask.seq,
            cells,
            live: u32::try_from(self.live.len()).unwrap_or(u32::MAX).max(1),
        })
    }

    fn grant(&mut self, ask: &ExchangeAsk, wish: CellAsk) -> Result<CellGrant, ExchangeError> {
        let unknown = ExchangeError::UnknownCell(wish.cell);
        let cell = self
            .cells
            .get_mut(&(ask.period, wish.cell))
            .ok_or(unknown)?;
        let key = (ask.period, wish.cell, ask.incarnation);
        let lease = self.leases.entry(key).or_default();
        if lease.seq < ask.seq {
            if wish.posted < lease.proven() {
                return Err(ExchangeError::PostedBehind(wish.cell));
            }
            let granted = match wish.target.checked_sub(lease.granted) {
                Some(lacks) if !lacks.is_zero() => {
                    let left = cell.wanted.saturating_sub(cell.granted);
                    lease.granted.saturating_add(lacks.min(left))
                }
                _ => wish.target.max(lease.proven()),
            };
            let others = cell.granted.saturating_sub(lease.granted);
            cell.granted = others.saturating_add(granted);
            // Only lowered here, so that the check on `granted` can fail.
            cell.allotment = cell.allotment.min(cell.wanted.max(cell.granted));
            (lease.granted, lease.seq) = (granted, ask.seq);
        }
        Ok(CellGrant {
            cell: wish.cell,
            granted: lease.granted,
            wanted: cell.wanted,
            sum_granted: cell.granted,
        })
    }

    fn append(&mut self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
        let key = (ask.period, ask.incarnation);
        self.fence(ask.incarnation)
            .map_err(|_| AppendError::Fenced)?;
        let kept = self.receipts.get(&key).map_or(0, Vec::len);
        let next = u64::try_from(kept).unwrap_or(u64::MAX);
        let Some(have) = next.checked_sub(ask.first_offset) else {
            return Err(AppendError::Gap {
                first: ask.first_offset,
                expected: next,
            });
        };
        let have = usize::try_from(have).unwrap_or(usize::MAX);
        let fresh = ask.receipts.get(have..).unwrap_or_default();
        if !fresh.is_empty() && self.closed.contains(&key) {
            return Err(AppendError::PeriodNotOpen(ask.period));
        }
        for receipt in fresh {
            self.book(ask.period, ask.incarnation, receipt)?;
        }
        let kept = self.receipts.get(&key).map_or(0, Vec::len);
        Ok(AppendReply {
            next_offset: u64::try_from(kept).unwrap_or(u64::MAX),
        })
    }

    fn book(&mut self, period: Period, inc: Incarnation, new: &Receipt) -> Result<(), AppendError> {
        let attempted = new.attempts.first().map(|attempt| attempt.cell);
        let named = new.held.first().copied().or(attempted);
        let cell = named.unwrap_or(CellId(u32::MAX));
        let beyond = || AppendError::BeyondGrant { cell };
        let kept = self.receipts.entry((period, inc)).or_default();
        let earlier = kept.iter().rev().find(|kept| kept.call == new.call);
        let follows = |kept: &Receipt| kept.is_part() && kept.origin == new.origin;
        let of_attempts: Units = new.attempts.iter().map(|attempt| attempt.units).sum();
        if !earlier.is_none_or(|kept| follows(kept)) || of_attempts != new.units {
            return Err(beyond());
        }
        let before = earlier.map_or(Units::ZERO, |kept| kept.units);
        let added = new.units.checked_sub(before).ok_or_else(beyond)?;
        kept.push(Arc::new(new.clone()));
        for held in new.held.iter().filter(|_| !added.is_zero()) {
            let lease = self.leases.get_mut(&(period, *held, inc));
            let [organic, synthetic] = &mut lease.ok_or_else(beyond)?.posted;
            let posted = match new.origin {
                Origin::Organic => organic,
                Origin::Synthetic => synthetic,
            };
            *posted = posted.checked_add(added).ok_or_else(beyond)?;
            self.check_cell(period, *held).map_err(|_| beyond())?;
        }
        for attempt in &new.attempts {
            if !self.leases.contains_key(&(period, attempt.cell, inc)) {
                return Err(beyond());
            }
            // A call's attempts count once, with its last receipt.
            if !new.is_part() {
                let key = (period, attempt.cell, new.origin, attempt.outcome);
                let count = self.tallies.entry(key).or_default();
                *count = count.saturating_add(1);
            }
        }
        Ok(())
    }

    fn check_cell(&self, period: Period, id: CellId) -> Result<(), CheckFailed> {
        let cell = self.cells.get(&(period, id)).copied().unwrap_or_default();
        let first = (period, id, Incarnation(0));
        let last = (period, id, Incarnation(u64::MAX));
        let leases = || self.leases.range(first..=last).map(|(_, lease)| lease);
        if leases().any(|lease| lease.proven() > lease.granted) {
            return Err(CheckFailed::Posted(id));
        }
        if leases().map(|lease| lease.granted).sum::<Units>() != cell.granted {
            return Err(CheckFailed::Sum(id));
        }
        if cell.granted > cell.allotment {
            return Err(CheckFailed::Granted(id));
        }
        if cell.wanted > cell.allotment {
            return Err(CheckFailed::Wanted(id));
        }
        Ok(())
    }
}
