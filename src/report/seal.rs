//! Seals: the signed totals of an ended period, and whether one holds.
//!
//! The digest is SHA-256 over the totals, sorted by miner, task and origin (texts by their
//! bytes), each as: the miner's ss58 address and the task's id behind their lengths (four
//! bytes, big end first), the origin's number (four bytes), units and attempts (eight bytes
//! each). The signature is one over a record of kind [`RECORD_KIND`]; see
//! [`crate::identity::signature`].

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use taugate_ledger::ids::Origin;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;

use super::SealRow;
use super::wire::origin;
use crate::identity::hotkey::{AddressError, Hotkey, Keypair};
use crate::identity::signature::SignatureError;
use crate::proto::v1;
use crate::task::TaskId;

/// The kind under which seals are signed.
pub const RECORD_KIND: &str = "seal";

/// A total of a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// The miner.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// Where the work came from.
    pub origin: Origin,
    /// Booked.
    pub units: Units,
    /// Attempts, whatever their end.
    pub attempts: u64,
}

/// What was granted to gateways that never closed and is not proven: at most so much was
/// delivered without a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// The miner.
    pub miner: Hotkey,
    /// The task.
    pub task: TaskId,
    /// At most.
    pub units: Units,
}

/// What a seal says of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeriodBooks {
    /// The totals of all miners.
    pub totals: Vec<Total>,
    /// What is in doubt.
    pub in_doubt: Vec<InDoubt>,
}

/// Makes the seals of one validator.
#[derive(Clone, Copy, Debug)]
pub struct Sealer<'a> {
    /// Signs.
    pub keypair: &'a Keypair,
    /// The network's name.
    pub network: &'a str,
    /// The length of periods.
    pub length: PeriodLength,
}

/// What is wrong with a seal; the first thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// The bytes are no message of that kind.
    #[error("the payload is no SealPayload")]
    Payload,
    /// Who is said to have signed is no hotkey.
    #[error("the signer is no hotkey: {0}")]
    Signer(AddressError),
    /// The signature.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// Somebody signed another validator's seal.
    #[error("it names the validator {named}, but {signer} signed it")]
    OtherValidator {
        /// Whom the payload names.
        named: String,
        /// Who signed.
        signer: String,
    },
    /// The period is none.
    #[error("the period {start_s} is no multiple of its length, {length_s} s")]
    Period {
        /// Its start, Unix seconds.
        start_s: u64,
        /// Its length, seconds.
        length_s: u32,
    },
    /// Revisions begin with 1.
    #[error("it has no revision")]
    Revision,
    /// A row is of no miner, no task or no origin.
    #[error("row {0} of its totals has no miner, task or origin")]
    Row(usize),
    /// The rows are not in their order, or one stands twice.
    #[error("row {0} of its totals is out of order or stands twice")]
    Order(usize),
    /// The digest is of other totals.
    #[error("its digest is not that of its totals")]
    Digest,
}

// === impl PeriodBooks ===

impl PeriodBooks {
    /// Puts everything in the order of a seal.
    pub fn sort(&mut self) {
        let key = |miner: &Hotkey, task: &TaskId| (miner.to_string(), task.to_string());
        self.totals
            .sort_by_cached_key(|row| (key(&row.miner, &row.task), row.origin));
        self.in_doubt
            .sort_by_cached_key(|row| key(&row.miner, &row.task));
    }

    /// Whether a seal says the same.
    #[must_use]
    pub fn is_said_by(&self, payload: &[u8]) -> bool {
        v1::SealPayload::decode(payload).is_ok_and(|said| {
            said.totals == self.wire_totals() && said.in_doubt == self.wire_in_doubt()
        })
    }

    fn wire_totals(&self) -> Vec<v1::SealTotal> {
        let rows = self.totals.iter().map(|row| v1::SealTotal {
            miner: row.miner.to_string(),
            task: row.task.to_string(),
            origin: origin(row.origin).into(),
            units: row.units.get(),
            attempts: row.attempts,
        });
        rows.collect()
    }

    fn wire_in_doubt(&self) -> Vec<v1::SealInDoubt> {
        let rows = self.in_doubt.iter().map(|row| v1::SealInDoubt {
            miner: row.miner.to_string(),
            task: row.task.to_string(),
            units: row.units.get(),
        });
        rows.collect()
    }
}

// === impl Sealer ===

