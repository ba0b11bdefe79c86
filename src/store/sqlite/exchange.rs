//! The right to spend: who may, how much, and giving it back.

use rusqlite::Connection;
use taugate_ledger::engine::{CellAsk, CellGrant, ExchangeAsk, ExchangeError, ExchangeReply};
use taugate_ledger::ids::Incarnation;
use taugate_ledger::period::Period;

use super::rows::{CellRow, LeaseRow, RowFault, Stop, int, period_int};
use super::rules::Rules;
use crate::store::StoreFault;

type Exchanged<T> = Result<T, Stop<ExchangeError>>;

/// An incarnation counts as live when it was seen within this, milliseconds.
const LIVE_WITHIN_MS: u64 = 15_000;

/// Incarnations before this one are of an earlier process, which is dead: the lock says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstOfThisProcess(pub(super) Incarnation);

// === impl StoreFault ===

impl From<StoreFault> for ExchangeError {
    fn from(_: StoreFault) -> Self {
        // An exchange has nothing to lose: that the store is damaged stands in its health.
        Self::Unavailable
    }
}

/// Answers an ask, all its cells or none.
pub(super) fn exchange(
    conn: &Connection,
    rules: &Rules,
    first: FirstOfThisProcess,
    ask: &ExchangeAsk,
) -> Exchanged<ExchangeReply> {
    fence(conn, ask.incarnation)?;
    if !rules.may_exchange(ask.period) || is_closed(conn, ask.incarnation, ask.period)? {
        return Err(Stop::Refused(ExchangeError::PeriodNotOpen(ask.period)));
    }
    let frozen = is_frozen(conn, ask.period)?;
    let cells = ask
        .cells
        .iter()
        .map(|cell| grant(conn, ask, *cell, frozen))
        .collect::<Exchanged<Vec<_>>>()?;
    Ok(ExchangeReply {
        seq: ask.seq,
        cells,
        live: live(conn, rules, first)?,
        frozen,
    })
}

/// Says that nothing of an incarnation is open in a period. Repeating it changes nothing.
pub(super) fn close_period(
    conn: &Connection,
    incarnation: Incarnation,
    period: Period,
) -> Exchanged<()> {
    fence(conn, incarnation)?;
    conn.prepare_cached(
        "INSERT INTO inc_period (period, inc, next_off, closed) VALUES (?1, ?2, 0, 1)
         ON CONFLICT DO UPDATE SET closed = 1",
    )?
    .execute((period_int(period), int(incarnation.0)))?;
    Ok(())
}

/// Ends an incarnation, with every period it holds something of. Repeating it changes
/// nothing.
pub(super) fn close(conn: &Connection, incarnation: Incarnation) -> Exchanged<()> {
    let known = conn
        .prepare_cached("UPDATE incarnation SET live = 0 WHERE inc = ?1")?
        .execute([int(incarnation.0)])?;
    if known == 0 {
        return Err(Stop::Refused(ExchangeError::Fenced));
    }
    conn.prepare_cached(
        "INSERT INTO inc_period (period, inc, next_off, closed)
         SELECT DISTINCT period, inc, 0, 1 FROM lease WHERE inc = ?1
         ON CONFLICT DO UPDATE SET closed = 1",
    )?
    .execute([int(incarnation.0)])?;
    Ok(())
}

/// Whether an incarnation is known and not closed.
pub(super) fn is_live(conn: &Connection, incarnation: Incarnation) -> Result<bool, RowFault> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM incarnation WHERE inc = ?1 AND live")?
        .exists([int(incarnation.0)])?)
}

/// Whether an incarnation said that nothing of it is open in a period.
pub(super) fn is_closed(
    conn: &Connection,
    incarnation: Incarnation,
    period: Period,
) -> Result<bool, RowFault> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM inc_period WHERE period = ?1 AND inc = ?2 AND closed")?
        .exists((period_int(period), int(incarnation.0)))?)
}

fn fence(conn: &Connection, incarnation: Incarnation) -> Exchanged<()> {
    if is_live(conn, incarnation)? {
        Ok(())
    } else {
        Err(Stop::Refused(ExchangeError::Fenced))
    }
}

fn is_frozen(conn: &Connection, period: Period) -> Result<bool, RowFault> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM frozen WHERE period >= ?1")?
        .exists([period_int(period)])?)
}

fn live(conn: &Connection, rules: &Rules, first: FirstOfThisProcess) -> Exchanged<u32> {
    let since = rules.now_ms().saturating_sub(LIVE_WITHIN_MS);
    let live: u32 = conn
        .prepare_cached(
            "SELECT count(*) FROM incarnation WHERE inc >= ?1 AND live AND last_seen_ms >= ?2",
        )?
        .query_row((int(first.0.0), int(since)), |row| row.get(0))?;
    Ok(live.max(1))
}

/// One cell of an ask. The grant is absolute and cumulative, so that a repeat, an old
/// message or a lost answer cannot add up.
fn grant(
    conn: &Connection,
    ask: &ExchangeAsk,
    wish: CellAsk,
    frozen: bool,
) -> Exchanged<CellGrant> {
    let mut cell = CellRow::read(conn, ask.period, wish.cell)?
        .ok_or(Stop::Refused(ExchangeError::UnknownCell(wish.cell)))?;
    let mut lease =
        LeaseRow::read(conn, ask.period, ask.incarnation, wish.cell)?.unwrap_or_default();
    if lease.seq < ask.seq {
        // Only a new ask is compared: an old one may rightly know less than was proven since.
        if wish.posted < lease.proven() {
            return Err(Stop::Refused(ExchangeError::PostedBehind(wish.cell)));
        }
        let granted = if wish.target <= lease.granted {
            wish.target.max(lease.proven())
        } else if frozen {
            return Err(Stop::Refused(ExchangeError::LostCommits));
        } else {
            let lacks = wish.target.saturating_sub(lease.granted);
            let left = cell.wanted.saturating_sub(cell.granted);
            lease.granted.saturating_add(lacks.min(left))
        };
        cell.granted = cell
            .granted
            .checked_sub(lease.granted)
            .and_then(|others| others.checked_add(granted))
            .ok_or(RowFault::Damaged("cell"))?;
        // Only lowered here. Raising it belongs to the writer of declarations alone: else
        // the check on `granted` could never fail.
        cell.allotment = cell.allotment.min(cell.wanted.max(cell.granted));
        (lease.granted, lease.seq) = (granted, ask.seq);
        cell.write(conn, ask.period, wish.cell)?;
        lease.write(conn, ask.period, ask.incarnation, wish.cell)?;
    }
    Ok(CellGrant {
        cell: wish.cell,
        granted: lease.granted,
        wanted: cell.wanted,
        sum_granted: cell.granted,
    })
}
