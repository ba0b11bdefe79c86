//! The engine's rules once more, in memory and in the plainest words, to hold the store to.

use std::collections::BTreeMap;

use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, CellGrant, ExchangeAsk, ExchangeError,
};
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::receipt::Receipt;

/// One period of an engine, with its incarnations.
#[derive(Debug, Default)]
pub(crate) struct Model {
    live: BTreeMap<Incarnation, bool>,
    closed: BTreeMap<Incarnation, bool>,
    /// (wanted, allotment, granted)
    pub(crate) cells: BTreeMap<CellId, (u64, u64, u64)>,
    /// (seq, granted, posted)
    leases: BTreeMap<(Incarnation, CellId), (u64, u64, u64)>,
    receipts: BTreeMap<Incarnation, Vec<Receipt>>,
}

impl Model {
    pub(crate) fn start(&mut self, inc: Incarnation) {
        self.live.insert(inc, true);
    }

    pub(crate) fn set_cell(&mut self, cell: CellId, wanted: u64) {
        let granted = self.cells.get(&cell).map_or(0, |cell| cell.2);
        self.cells
            .insert(cell, (wanted, wanted.max(granted), granted));
    }

    pub(crate) fn exchange(&mut self, ask: &ExchangeAsk) -> Result<Vec<CellGrant>, ExchangeError> {
        let inc = ask.incarnation;
        if self.live.get(&inc) != Some(&true) {
            return Err(ExchangeError::Fenced);
        }
        if self.closed.contains_key(&inc) {
            return Err(ExchangeError::PeriodNotOpen(ask.period));
        }
        let (mut cells, mut leases) = (self.cells.clone(), self.leases.clone());
        let mut grants = Vec::new();
        for wish in &ask.cells {
            let cell = cells
                .get_mut(&wish.cell)
                .ok_or(ExchangeError::UnknownCell(wish.cell))?;
            let lease = leases.entry((inc, wish.cell)).or_default();
            let target = wish.target.get();
            if ask.seq > lease.0 {
                if wish.posted.get() < lease.2 {
                    return Err(ExchangeError::PostedBehind(wish.cell));
                }
                let new = if target <= lease.1 {
                    target.max(lease.2)
                } else {
                    lease.1 + (target - lease.1).min(cell.0.saturating_sub(cell.2))
                };
                cell.2 = cell.2 - lease.1 + new;
                cell.1 = cell.1.min(cell.0.max(cell.2));
                (lease.0, lease.1) = (ask.seq, new);
            }
            grants.push(CellGrant {
                cell: wish.cell,
                granted: super::units(lease.1),
                wanted: super::units(cell.0),
                sum_granted: super::units(cell.2),
            });
        }
        (self.cells, self.leases) = (cells, leases);
        Ok(grants)
    }

    pub(crate) fn append(&mut self, ask: &AppendAsk) -> Result<AppendReply, AppendError> {
        let inc = ask.incarnation;
        if self.live.get(&inc) != Some(&true) {
            return Err(AppendError::Fenced);
        }
        let mut booked = self.receipts.get(&inc).cloned().unwrap_or_default();
        let expected = booked.len() as u64;
        if ask.first_offset > expected {
            let first = ask.first_offset;
            return Err(AppendError::Gap { first, expected });
        }
        let mut leases = self.leases.clone();
        for (offset, receipt) in (ask.first_offset..).zip(&ask.receipts) {
            if offset < expected {
                continue;
            }
            if self.closed.contains_key(&inc) {
                return Err(AppendError::PeriodNotOpen(ask.period));
            }
            let cell = receipt.held[0];
            let beyond = AppendError::BeyondGrant { cell };
            let before = booked.iter().rfind(|old| old.call == receipt.call);
            if before.is_some_and(|old| !old.is_part() || old.units > receipt.units) {
                return Err(beyond);
            }
            let added = receipt.units.get() - before.map_or(0, |old| old.units.get());
            let lease = leases.get_mut(&(inc, cell)).ok_or(beyond)?;
            lease.2 += added;
            booked.push(receipt.clone());
        }
        // The bound is on what stands in the end, so the whole ask is refused.
        for ((holder, cell), lease) in &leases {
            if *holder == inc && lease.2 > lease.1 {
                return Err(AppendError::BeyondGrant { cell: *cell });
            }
        }
        let next_offset = booked.len() as u64;
        self.leases = leases;
        self.receipts.insert(inc, booked);
        Ok(AppendReply { next_offset })
    }

    pub(crate) fn close_period(&mut self, inc: Incarnation) -> Result<(), ExchangeError> {
        if self.live.get(&inc) != Some(&true) {
            return Err(ExchangeError::Fenced);
        }
        self.closed.insert(inc, true);
        Ok(())
    }

    pub(crate) fn close(&mut self, inc: Incarnation) -> Result<(), ExchangeError> {
        let live = self.live.get_mut(&inc).ok_or(ExchangeError::Fenced)?;
        *live = false;
        Ok(())
    }

    pub(crate) fn posted(&self, cell: CellId) -> u64 {
        let of_cell = self.leases.iter().filter(|((_, at), _)| *at == cell);
        of_cell.map(|(_, lease)| lease.2).sum()
    }
}
