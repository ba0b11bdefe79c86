//! Upkeep: rows that nobody needs any more go, a few at a time, between other work.

use rusqlite::Connection;

use super::rows::{RowFault, int};
use super::rules::Rules;

/// Rows that one step deletes of a table, at most: about a millisecond of work.
const ROWS_A_STEP: i64 = 1000;

/// How often it is looked for old rows when the last look found none, milliseconds.
const LOOK_EVERY_MS: u64 = 1000;

/// Tables with rows of a period.
const BY_PERIOD: [(&str, &str); 6] = [
    ("receipt", "period, inc, off"),
    ("tally", "period, inc, cell, origin"),
    ("lease", "period, inc, cell"),
    ("inc_period", "period, inc"),
    ("cell", "period, cell"),
    ("plan", "period, cell"),
];

/// Tables that scores are made of, beyond what bursts keep of each cell.
const OF_SCORES: [(&str, &str); 2] = [
    ("history", "period, cell"),
    ("finding", "period, inc, call, checker"),
];

/// What remains to be dropped.
#[derive(Debug)]
pub(super) struct Upkeep {
    rules: Rules,
    /// Whether the last step found as much as it may delete.
    more: bool,
    next_ms: u64,
}

// === impl Upkeep ===

impl Upkeep {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            more: true,
            next_ms: 0,
        }
    }

    /// Whether a step may find something.
    pub(super) fn is_due(&self) -> bool {
        self.more || self.rules.now_ms() >= self.next_ms
    }

    /// Deletes a few old rows, receipts first, so that a period's cells and leases stand as
    /// long as a receipt of it does.
    pub(super) fn step(&mut self, conn: &Connection) -> Result<(), RowFault> {
        let now_ms = self.rules.now_ms();
        self.next_ms = now_ms.saturating_add(LOOK_EVERY_MS);
        self.more = false;
        let keep_from = int(self.rules.keep_from().start_s());
        for (table, key) in BY_PERIOD {
            let gone = conn
                .prepare_cached(&format!(
                    "DELETE FROM {table} WHERE ({key}) IN
                     (SELECT {key} FROM {table} WHERE period < ?1 LIMIT ?2)"
                ))?
                .execute((keep_from, ROWS_A_STEP))?;
            if gone > 0 {
                // Whoever reads what is left knows from this that it is not whole.
                conn.prepare_cached("UPDATE store SET kept_from = ?1 WHERE kept_from < ?1")?
                    .execute([keep_from])?;
                self.more = true;
                return Ok(());
            }
        }
        conn.prepare_cached("DELETE FROM frozen WHERE period < ?1")?
            .execute([keep_from])?;
        conn.prepare_cached("DELETE FROM burst WHERE period < ?1")?
            .execute([keep_from])?;
        let seals_from = int(self.rules.keep_seals_from().start_s());
        conn.prepare_cached("DELETE FROM seal WHERE period < ?1")?
            .execute([seals_from])?;
        conn.prepare_cached("DELETE FROM finding WHERE period < ?1")?
            .execute([seals_from])?;
        let keep_from_ms = keep_from.saturating_mul(1000);
        let claims = conn
            .prepare_cached(
                "DELETE FROM claim WHERE id IN
                 (SELECT id FROM claim WHERE made_ms < ?1 ORDER BY id LIMIT ?2)",
            )?
            .execute((keep_from_ms, ROWS_A_STEP))?;
        let nonces = conn
            .prepare_cached(
                "DELETE FROM nonce WHERE (hotkey, nonce) IN
                 (SELECT hotkey, nonce FROM nonce WHERE keep_until_ms < ?1 LIMIT ?2)",
            )?
            .execute((int(now_ms), ROWS_A_STEP))?;
        let scored = self.drop_scored(conn)?;
        self.more = claims > 0 || nonces > 0 || scored > 0;
        Ok(())
    }

    /// A period counts for scores while its end does.
    fn drop_scored(&self, conn: &Connection) -> Result<usize, RowFault> {
        let from_s = self.rules.keep_scores_from_ms() / 1000;
        let from_s = from_s.saturating_sub(u64::from(self.rules.length.secs()));
        let mut gone = 0_usize;
        for (table, key) in OF_SCORES {
            let rows = conn
                .prepare_cached(&format!(
                    "DELETE FROM {table} WHERE ({key}) IN
                     (SELECT {key} FROM {table} WHERE period < ?1 LIMIT ?2)"
                ))?
                .execute((int(from_s), ROWS_A_STEP))?;
            gone = gone.saturating_add(rows);
        }
        Ok(gone)
    }
}
