//! The signed totals of a period against its books. A seal may lag behind, until what came
//! late is sealed anew; it never says more than the books do.
//!
//! Its message is read by a description of its own. The signature is checked by
//! `taugate key verify-seal`, which needs no store.

use std::collections::BTreeMap;

use prost::Message;
use rusqlite::OptionalExtension as _;
use sha2::{Digest as _, Sha256};

use super::{Books, ORIGINS};
use crate::audit::finding::Kind;

/// As much of a seal as is compared.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(uint64, tag = "3")]
    period_s: u64,
    #[prost(message, repeated, tag = "6")]
    totals: Vec<Total>,
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

/// Hotkey, task and origin.
type Key = (Vec<u8>, String, usize);

// === impl Books ===

impl Books<'_> {
    /// The newest seal of the period, if it has one.
    pub(super) fn compare_seal(&mut self) {
        let sealed = self.read_seal();
        let sealed = sealed.and_then(|sealed| Ok((sealed, self.booked()?)));
        match sealed {
            Ok((Some((id, payload)), booked)) => self.compare_totals(id, &payload, &booked),
            Ok((None, _)) => {}
            Err(error) => self.findings.unreadable("seal", &error),
        }
    }

    fn read_seal(&self) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
        let sql = "SELECT id, payload FROM seal WHERE period = ?1 ORDER BY revision DESC LIMIT 1";
        let mut seal = self.moment.conn().prepare_cached(sql)?;
        seal.query_row([self.period], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    }

    /// Units and attempts of miners, as the counters say.
    fn booked(&self) -> rusqlite::Result<BTreeMap<Key, (i128, i128)>> {
        let mut booked: BTreeMap<Key, (i128, i128)> = BTreeMap::new();
        let conn = self.moment.conn();
        let sql = "SELECT s.name, s.task, l.organic, l.synthetic
                   FROM lease l JOIN subject s ON s.id = l.cell
                   WHERE l.period = ?1 AND s.kind = 0";
        let mut leases = conn.prepare_cached(sql)?;
        let mut rows = leases.query([self.period])?;
        while let Some(row) = rows.next()? {
            for origin in 0..ORIGINS.len() {
                let key = (row.get(0)?, row.get(1)?, origin);
                let units: i64 = row.get(2 + origin)?;
                booked.entry(key).or_default().0 += i128::from(units);
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
            let key = (row.get(0)?, row.get(1)?, origin);
            let attempts: i64 = row.get(3)?;
            booked.entry(key).or_default().1 += i128::from(attempts);
        }
        Ok(booked)
    }

    fn compare_totals(&mut self, id: i64, bytes: &[u8], booked: &BTreeMap<Key, (i128, i128)>) {
        let at = ("seal", "id = ?2");
        let payload = Payload::decode(bytes).ok();
        let period = u64::try_from(self.period).ok();
        let Some(payload) = payload.filter(|payload| Some(payload.period_s) == period) else {
            return self.find(Kind::Seal, "its seal cannot be read".to_owned(), at, [id]);
        };
        if payload.digest != digest(&payload.totals) {
            let says = "its seal's digest is not that of its totals".to_owned();
            self.find(Kind::Seal, says, at, [id]);
        }
        for total in &payload.totals {
            let (miner, task) = (&total.miner, &total.task);
            let key = key_of(total);
            let (units, attempts) = key
                .and_then(|key| booked.get(&key).copied())
                .unwrap_or((0, 0));
            for (what, sealed, books) in [
                ("units", total.units, units),
                ("attempts", total.attempts, attempts),
            ] {
                if i128::from(sealed) > books {
                    let says = format!(
                        "its seal says {sealed} {what} of {miner}, {task}, where the books say {books}"
                    );
                    self.find(Kind::Seal, says, at, [id]);
                }
            }
        }
    }
}

/// The 32 bytes of an address, between its format and its checksum.
fn key_of(total: &Total) -> Option<Key> {
    let address = bs58::decode(&total.miner).into_vec().ok()?;
    let hotkey = address.get(1..33).filter(|_| address.len() == 35)?.to_vec();
    // 1 is organic; 0 is none.
    let origin = usize::try_from(total.origin).ok()?.checked_sub(1)?;
    Some((hotkey, total.task.clone(), origin))
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
