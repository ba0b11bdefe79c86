//! The rows of the reference engine, and the rules by which they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::{
    AppendAsk, AppendError, AppendReply, CellAsk, CellGrant, ExchangeAsk, ExchangeError,
    ExchangeReply,
};
use crate::ids::{CellId, Incarnation, Origin};
use crate::period::Period;
use crate::receipt::{Outcome, Receipt};
use crate::units::Units;

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
    /// What a lease says is proven is not the sum of its receipts.
    #[error("cell {0:?}: the counters are not the sum of the receipts")]
    Counters(CellId),
}

pub(super) type LeaseKey = (Period, CellId, Incarnation);

/// All rows. A transaction that fails is undone.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) last: u64,
    pub(super) live: BTreeSet<Incarnation>,
    /// Whose starts the incarnations are.
    pub(super) gateways: BTreeMap<Incarnation, Arc<str>>,
    pub(super) ended: BTreeSet<Period>,
    /// No grant is raised in these: commits were lost.
    pub(super) frozen: BTreeSet<Period>,
    pub(super) cells: BTreeMap<(Period, CellId), ModelCell>,
    pub(super) leases: BTreeMap<LeaseKey, ModelLease>,
    pub(super) closed: BTreeSet<(Period, Incarnation)>,
    pub(super) receipts: BTreeMap<(Period, Incarnation), Vec<Arc<Receipt>>>,
    pub(super) tallies: BTreeMap<(Period, CellId, Origin, Outcome), u64>,
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
    pub(super) fn fence(&self, inc: Incarnation) -> Result<(), ExchangeError> {
        let live = self.live.contains(&inc);
        live.then_some(()).ok_or(ExchangeError::Fenced)
    }

    pub(super) fn exchange(&mut self, ask: &ExchangeAsk) -> Result<ExchangeReply, ExchangeError> {
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
            frozen: self.frozen.contains(&ask.period),
        })
    }

    /// One cell of an ask. The grant is absolute and cumulative, so that a repeat, an old
    /// message or a lost answer cannot add up.
    fn grant(&mut self, ask: &ExchangeAsk, wish: CellAsk) -> Result<CellGrant, ExchangeError> {
        let frozen = self.frozen.contains(&ask.period);
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
                    if frozen {
                        return Err(ExchangeError::LostCommits);
                    }
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

    pub(super) fn append(&mut self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
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
        let booked = fresh
            .iter()
            .try_for_each(|receipt| self.book(ask.period, ask.incarnation, receipt))
            .and_then(|()| self.check_booked(ask.period, fresh));
        if let Err(refused) = booked {
            self.receipts.entry(key).or_default().truncate(kept);
            return Err(refused);
        }
        for receipt in fresh {
            self.count(ask.period, receipt);
        }
        let kept = kept.saturating_add(fresh.len());
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
        if !earlier.is_none_or(|kept| follows(kept)) || !adds_up(new) {
            return Err(beyond());
        }
        let before = earlier.map_or(Units::ZERO, |kept| kept.units);
        let added = new.units.checked_sub(before).ok_or_else(beyond)?;
        kept.push(Arc::new(new.clone()));
        for held in new.held.iter().filter(|_| !added.is_zero()) {
            let beyond = || AppendError::BeyondGrant { cell: *held };
            let lease = self.leases.get_mut(&(period, *held, inc));
            let [organic, synthetic] = &mut lease.ok_or_else(beyond)?.posted;
            let posted = match new.origin {
                Origin::Organic => organic,
                Origin::Synthetic => synthetic,
            };
            *posted = posted.checked_add(added).ok_or_else(beyond)?;
        }
        let leased = |cell: CellId| self.leases.contains_key(&(period, cell, inc));
        match new.attempts.iter().find(|attempt| !leased(attempt.cell)) {
            Some(attempt) => Err(AppendError::BeyondGrant { cell: attempt.cell }),
            None => Ok(()),
        }
    }

    /// The bounds hold for what stands in the end.
    fn check_booked(&self, period: Period, fresh: &[Receipt]) -> Result<(), AppendError> {
        let held: BTreeSet<_> = fresh.iter().flat_map(|receipt| &receipt.held).collect();
        let failing = held
            .into_iter()
            .find(|cell| self.check_cell(period, **cell).is_err());
        match failing {
            Some(cell) => Err(AppendError::BeyondGrant { cell: *cell }),
            None => Ok(()),
        }
    }

    /// A call's attempts count once, with its last receipt.
    fn count(&mut self, period: Period, receipt: &Receipt) {
        for attempt in receipt.attempts.iter().filter(|_| !receipt.is_part()) {
            let key = (period, attempt.cell, receipt.origin, attempt.outcome);
            let count = self.tallies.entry(key).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Takes back what was changed in cells and leases when it fails.
    pub(super) fn undoing_leases<T, E>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let before = (self.cells.clone(), self.leases.clone());
        let changed = change(self);
        if changed.is_err() {
            (self.cells, self.leases) = before;
        }
        changed
    }

    pub(super) fn check_counters(&self) -> Result<(), CheckFailed> {
        let mut sums: BTreeMap<LeaseKey, [Units; 2]> = BTreeMap::new();
        for ((period, inc), receipts) in &self.receipts {
            for (at, receipt) in receipts.iter().enumerate() {
                // Parts are cumulative: each adds what is more than in the one before.
                let earlier = receipts.iter().take(at);
                let before = earlier.rev().find(|before| before.call == receipt.call);
                let before = before.map_or(Units::ZERO, |before| before.units);
                for held in &receipt.held {
                    let sum = sums.entry((*period, *held, *inc)).or_default();
                    if let Some(sum) = sum.get_mut(receipt.origin.index()) {
                        *sum = sum.saturating_add(receipt.units.saturating_sub(before));
                    }
                }
            }
        }
        for (key, lease) in &self.leases {
            if sums.get(key).copied().unwrap_or_default() != lease.posted {
                return Err(CheckFailed::Counters(key.1));
            }
        }
        Ok(())
    }

    pub(super) fn check_cell(&self, period: Period, id: CellId) -> Result<(), CheckFailed> {
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

/// Whether a receipt agrees with itself: its units are those of one attempt, and each cell
/// that is charged with them is named once, the miner's first.
fn adds_up(receipt: &Receipt) -> bool {
    let attempts = || receipt.attempts.iter();
    let with_units: Vec<_> = attempts().filter(|it| !it.units.is_zero()).collect();
    let agrees = match with_units.as_slice() {
        [] => receipt.units.is_zero(),
        [one] => one.units == receipt.units && receipt.held.first() == Some(&one.cell),
        _ => false,
    };
    let distinct: BTreeSet<_> = receipt.held.iter().collect();
    agrees && distinct.len() == receipt.held.len() && receipt.prompt_units <= receipt.units
}
