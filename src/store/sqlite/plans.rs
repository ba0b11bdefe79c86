//! Who plans checks, what was drawn, and the books as a planner reads them.

use rusqlite::{Connection, OptionalExtension as _, Row};
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::Period;

use super::SqliteStore;
use super::exchange::{FirstOfThisProcess, is_live};
use super::rows::{RowFault, Stop, cell_id, cell_int, int, period_int, uint, units};
use super::writer::Class;
use crate::identity::StoreAway;
use crate::store::StoreFault;
use crate::synthetic::draw::Part;
use crate::synthetic::plan::{Attempts, Before, CellBooks, Drawn, PlanStore, Term};

type Kept<T> = Result<T, Stop<StoreAway>>;

impl PlanStore for SqliteStore {
    fn take_term(
        &self,
        own: Incarnation,
        silent_ms: u64,
    ) -> BoxFuture<'_, Result<Option<Term>, StoreAway>> {
        let (rules, first) = (self.rules.clone(), self.first);
        Box::pin(self.ask(Class::Opens, 0, move |conn| {
            take_term(conn, first, own, (rules.now_ms(), silent_ms))
        }))
    }

    fn keep_term(&self, term: Term) -> BoxFuture<'_, Result<bool, StoreAway>> {
        let rules = self.rules.clone();
        Box::pin(self.ask(Class::Proves, 0, move |conn| {
            let kept = conn
                .prepare_cached("UPDATE planner SET seen_ms = ?2 WHERE term = ?1")?
                .execute((int(term.0), int(rules.now_ms())))?;
            Ok(kept > 0)
        }))
    }

    fn term_stands(&self, term: Term) -> BoxFuture<'_, Result<bool, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| stands(conn, term);
            Ok(self.readers.read(read).await?)
        })
    }

    fn draw(
        &self,
        term: Term,
        period: Period,
        drawn: Vec<(CellId, Part)>,
    ) -> BoxFuture<'_, Result<Option<Vec<Drawn>>, StoreAway>> {
        Box::pin(self.ask(Class::Opens, 0, move |conn| {
            draw(conn, term, period, &drawn)
        }))
    }

    fn cell_books(
        &self,
        period: Period,
        own: Incarnation,
    ) -> BoxFuture<'_, Result<Vec<CellBooks>, StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| cell_books(conn, period, own);
            Ok(self.readers.read(read).await?)
        })
    }

    fn organic_before(
        &self,
        period: Period,
        periods: usize,
    ) -> BoxFuture<'_, Result<(usize, Vec<Before>), StoreAway>> {
        Box::pin(async move {
            let read = move |conn: &Connection| organic_before(conn, period, periods);
            Ok(self.readers.read(read).await?)
        })
    }
}

impl SqliteStore {
    /// What was drawn of checks in a period, by cell.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn drawn(&self, period: Period) -> Result<Vec<Drawn>, StoreFault> {
        let read = move |conn: &Connection| {
            let mut drawn = conn.prepare_cached(
                "SELECT cell, part, newcomer FROM plan WHERE period = ?1 ORDER BY cell",
            )?;
            let rows = drawn.query_and_then([period_int(period)], drawn_of)?;
            rows.collect()
        };
        self.readers.read(read).await
    }
}

fn stands(conn: &Connection, term: Term) -> Result<bool, RowFault> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM planner WHERE term = ?1")?
        .exists([int(term.0)])?)
}

