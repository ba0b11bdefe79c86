//! The signed totals of a period against its books, for every miner and task.
//!
//! What comes late is sealed anew, soon but not at once, so that the newest seal may lag
//! behind the books. However late it is:
//! - it never says more than the books do;
//! - its units and what it has in doubt are together no less than those of the books: proof
//!   and returns take from what is in doubt, and nobody is granted more of a sealed period.
//!   So units are equal wherever nothing was in doubt;
//! - every revision has the digest of its own totals.
//!
//! It has to say exactly what the books do, attempts and what is in doubt included, once a
//! later period was sealed by somebody who saw all of this one; for whoever seals looks at
//! every period that is due, the oldest first. Which is certain when an incarnation that is
//! younger than all of this period spent in the later one: the others were dead by then. And
//! when all said that nothing of theirs is open any more, and the later period began more than
//! an hour after this one ended.
//!
//! Its message is read by a description of its own. The signature is checked by
//! `taugate key verify-seal`, which needs no store.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::{Books, ORIGINS};
use crate::audit::finding::Kind;

/// All said that nothing is open, and this much later a period was sealed, seconds: nothing
/// was still under way.
const SETTLED_AFTER_S: i64 = 3600;

/// As much of a seal as is compared.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(uint64, tag = "3")]
    period_s: u64,
    #[prost(uint32, tag = "4")]
    length_s: u32,
    #[prost(uint32, tag = "5")]
    revision: u32,
    #[prost(message, repeated, tag = "6")]
    totals: Vec<Total>,
    #[prost(message, repeated, tag = "7")]
    in_doubt: Vec<InDoubt>,
    #[prost(bytes = "vec", tag = "8")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Total {
    #[prost(string, tag = "1")]
    miner: String,
    #[prost(string, tag = "2")]
    task: String,
    #[prost(int32, tag = "3")]
    origin: i32,
    #[prost(uint64, tag = "4")]
    units: u64,
    #[prost(uint64, tag = "5")]
    attempts: u64,
}

#[derive(Clone, PartialEq, Message)]
struct InDoubt {
    #[prost(string, tag = "1")]
    miner: String,
    #[prost(string, tag = "2")]
    task: String,
    #[prost(uint64, tag = "3")]
    units: u64,
}

/// A row of `seal`.
struct Row {
    id: i64,
    revision: u32,
    payload: Vec<u8>,
}

/// What is said of one miner and task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    /// By origin.
    units: [i128; 2],
    attempts: [i128; 2],
    in_doubt: i128,
}

/// Hotkey and task.
type Key = (Vec<u8>, String);

// === impl Books ===

