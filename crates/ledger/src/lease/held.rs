//! One cell of one period, as this incarnation knows it: how much it asks for, and what an
//! answer changes.

use super::LenderSettings;
use crate::engine::{CellGrant, ExchangeError};
use crate::ids::CellId;
use crate::table::Table;
use crate::units::Units;

/// What is known of one cell.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The number of the ask that is on its way.
    pub(super) waiting: Option<u64>,
    /// How many asks ended, with a grant or without.
    pub(super) answers: u64,
    /// The engine told what the cell may be spent to, and what is granted of it.
    pub(super) known: bool,
    /// What calls lack, in sum, beyond what the ask on its way already carries.
    pub(super) lacking: Units,
    /// Units went out of `free` that the engine has not been told of.
    pub(super) owes: bool,
    pub(super) wanted: Units,
    pub(super) sum_granted: Units,
    live: u32,
    /// Units per second.
    pub(super) demand: f64,
    used: Units,
    pub(super) used_ms: u64,
    pub(super) moved_ms: u64,
}

// === impl Lease ===

impl Lease {
    /// Measures demand: units that went out of `free`, per second, smoothed.
    pub(super) fn look(&mut self, table: &Table, cell: CellId, now_ms: u64) {
        const EVERY_MS: u64 = 200;
        const WEIGHT: f64 = 0.2;
        let used = table
            .posted_total(cell)
            .saturating_add(table.reserved(cell));
        let passed_ms = now_ms.saturating_sub(self.used_ms);
        if self.used_ms == 0 {
            (self.used, self.used_ms, self.moved_ms) = (used, now_ms, now_ms);
        } else if passed_ms >= EVERY_MS {
            let more = used.saturating_sub(self.used);
            let rate = per_second(more, passed_ms);
            self.demand = rate.mul_add(WEIGHT, self.demand * (1.0 - WEIGHT));
            if used != self.used {
                self.moved_ms = now_ms;
            }
            (self.used, self.used_ms) = (used, now_ms);
        }
    }

    /// The cumulative grant to ask for; `None` when all is well as it is.
    pub(super) fn target(
        &mut self,
        table: &Table,
        id: CellId,
        now_ms: u64,
        settings: &LenderSettings,
    ) -> Option<Units> {
        if self.waiting.is_some() {
            return None;
        }
        let cell = table.touch(id)?;
        let granted = cell.granted();
        let rest = self.wanted.saturating_sub(self.sum_granted);
        let most = if self.live > 1 {
            rest.part_of(u64::from(self.live).saturating_mul(2))
        } else {
            rest
        };
        let slice = self.slice(settings).min(most);
        let lacking = std::mem::take(&mut self.lacking);
        if !lacking.is_zero() {
            // Nor is what comes idle before the call that lacks it has had a look.
            self.moved_ms = now_ms;
            // Exactly what is lacking, or a slice where that is more.
            return Some(granted.saturating_add(lacking.max(slice)));
        }
        let free = cell.free();
        let low = Units::new(1)
            .scaled(self.demand * seconds(settings.low_ms))
            .max(slice.scaled(settings.low_part));
        if self.demand >= 1.0 && free < low && !slice.is_zero() {
            return Some(granted.saturating_add(slice));
        }
        // The declaration was cut below what is granted: what nobody holds goes back.
        let over = self.sum_granted.saturating_sub(self.wanted).min(free);
        if !over.is_zero() {
            self.owes = true;
            cell.lower(over);
        }
        let idle = now_ms.saturating_sub(self.moved_ms) >= settings.idle_ms;
        if idle && !free.is_zero() {
            self.demand = 0.0;
            self.owes = true;
            cell.lower(Units::MAX);
        }
        self.owes.then(|| cell.granted())
    }

    fn slice(&self, settings: &LenderSettings) -> Units {
        let first = self.wanted.part_of(settings.first_part);
        Units::new(1)
            .scaled(self.demand * seconds(settings.slice_ms))
            .max(first)
    }

    /// Takes a grant; false when it is less than what is held. What is held was never more
    /// than what the engine granted, so that then it has lost commits.
    pub(super) fn granted(
        &mut self,
        table: &Table,
        grant: &CellGrant,
        live: u32,
        frozen: bool,
    ) -> bool {
        let Some(cell) = table.touch(grant.cell) else {
            return true;
        };
        (self.wanted, self.sum_granted, self.live) = (grant.wanted, grant.sum_granted, live);
        (self.known, self.owes) = (true, false);
        cell.hint_rest(grant.wanted.saturating_sub(grant.sum_granted));
        let held = cell.granted();
        match grant.granted.checked_sub(held) {
            Some(more) if !frozen => cell.raise(more),
            Some(_) => {}
            None => {
                // Nothing of the difference may be spent.
                cell.lower(held.saturating_sub(grant.granted));
                return false;
            }
        }
        true
    }

    pub(super) fn refused(
        &mut self,
        table: &Table,
        cell: CellId,
        error: Option<&ExchangeError>,
        past: bool,
    ) {
        // Whether the last ask arrived is unknown: the next one says all of it again.
        self.owes = true;
        if matches!(error, Some(ExchangeError::UnknownCell(unknown)) if *unknown == cell) {
            self.owes = false;
            table.hint_rest(cell, Units::ZERO);
        }
        if past && matches!(error, Some(ExchangeError::PeriodNotOpen(_))) {
            // Too late to give back; it stays charged to its period.
            self.owes = false;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
fn per_second(units: Units, passed_ms: u64) -> f64 {
    units.get() as f64 * 1000.0 / passed_ms.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a span needs no more digits")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
