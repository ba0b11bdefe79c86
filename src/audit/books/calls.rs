//! The side of the books that receipts say: units and attempts, call by call.

use std::collections::{BTreeSet, HashMap};

use super::{Books, ORIGINS};
use crate::audit::finding::Kind;
use crate::audit::receipt::{COLUMNS, Read, Unreadable};

/// How many receipts are read between two reports of progress.
const PROGRESS_EVERY: u64 = 4096;

/// One receipt of a period: incarnation and offset.
const ONE: (&str, &str) = ("receipt", "inc = ?2 AND off = ?3");

/// Receipts of a call: incarnation and call.
const OF_CALL: (&str, &str) = ("receipt", "inc = ?2 AND call = ?3");

/// What was read of a call so far.
struct Call {
    ended: bool,
    origin: usize,
    units: i64,
}

/// Where the reading of a period's receipts is.
#[derive(Default)]
pub(super) struct Calls {
    /// The incarnation whose receipts are read.
    inc: Option<i64>,
    /// The offset that its next receipt should have.
    next: i64,
    /// Its calls.
    calls: HashMap<i64, Call>,
}

// === impl Calls ===

impl Calls {
    /// Reads all receipts of a period, in the order in which they were written.
    pub(super) fn read(
        mut self,
        books: &mut Books<'_>,
        mut progress: impl FnMut(u64),
    ) -> rusqlite::Result<()> {
        let conn = books.moment.conn();
        let mut receipts = conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM receipt WHERE period = ?1 ORDER BY inc, off"
        ))?;
        let mut rows = receipts.query([books.period])?;
        while let Some(row) = rows.next()? {
            self.place(books, row.get(1)?, row.get(2)?);
            match Read::of(row)? {
                Ok(receipt) => self.add(books, &receipt),
                Err(Unreadable(column)) => {
                    let keys = [row.get(1)?, row.get(2)?];
                    let says = format!(
                        "receipt {} of incarnation {} cannot be read: {column}",
                        keys[1], keys[0]
                    );
                    books.find(Kind::Value, says, ONE, keys);
                }
            }
            books.sum.receipts = books.sum.receipts.saturating_add(1);
            if books.sum.receipts.is_multiple_of(PROGRESS_EVERY) {
                progress(books.sum.receipts);
            }
        }
        self.end_incarnation(books);
        books.find_unproven();
        Ok(())
    }

    /// Checks the place of the next receipt.
    fn place(&mut self, books: &mut Books<'_>, inc: i64, off: i64) {
        if self.inc != Some(inc) {
            self.end_incarnation(books);
            *self = Self {
                inc: Some(inc),
                ..Self::default()
            };
        }
        if off != self.next {
            let says = format!(
                "incarnation {inc}: receipt {off} follows where {} should",
                self.next
            );
            books.find(Kind::Offset, says, ONE, [inc, off]);
        }
        self.next = off.saturating_add(1);
    }

    /// Checks that an incarnation's receipts are as many as it was told.
    fn end_incarnation(&mut self, books: &mut Books<'_>) {
        let Some(inc) = self.inc.take() else {
            return;
        };
        books.sum.calls = books.sum.calls.saturating_add(self.calls.len());
        let told = books.progressed.get_mut(&inc).map(|at| {
            let told = at.next_off;
            at.next_off = 0;
            told
        });
        if told != Some(self.next) {
            let says = format!(
                "incarnation {inc}: {} receipts, {} acknowledged",
                self.next,
                told.unwrap_or(0)
            );
            books.find(Kind::Offset, says, ("inc_period", "inc = ?2"), [inc]);
        }
    }

    fn add(&mut self, books: &mut Books<'_>, receipt: &Read) {
        let key = [receipt.inc, receipt.off];
        let name = format!("receipt {} of incarnation {}", receipt.off, receipt.inc);
        if !receipt.sound {
            let says = format!("{name} has a wrong checksum");
            books.find(Kind::Checksum, says, ONE, key);
        }
        if let Some(why) = receipt.contradiction() {
            books.find(Kind::Receipt, format!("{name}: {why}"), ONE, key);
        }
        let miners = receipt.held.first().into_iter();
        let attempted = receipt.attempts.iter().map(|attempt| &attempt.cell);
        for cell in miners.chain(attempted) {
            let about = books.moment.subject(*cell);
            if about.is_none_or(|about| about.kind != 0 || about.task != receipt.task) {
                let says = format!(
                    "{name} is of task {}, {} is not a miner's cell of it",
                    receipt.task,
                    books.cell_text(*cell)
                );
                books.find(Kind::Orphan, says, ONE, key);
            }
        }
        let added = self.follow(books, receipt, &name);
        books.prove(receipt, added);
        books.count(receipt, added);
    }

    /// Checks a receipt against the call's earlier ones; says how many units it adds.
    fn follow(&mut self, books: &mut Books<'_>, receipt: &Read, name: &str) -> i128 {
        let new = Call {
            ended: !receipt.is_part(),
            origin: receipt.origin,
            units: receipt.units,
        };
        let Some(before) = self.calls.insert(receipt.call, new) else {
            return i128::from(receipt.units);
        };
        let key = [receipt.inc, receipt.call];
        if before.ended {
            let says = format!("{name}: call {} had ended before", receipt.call);
            books.find(Kind::Outcome, says, OF_CALL, key);
        }
        if before.origin != receipt.origin {
            let says = format!(
                "{name}: call {} was {} before",
                receipt.call, ORIGINS[before.origin]
            );
            books.find(Kind::Outcome, says, OF_CALL, key);
        }
        if receipt.units < before.units {
            let says = format!(
                "{name}: call {} has {} units, it had {}",
                receipt.call, receipt.units, before.units
            );
            books.find(Kind::Outcome, says, OF_CALL, key);
        }
        i128::from(receipt.units) - i128::from(before.units)
    }
}

