//! Proof of what was spent: receipts, and the counters that they raise, in one transaction.
//!
//! Receipts are numbered without gaps, so that a resend after an unknown outcome books
//! nothing twice: what the store has already, it skips. A long call leaves parts, each with
//! all units so far; the store adds the difference to the part before. Attempts count once,
//! with the call's last receipt.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};
use taugate_ledger::engine::{AppendAsk, AppendError, AppendReply};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Outcome, Receipt};
use taugate_ledger::units::Units;

use super::exchange::{is_closed, is_live};
use super::receipts::Lines;
use super::rows::{
    LeaseRow, RowFault, Stop, cell_int, int, origin, origin_int, period_int, uint, units,
};
use super::rules::Rules;
use crate::store::StoreFault;

type Appended<T> = Result<T, Stop<AppendError>>;

/// What one ask changes, gathered so that a row is written once an ask.
struct Booking<'a> {
    conn: &'a Connection,
    period: Period,
    inc: Incarnation,
    /// Whether calls may have been booked in part: without, none has an earlier receipt, but
    /// for a second end, which the schema forbids.
    has_parts: bool,
    leases: BTreeMap<CellId, LeaseRow>,
    tallies: BTreeMap<(CellId, Origin), Tally>,
    lines: Lines,
}

/// What is added to a row of `tally`.
#[derive(Debug, Default)]
struct Tally {
    /// In the order of [`Outcome::ALL`].
    by_outcome: [i64; 7],
    first_chunk_us: i64,
    duration_us: i64,
}

/// What was last booked of a call that has not ended.
struct Earlier {
    origin: Origin,
    units: Units,
}

// === impl StoreFault ===

impl From<StoreFault> for AppendError {
    fn from(fault: StoreFault) -> Self {
        match fault {
            StoreFault::Unavailable => Self::Unavailable,
            StoreFault::Damaged => Self::Damaged,
        }
    }
}

/// Books an ask, all of its new receipts or none.
pub(super) fn append(conn: &Connection, rules: &Rules, ask: &AppendAsk) -> Appended<AppendReply> {
    if !is_live(conn, ask.incarnation)? {
        return Err(Stop::Refused(AppendError::Fenced));
    }
    if !rules.may_append(ask.period) {
        return Err(Stop::Refused(AppendError::PeriodNotOpen(ask.period)));
    }
    let next = next_offset(conn, ask.incarnation, ask.period)?;
    let Some(have) = next.checked_sub(ask.first_offset) else {
        return Err(Stop::Refused(AppendError::Gap {
            first: ask.first_offset,
            expected: next,
        }));
    };
    let have = usize::try_from(have).unwrap_or(usize::MAX);
    let fresh = ask.receipts.get(have..).unwrap_or_default();
    if fresh.is_empty() {
        return Ok(AppendReply { next_offset: next });
    }
    if is_closed(conn, ask.incarnation, ask.period)? {
        return Err(Stop::Refused(AppendError::PeriodNotOpen(ask.period)));
    }
    let mut booking = Booking {
        conn,
        period: ask.period,
        inc: ask.incarnation,
        has_parts: has_parts(conn, ask.incarnation, ask.period)?,
        leases: BTreeMap::new(),
        tallies: BTreeMap::new(),
        lines: Lines::new(ask.period, ask.incarnation),
    };
    let mut offset = next;
    for receipt in fresh {
        if let Err(stop) = booking.add(offset, receipt) {
            return Err(booking.first_of_refusals(stop));
        }
        offset = offset.saturating_add(1);
    }
    booking.write(offset)?;
    Ok(AppendReply {
        next_offset: offset,
    })
}

fn next_offset(conn: &Connection, inc: Incarnation, period: Period) -> Appended<u64> {
    let next: Option<i64> = conn
        .prepare_cached("SELECT next_off FROM inc_period WHERE period = ?1 AND inc = ?2")?
        .query_row((period_int(period), int(inc.0)), |row| row.get(0))
        .optional()?;
    Ok(uint(next.unwrap_or(0), "inc_period")?)
}

fn has_parts(conn: &Connection, inc: Incarnation, period: Period) -> Appended<bool> {
    Ok(conn
        .prepare_cached(
            "SELECT 1 FROM receipt INDEXED BY receipt_part
             WHERE period = ?1 AND inc = ?2 AND finish = 0",
        )?
        .exists((period_int(period), int(inc.0)))?)
}