impl Sealer<'_> {
    /// The seal of a period's books, which must be sorted. Its place among the seals is
    /// given when it is kept.
    #[must_use]
    pub fn seal(&self, period: Period, revision: u32, books: &PeriodBooks) -> SealRow {
        let totals = books.wire_totals();
        let payload = v1::SealPayload {
            network: self.network.to_owned(),
            validator: self.keypair.hotkey().to_string(),
            period_s: period.start_s(),
            length_s: self.length.secs(),
            revision,
            digest: digest(&totals).to_vec(),
            totals,
            in_doubt: books.wire_in_doubt(),
        };
        let payload = payload.encode_to_vec();
        SealRow {
            id: 0,
            period,
            revision,
            signature: self.keypair.sign_record(RECORD_KIND, &payload),
            payload,
            hotkey: self.keypair.hotkey(),
        }
    }
}

// === impl SealRow ===

impl SealRow {
    /// As it is sent.
    #[must_use]
    pub fn to_wire(&self) -> v1::Seal {
        v1::Seal {
            record: Some(v1::SignedRecord {
                payload: self.payload.clone(),
                signature: self.signature.to_vec(),
                hotkey: self.hotkey.to_string(),
            }),
        }
    }
}

/// Checks a seal by itself: whether it was signed by the validator that it names, and says
/// what such a seal may say. Whether that validator is the right one is the caller's to ask.
///
/// # Errors
/// See [`SealFault`].
pub fn verify(record: &v1::SignedRecord) -> Result<v1::SealPayload, SealFault> {
    let signer: Hotkey = record.hotkey.parse().map_err(SealFault::Signer)?;
    signer.verify_record(RECORD_KIND, &record.payload, &record.signature)?;
    let said = v1::SealPayload::decode(&*record.payload).map_err(|_| SealFault::Payload)?;
    if said.validator != record.hotkey {
        return Err(SealFault::OtherValidator {
            named: said.validator,
            signer: record.hotkey.clone(),
        });
    }
    let whole = said.period_s.checked_rem(u64::from(said.length_s));
    if whole != Some(0) {
        return Err(SealFault::Period {
            start_s: said.period_s,
            length_s: said.length_s,
        });
    }
    if said.revision == 0 {
        return Err(SealFault::Revision);
    }
    rows(&said)?;
    if said.digest == digest(&said.totals) {
        Ok(said)
    } else {
        Err(SealFault::Digest)
    }
}

/// A seal in words, a line for each thing; for people and scripts.
#[must_use]
pub fn told(said: &v1::SealPayload) -> String {
    let units = |from: v1::Origin| -> u64 {
        let rows = said.totals.iter();
        rows.filter(|row| row.origin() == from)
            .map(|row| row.units)
            .fold(0, u64::saturating_add)
    };
    let in_doubt = said.in_doubt.iter().map(|row| row.units);
    let start = prost_types::Timestamp {
        seconds: i64::try_from(said.period_s).unwrap_or(i64::MAX),
        nanos: 0,
    };
    format!(
        "holds\nvalidator {}\nnetwork {}\nperiod {start}, {} s\nrevision {}\n\
         totals {}\norganic {} units\nsynthetic {} units\nin doubt {} units\ndigest {}",
        said.validator,
        said.network,
        said.length_s,
        said.revision,
        said.totals.len(),
        units(v1::Origin::Organic),
        units(v1::Origin::Synthetic),
        in_doubt.fold(0, u64::saturating_add),
        hex::encode(&said.digest),
    )
}

fn rows(said: &v1::SealPayload) -> Result<(), SealFault> {
    let key = |row: &v1::SealTotal| (row.miner.clone(), row.task.clone(), row.origin);
    for (at, row) in said.totals.iter().enumerate() {
        let named = row.miner.parse::<Hotkey>().is_ok() && !row.task.is_empty();
        let from = v1::Origin::try_from(row.origin).unwrap_or_default();
        if !named || from == v1::Origin::Unspecified {
            return Err(SealFault::Row(at));
        }
        let before = at.checked_sub(1).and_then(|at| said.totals.get(at));
        if before.is_some_and(|before| key(before) >= key(row)) {
            return Err(SealFault::Order(at));
        }
    }
    Ok(())
}