// === impl Books ===

impl Books<'_> {
    /// Adds a receipt's units to every cell that is charged with them.
    fn prove(&mut self, receipt: &Read, added: i128) {
        for cell in &receipt.held {
            let proven = self.proven.entry((receipt.inc, *cell)).or_default();
            proven[receipt.origin] += added;
        }
        for attempt in &receipt.attempts {
            // Whoever was asked had to have a slice of that miner.
            self.proven.entry((receipt.inc, attempt.cell)).or_default();
        }
    }

    /// Counts a receipt's attempts, once the call has ended.
    fn count(&mut self, receipt: &Read, added: i128) {
        let mut changed = BTreeSet::new();
        if added != 0 {
            changed.extend(receipt.held.first());
        }
        if !receipt.is_part() {
            for attempt in &receipt.attempts {
                changed.insert(&attempt.cell);
                let key = (receipt.inc, attempt.cell, receipt.origin);
                let tally = self.counted.entry(key).or_default();
                tally.attempts[usize::from(attempt.outcome)] += 1;
                if attempt.is_good() {
                    tally.first_chunk_us += i128::from(attempt.first_chunk_us);
                    tally.duration_us += i128::from(attempt.duration_us);
                }
            }
        }
        for cell in changed {
            let key = (receipt.inc, *cell, receipt.origin);
            self.counted.entry(key).or_default().rev += 1;
        }
    }

    /// Incarnations that were told of receipts of which none is there.
    fn find_unproven(&mut self) {
        let gone: Vec<(i64, i64)> = self
            .progressed
            .iter()
            .filter(|(_, at)| at.next_off != 0)
            .map(|(inc, at)| (*inc, at.next_off))
            .collect();
        for (inc, told) in gone {
            // Those that have receipts were compared above.
            let says = format!("incarnation {inc}: no receipts, {told} acknowledged");
            self.find(Kind::Offset, says, ("inc_period", "inc = ?2"), [inc]);
        }
    }
}