/// The cell by which a refusal is named.
fn named_cell(receipt: &Receipt) -> CellId {
    let attempted = receipt.attempts.first().map(|attempt| attempt.cell);
    receipt
        .held
        .first()
        .copied()
        .or(attempted)
        .unwrap_or(CellId(u32::MAX))
}

fn beyond(cell: CellId) -> Stop<AppendError> {
    Stop::Refused(AppendError::BeyondGrant { cell })
}

/// Whether a receipt agrees with itself: its units are those of one attempt, and someone is
/// charged with them.
fn adds_up(receipt: &Receipt) -> bool {
    let mut with_units = receipt
        .attempts
        .iter()
        .filter(|attempt| !attempt.units.is_zero());
    let agrees = match with_units.next() {
        Some(Attempt { units, cell, .. }) => {
            *units == receipt.units && receipt.held.first() == Some(cell)
        }
        None => receipt.units.is_zero(),
    };
    let twice =
        (1..receipt.held.len()).any(|at| receipt.held[at..].contains(&receipt.held[at - 1]));
    agrees && with_units.next().is_none() && !twice && receipt.prompt_units <= receipt.units
}

// === impl Booking ===

impl Booking<'_> {
    fn add(&mut self, offset: u64, receipt: &Receipt) -> Appended<()> {
        let named = named_cell(receipt);
        if receipt.is_part() && self.has_ended(receipt.call)? {
            return Err(beyond(named));
        }
        let earlier = self.earlier(receipt.call)?;
        if earlier
            .as_ref()
            .is_some_and(|earlier| earlier.origin != receipt.origin)
        {
            return Err(beyond(named));
        }
        let before = earlier.map_or(Units::ZERO, |earlier| earlier.units);
        let (Some(added), true) = (receipt.units.checked_sub(before), adds_up(receipt)) else {
            return Err(beyond(named));
        };
        if !added.is_zero() {
            for cell in &receipt.held {
                let lease = self.lease(*cell)?;
                let posted = &mut lease.posted[receipt.origin.index()];
                *posted = posted.checked_add(added).ok_or_else(|| beyond(*cell))?;
            }
            // The row of counters is touched, so that its revision tells of the units.
            self.tallies.entry((named, receipt.origin)).or_default();
        }
        self.count(receipt)?;
        self.lines.add(offset, receipt, named);
        if receipt.is_part() {
            self.has_parts = true;
        }
        // A part is looked up by what follows it.
        if receipt.is_part() || self.lines.is_full() {
            self.write_lines()?;
        }
        self.fulfil(receipt)
    }

    /// Whether a call has ended. What ends one is not looked up: the index sees to it.
    fn has_ended(&mut self, call: u64) -> Appended<bool> {
        self.write_lines()?;
        let mut ended = self.conn.prepare_cached(
            "SELECT 1 FROM receipt INDEXED BY receipt_end
             WHERE period = ?1 AND inc = ?2 AND call = ?3 AND finish <> 0",
        )?;
        Ok(ended.exists(self.key(call))?)
    }

    /// The last part that was booked of a call.
    fn earlier(&self, call: u64) -> Appended<Option<Earlier>> {
        if !self.has_parts {
            return Ok(None);
        }
        let found: Option<(i64, i64)> = self
            .conn
            .prepare_cached(
                "SELECT origin, units FROM receipt INDEXED BY receipt_part
                 WHERE period = ?1 AND inc = ?2 AND call = ?3 AND finish = 0
                 ORDER BY off DESC LIMIT 1",
            )?
            .query_row(self.key(call), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((from, so_far)) = found else {
            return Ok(None);
        };
        Ok(Some(Earlier {
            origin: origin(from, "receipt")?,
            units: units(so_far, "receipt")?,
        }))
    }

    fn key(&self, call: u64) -> [i64; 3] {
        [period_int(self.period), int(self.inc.0), int(call)]
    }

    /// Writes the receipts that wait; one that ends a call again is refused.
    fn write_lines(&mut self) -> Appended<()> {
        let Err(fault) = self.lines.write(self.conn) else {
            return Ok(());
        };
        if fault.is_doubled()
            && let Some(line) = self.lines.second_end(self.conn)?
        {
            return Err(beyond(line.named));
        }
        Err(Stop::Fault(fault))
    }

    /// The first refusal of an ask: a receipt that waits may be refused, too.
    fn first_of_refusals(&mut self, last: Stop<AppendError>) -> Stop<AppendError> {
        match last {
            Stop::Refused(_) => self.write_lines().err().unwrap_or(last),
            Stop::Fault(_) => last,
        }
    }

    /// The lease that is charged; an attempt or units without one are refused.
    fn lease(&mut self, cell: CellId) -> Appended<&mut LeaseRow> {
        if !self.leases.contains_key(&cell) {
            let lease = LeaseRow::read(self.conn, self.period, self.inc, cell)?
                .ok_or_else(|| beyond(cell))?;
            self.leases.insert(cell, lease);
        }
        self.leases.get_mut(&cell).ok_or_else(|| beyond(cell))
    }

    /// Counts the attempts of a call that has ended.
    fn count(&mut self, receipt: &Receipt) -> Appended<()> {
        for attempt in &receipt.attempts {
            self.lease(attempt.cell)?;
            if receipt.is_part() {
                continue;
            }
            let tally = self
                .tallies
                .entry((attempt.cell, receipt.origin))
                .or_default();
            let at = Outcome::ALL
                .iter()
                .position(|outcome| *outcome == attempt.outcome);
            if let Some(count) = at.and_then(|at| tally.by_outcome.get_mut(at)) {
                *count = count.saturating_add(1);
            }
            if attempt.outcome == Outcome::Good {
                let first_chunk = attempt.first_chunk_us.unwrap_or(attempt.duration_us);
                tally.first_chunk_us = tally.first_chunk_us.saturating_add(int(first_chunk));
                tally.duration_us = tally.duration_us.saturating_add(int(attempt.duration_us));
            }
        }
        Ok(())
    }

    /// Writes the claim's outcome, once, with the receipt that fulfils it.
    fn fulfil(&self, receipt: &Receipt) -> Appended<()> {
        if let Some(claim) = receipt.claim
            && !receipt.is_part()
        {
            self.conn
                .prepare_cached(
                    "UPDATE claim SET period = ?2, inc = ?3, call = ?4
                     WHERE id = ?1 AND call IS NULL",
                )?
                .execute((
                    int(claim),
                    period_int(self.period),
                    int(self.inc.0),
                    int(receipt.call),
                ))?;
        }
        Ok(())
    }

    /// Writes what was gathered; a check that fires names the cell.
    fn write(&mut self, next: u64) -> Appended<()> {
        self.write_lines()?;
        for (cell, lease) in &self.leases {
            lease
                .write(self.conn, self.period, self.inc, *cell)
                .map_err(|fault| refused_by_check(fault, *cell))?;
        }
        for ((cell, origin), tally) in &self.tallies {
            self.write_tally(*cell, *origin, tally, next)?;
        }
        self.conn
            .prepare_cached(
                "INSERT INTO inc_period (period, inc, next_off, closed) VALUES (?1, ?2, ?3, 0)
                 ON CONFLICT DO UPDATE SET next_off = excluded.next_off",
            )?
            .execute((period_int(self.period), int(self.inc.0), int(next)))?;
        Ok(())
    }

    fn write_tally(&self, cell: CellId, origin: Origin, tally: &Tally, next: u64) -> Appended<()> {
        let counts = tally.by_outcome;
        self.conn
            .prepare_cached(
                "INSERT INTO tally VALUES
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 1, ?14)
                 ON CONFLICT DO UPDATE SET good = good + ?5, busy = busy + ?6,
                     refused = refused + ?7, cancelled = cancelled + ?8, lost = lost + ?9,
                     stalled = stalled + ?10, protocol = protocol + ?11,
                     first_chunk_us = first_chunk_us + ?12, duration_us = duration_us + ?13,
                     rev = rev + 1, off = ?14",
            )?
            .execute(params![
                period_int(self.period),
                int(self.inc.0),
                cell_int(cell),
                origin_int(origin),
                counts[0],
                counts[1],
                counts[2],
                counts[3],
                counts[4],
                counts[5],
                counts[6],
                tally.first_chunk_us,
                tally.duration_us,
                int(next),
            ])?;
        Ok(())
    }
}

fn refused_by_check(fault: RowFault, cell: CellId) -> Stop<AppendError> {
    if fault.is_check() {
        beyond(cell)
    } else {
        Stop::Fault(fault)
    }
}