/// The digest of sorted totals.
fn digest(totals: &[v1::SealTotal]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for row in totals {
        for text in [&row.miner, &row.task] {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            hash.update(length.to_be_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(row.origin.to_be_bytes());
        hash.update(row.units.to_be_bytes());
        hash.update(row.attempts.to_be_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Keypair {
        Keypair::from_secret(name).unwrap()
    }

    fn books() -> PeriodBooks {
        let row = |name, origin, units| Total {
            miner: key(name).hotkey(),
            task: "tiny".into(),
            origin,
            units: Units::new(units),
            attempts: 3,
        };
        let mut books = PeriodBooks {
            totals: vec![
                row("//Two", Origin::Synthetic, 5),
                row("//Two", Origin::Organic, 70),
                row("//One", Origin::Organic, 9),
            ],
            in_doubt: vec![InDoubt {
                miner: key("//One").hotkey(),
                task: "tiny".into(),
                units: Units::new(4),
            }],
        };
        books.sort();
        books
    }

    fn sealed(books: &PeriodBooks) -> v1::SignedRecord {
        let keypair = key("//Validator");
        let sealer = Sealer {
            keypair: &keypair,
            network: "test",
            length: PeriodLength::from_secs(600).unwrap(),
        };
        let seal = sealer.seal(Period::starting_at(1200), 1, books);
        seal.to_wire().record.unwrap()
    }

    /// A seal whose payload was changed and then signed again by `name`.
    fn changed(name: &str, change: impl FnOnce(&mut v1::SealPayload)) -> SealFault {
        let mut record = sealed(&books());
        let mut said = v1::SealPayload::decode(&*record.payload).unwrap();
        change(&mut said);
        record.payload = said.encode_to_vec();
        let keypair = key(name);
        record.signature = keypair.sign_record(RECORD_KIND, &record.payload).to_vec();
        record.hotkey = keypair.hotkey().to_string();
        verify(&record).unwrap_err()
    }

    #[test]
    fn a_seal_holds_and_says_what_it_was_made_of() {
        let said = verify(&sealed(&books())).unwrap();
        assert_eq!(
            (said.period_s, said.length_s, said.revision),
            (1200, 600, 1)
        );
        assert_eq!(said.totals.iter().map(|row| row.units).sum::<u64>(), 84);
        assert!(books().is_said_by(&sealed(&books()).payload));
        let mut other = books();
        other.in_doubt.clear();
        assert!(!other.is_said_by(&sealed(&books()).payload));
    }

    #[test]
    fn the_digest_of_some_totals_is_known() {
        // So that others can check theirs.
        let one = v1::SealTotal {
            miner: "m".into(),
            task: "t".into(),
            origin: 1,
            units: 2,
            attempts: 3,
        };
        let bytes = "00000001 6d 00000001 74 00000001 0000000000000002 0000000000000003";
        let bytes = hex::decode(bytes.replace(' ', "")).unwrap();
        assert_eq!(digest(&[one]), <[u8; 32]>::from(Sha256::digest(bytes)));
    }

    #[test]
    fn what_is_wrong_with_a_seal_is_told() {
        let mut flipped = sealed(&books());
        flipped.payload[3] ^= 1;
        let fault = verify(&flipped).unwrap_err();
        assert_eq!(fault, SealFault::Signature(SignatureError::Mismatch));
        let foreign = changed("//Other", |_| {});
        assert!(matches!(foreign, SealFault::OtherValidator { .. }));
        let mine = "//Validator";
        let totals = changed(mine, |said| said.totals[0].units += 1);
        assert_eq!(totals, SealFault::Digest);
        let swapped = changed(mine, |said| said.totals.swap(0, 2));
        assert!(matches!(swapped, SealFault::Order(_)));
        let twice = changed(mine, |said| said.totals.insert(1, said.totals[0].clone()));
        assert_eq!(twice, SealFault::Order(1));
        let period = changed(mine, |said| said.period_s += 1);
        assert!(matches!(period, SealFault::Period { .. }));
        let endless = changed(mine, |said| said.length_s = 0);
        assert!(matches!(endless, SealFault::Period { .. }));
        assert_eq!(changed(mine, |said| said.revision = 0), SealFault::Revision);
        assert_eq!(
            changed(mine, |said| said.totals[1].origin = 0),
            SealFault::Row(1)
        );
    }

    #[test]
    fn two_seals_of_one_revision_have_one_digest() {
        // Signatures are randomised, what is signed is not.
        assert_eq!(sealed(&books()).payload, sealed(&books()).payload);
    }
}