fn take_term(
    conn: &Connection,
    first: FirstOfThisProcess,
    own: Incarnation,
    (now_ms, silent_ms): (u64, u64),
) -> Kept<Option<Term>> {
    let held = conn
        .prepare_cached("SELECT term, inc, seen_ms FROM planner")?
        .query_row([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let mut last = 0;
    if let Some((term, inc, seen_ms)) = held {
        last = uint(term, "planner")?;
        let holder = Incarnation(uint(inc, "planner")?);
        let seen_ms = uint(seen_ms, "planner")?;
        let other = holder != own && holder >= first.0 && is_live(conn, holder)?;
        if other && now_ms < seen_ms.saturating_add(silent_ms) {
            return Ok(None);
        }
    }
    let term = Term(last.saturating_add(1));
    conn.prepare_cached(
        "INSERT INTO planner (one, term, inc, seen_ms) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET term = excluded.term, inc = excluded.inc,
             seen_ms = excluded.seen_ms",
    )?
    .execute((int(term.0), int(own.0), int(now_ms)))?;
    Ok(Some(term))
}

fn draw(
    conn: &Connection,
    term: Term,
    period: Period,
    drawn: &[(CellId, Part)],
) -> Kept<Option<Vec<Drawn>>> {
    if !stands(conn, term)? {
        return Ok(None);
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO plan (period, cell, term, part, newcomer)
         VALUES (?1, ?2, ?3, ?4, NOT EXISTS (SELECT 1 FROM demonstration WHERE cell = ?2))
         ON CONFLICT DO NOTHING",
    )?;
    let mut read = conn
        .prepare_cached("SELECT cell, part, newcomer FROM plan WHERE period = ?1 AND cell = ?2")?;
    let period = period_int(period);
    let mut standing = Vec::with_capacity(drawn.len());
    for (cell, part) in drawn {
        let cell = cell_int(*cell);
        insert.execute((period, cell, int(term.0), part.millionths()))?;
        standing.push(read.query_row((period, cell), |row| Ok(drawn_of(row)))??);
    }
    Ok(Some(standing))
}

fn drawn_of(row: &Row<'_>) -> Result<Drawn, RowFault> {
    Ok(Drawn {
        cell: cell_id(row.get(0)?, "plan")?,
        part: Part::from_millionths(row.get(1)?),
        newcomer: row.get(2)?,
    })
}

fn cell_books(
    conn: &Connection,
    period: Period,
    own: Incarnation,
) -> Result<Vec<CellBooks>, RowFault> {
    conn.prepare_cached(
        "SELECT cell, sum(organic), sum(synthetic), sum(tried), sum(good), sum(tried_own),
             sum(good_own)
         FROM (
             SELECT l.cell, organic, synthetic, 0 tried, 0 good, 0 tried_own, 0 good_own
             FROM lease l JOIN subject s ON s.id = l.cell AND s.kind = 0
             WHERE period = ?1 AND inc <> ?2
             UNION ALL
             SELECT cell, 0, 0,
                 (good + busy + refused + lost + stalled + protocol) * (inc <> ?2),
                 good * (inc <> ?2),
                 (good + busy + refused + lost + stalled + protocol) * (inc = ?2),
                 good * (inc = ?2)
             FROM tally WHERE period = ?1 AND origin = 1)
         GROUP BY cell",
    )?
    .query_and_then((period_int(period), int(own.0)), |row| {
        let number = |column: usize| uint(row.get(column)?, "tally");
        Ok(CellBooks {
            cell: cell_id(row.get(0)?, "lease")?,
            organic: units(row.get(1)?, "lease")?,
            synthetic: units(row.get(2)?, "lease")?,
            others: Attempts {
                all: number(3)?,
                good: number(4)?,
            },
            own: Attempts {
                all: number(5)?,
                good: number(6)?,
            },
        })
    })?
    .collect()
}

fn organic_before(
    conn: &Connection,
    period: Period,
    periods: usize,
) -> Result<(usize, Vec<Before>), RowFault> {
    let snapshot = conn.unchecked_transaction()?;
    let known = snapshot
        .prepare_cached(
            "SELECT DISTINCT period FROM lease WHERE period < ?1 ORDER BY period DESC LIMIT ?2",
        )?
        .query_map((period_int(period), int(periods as u64)), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut sums = snapshot.prepare_cached(
        "SELECT l.cell, sum(organic) FROM lease l
         JOIN subject s ON s.id = l.cell AND s.kind = 0
         WHERE period = ?1 GROUP BY l.cell HAVING sum(organic) > 0",
    )?;
    let mut before = Vec::new();
    for (ago, period) in known.iter().enumerate() {
        let mut rows = sums.query([period])?;
        while let Some(row) = rows.next()? {
            before.push(Before {
                ago,
                cell: cell_id(row.get(0)?, "lease")?,
                organic: units(row.get(1)?, "lease")?,
            });
        }
    }
    Ok((known.len(), before))
}