impl Books<'_> {
    /// All seals of the period, the newest against the books.
    pub(super) fn compare_seals(&mut self) {
        match self.read_seals() {
            Ok(seals) => {
                let last = seals.len().saturating_sub(1);
                for (at, seal) in seals.iter().enumerate() {
                    let payload = self.check_seal(seal);
                    if let Some(payload) = payload.filter(|_| at == last) {
                        self.compare_newest(seal.id, &payload);
                    }
                }
            }
            Err(error) => self.findings.unreadable("seal", &error),
        }
    }

    fn read_seals(&self) -> rusqlite::Result<Vec<Row>> {
        let sql = "SELECT id, revision, payload FROM seal WHERE period = ?1 ORDER BY revision";
        let mut seals = self.moment.conn().prepare_cached(sql)?;
        seals
            .query_map([self.period], |row| {
                Ok(Row {
                    id: row.get(0)?,
                    revision: row.get(1)?,
                    payload: row.get(2)?,
                })
            })?
            .collect()
    }

    /// Whether a seal can be read, is that of its row and has the digest of its totals.
    fn check_seal(&mut self, seal: &Row) -> Option<Payload> {
        let period = u64::try_from(self.period).ok();
        let payload = Payload::decode(&*seal.payload).ok().filter(|payload| {
            Some(payload.period_s) == period && payload.revision == seal.revision
        });
        let Some(payload) = payload else {
            self.find_seal(seal.id, "its seal cannot be read".to_owned());
            return None;
        };
        if payload.digest != digest(&payload.totals) {
            let says = "its seal's digest is not that of its totals".to_owned();
            self.find_seal(seal.id, says);
        }
        Some(payload)
    }

    fn find_seal(&mut self, id: i64, says: String) {
        self.find(Kind::Seal, says, ("seal", "id = ?2"), [id]);
    }

    fn compare_newest(&mut self, id: i64, payload: &Payload) {
        let read = self.booked();
        let read = read.and_then(|booked| Ok((booked, self.is_settled(payload)?)));
        let (booked, settled) = match read {
            Ok(read) => read,
            Err(error) => return self.findings.unreadable("seal", &error),
        };
        let Some(sealed) = said_by(payload) else {
            return self.find_seal(id, "its seal names what is no miner or origin".to_owned());
        };
        let keys: BTreeSet<&Key> = booked.keys().chain(sealed.keys()).collect();
        for key in keys {
            let sealed = sealed.get(key).copied().unwrap_or_default();
            let books = booked.get(key).copied().unwrap_or_default();
            let wrong = if settled {
                sealed != books
            } else {
                !sealed.may_lag_behind(&books)
            };
            if wrong {
                let miner = bs58::encode(&key.0).into_string();
                let says = format!(
                    "its seal says {sealed} of {miner}, {}, where the books say {books}",
                    key.1
                );
                self.find_seal(id, says);
            }
        }
    }

    /// Whether somebody who sealed a later period must have seen all of this one.
    fn is_settled(&self, payload: &Payload) -> rusqlite::Result<bool> {
        let conn = self.moment.conn();
        let of_period = self.leases.keys().map(|(inc, _)| *inc);
        let incs: BTreeSet<i64> = of_period.chain(self.progressed.keys().copied()).collect();
        let youngest = incs.last().copied().unwrap_or(0);
        let younger_sealed = conn
            .prepare_cached(
                "SELECT 1 FROM seal s WHERE s.period > ?1 AND EXISTS
                     (SELECT 1 FROM lease l WHERE l.period = s.period AND l.inc > ?2)",
            )?
            .exists([self.period, youngest])?;
        let closed = |inc: &i64| self.progressed.get(inc).is_some_and(|at| at.closed);
        let long_after = self
            .period
            .saturating_add(i64::from(payload.length_s))
            .saturating_add(SETTLED_AFTER_S);
        let sealed_long_after = conn
            .prepare_cached("SELECT 1 FROM seal WHERE period > ?1")?
            .exists([long_after])?;
        Ok(younger_sealed || (sealed_long_after && incs.iter().all(closed)))
    }

    /// What the counters say of miners.
    fn booked(&self) -> rusqlite::Result<BTreeMap<Key, Said>> {
        let mut booked: BTreeMap<Key, Said> = BTreeMap::new();
        let conn = self.moment.conn();
        let sql = "SELECT s.name, s.task, l.organic, l.synthetic, l.granted, l.inc
                   FROM lease l JOIN subject s ON s.id = l.cell
                   WHERE l.period = ?1 AND s.kind = 0";
        let mut leases = conn.prepare_cached(sql)?;
        let mut rows = leases.query([self.period])?;
        while let Some(row) = rows.next()? {
            let said = booked.entry((row.get(0)?, row.get(1)?)).or_default();
            let mut rest = i128::from(row.get::<_, i64>(4)?);
            for (origin, sum) in said.units.iter_mut().enumerate() {
                let units: i64 = row.get(2 + origin)?;
                *sum += i128::from(units);
                rest -= i128::from(units);
            }
            let at = self.progressed.get(&row.get(5)?);
            if !at.is_some_and(|at| at.closed) {
                said.in_doubt += rest;
            }
        }
        let sql = "SELECT s.name, s.task, t.origin, t.good + t.busy + t.refused + t.cancelled
                       + t.lost + t.stalled + t.protocol
                   FROM tally t JOIN subject s ON s.id = t.cell
                   WHERE t.period = ?1 AND s.kind = 0";
        let mut tallies = conn.prepare_cached(sql)?;
        let mut rows = tallies.query([self.period])?;
        while let Some(row) = rows.next()? {
            let origin = usize::try_from(row.get::<_, i64>(2)?).unwrap_or(usize::MAX);
            let said = booked.entry((row.get(0)?, row.get(1)?)).or_default();
            if let Some(sum) = said.attempts.get_mut(origin) {
                *sum += i128::from(row.get::<_, i64>(3)?);
            }
        }
        Ok(booked)
    }
}

// === impl Said ===

impl Said {
    /// Whether books that a seal was made of can have become these.
    fn may_lag_behind(&self, books: &Self) -> bool {
        let no_more = |sealed: [i128; 2], books: [i128; 2]| {
            sealed
                .into_iter()
                .zip(books)
                .all(|(sealed, books)| sealed <= books)
        };
        no_more(self.units, books.units)
            && no_more(self.attempts, books.attempts)
            && self.spent_at_most() >= books.spent_at_most()
    }

    fn spent_at_most(&self) -> i128 {
        self.units.into_iter().sum::<i128>() + self.in_doubt
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (origin, name) in ORIGINS.into_iter().enumerate() {
            let (units, attempts) = (self.units[origin], self.attempts[origin]);
            write!(f, "{units} {name} units and {attempts} attempts, ")?;
        }
        write!(f, "{} units in doubt", self.in_doubt)
    }
}

/// What a seal says of each miner and task; `None` when it names what is none.
fn said_by(payload: &Payload) -> Option<BTreeMap<Key, Said>> {
    let mut all: BTreeMap<Key, Said> = BTreeMap::new();
    for total in &payload.totals {
        let said = all.entry(key_of(&total.miner, &total.task)?).or_default();
        // 1 is organic; 0 is none.
        let origin = usize::try_from(total.origin).ok()?.checked_sub(1)?;
        *said.units.get_mut(origin)? += i128::from(total.units);
        *said.attempts.get_mut(origin)? += i128::from(total.attempts);
    }
    for row in &payload.in_doubt {
        let said = all.entry(key_of(&row.miner, &row.task)?).or_default();
        said.in_doubt += i128::from(row.units);
    }
    Some(all)
}

/// The 32 bytes of an address, between its format and its checksum.
fn key_of(miner: &str, task: &str) -> Option<Key> {
    let address = bs58::decode(miner).into_vec().ok()?;
    let hotkey = address.get(1..33).filter(|_| address.len() == 35)?.to_vec();
    Some((hotkey, task.to_owned()))
}

fn digest(totals: &[Total]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for total in totals {
        for text in [&total.miner, &total.task] {
            hash.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(total.origin.to_be_bytes());
        hash.update(total.units.to_be_bytes());
        hash.update(total.attempts.to_be_bytes());
    }
    hash.finalize().into()
}
