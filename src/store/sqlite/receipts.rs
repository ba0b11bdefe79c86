//! Receipts to rows and back, with their checksums.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};
use smallvec::SmallVec;
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;

use super::rows::{RowFault, int, origin, origin_int, period_int, uint, units, units_int};

/// The columns of a receipt, in the order that [`receipt_of`] reads.
pub(super) const RECEIPT_COLUMNS: &str = "period, inc, off, call, origin, finish, quality, units, \
     prompt_units, admitted_ms, client, task, held, attempts, digest, labels, claim, crc";

/// A receipt with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacedReceipt {
    pub(super) period: Period,
    pub(super) inc: Incarnation,
    pub(super) off: u64,
    pub(super) receipt: Receipt,
}

/// The bytes of an attempt: cell, outcome, units, first chunk, duration.
const ATTEMPT_BYTES: usize = 4 + 1 + 8 + 8 + 8;

/// Stands for a first chunk that never came.
const NO_CHUNK: u64 = u64::MAX;

/// Writes a receipt at its place.
pub(super) fn insert_receipt(
    conn: &Connection,
    period: Period,
    inc: Incarnation,
    off: u64,
    receipt: &Receipt,
) -> Result<(), RowFault> {
    let key = [period_int(period), int(inc.0), int(off)];
    let (held, attempts, labels) = (
        held_bytes(&receipt.held),
        attempt_bytes(&receipt.attempts),
        label_bytes(&receipt.labels),
    );
    let numbers = receipt_numbers(receipt);
    let crc = receipt_crc(
        key,
        numbers,
        [&*receipt.client, &*receipt.task],
        [&held, &attempts, &receipt.digest, &labels],
    );
    conn.prepare_cached(
        "INSERT INTO receipt (period, inc, off, call, origin, finish, quality, units,
             prompt_units, admitted_ms, client, task, held, attempts, digest, labels, claim, crc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        key[0],
        key[1],
        key[2],
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
        numbers[5],
        numbers[6],
        &*receipt.client,
        &*receipt.task,
        held,
        attempts,
        &receipt.digest[..],
        labels,
        receipt.claim.map(int),
        crc,
    ])?;
    Ok(())
}

/// A receipt from a row of [`RECEIPT_COLUMNS`], proven by its checksum.
pub(super) fn receipt_of(row: &Row<'_>) -> Result<PlacedReceipt, RowFault> {
    const T: &str = "receipt";
    let damaged = || RowFault::Damaged(T);
    let client: Arc<str> = row.get(10)?;
    let task: Arc<str> = row.get(11)?;
    let blob = |column: usize| {
        row.get_ref(column)?
            .as_blob()
            .map_err(|_| RowFault::Damaged(T))
    };
    let (held, attempts, digest, labels) = (blob(12)?, blob(13)?, blob(14)?, blob(15)?);
    let receipt = Receipt {
        call: uint(row.get(3)?, T)?,
        origin: origin(row.get(4)?, T)?,
        client,
        task,
        admitted_ms: uint(row.get(9)?, T)?,
        finish: finish(row.get(5)?).ok_or_else(damaged)?,
        quality: quality(row.get(6)?).ok_or_else(damaged)?,
        units: units(row.get(7)?, T)?,
        prompt_units: units(row.get(8)?, T)?,
        held: held_of(held).ok_or_else(damaged)?,
        attempts: attempts_of(attempts).ok_or_else(damaged)?,
        digest: digest.try_into().map_err(|_| damaged())?,
        labels: labels_of(labels).ok_or_else(damaged)?,
        claim: row
            .get::<_, Option<i64>>(16)?
            .map(|claim| uint(claim, T))
            .transpose()?,
    };
    let key = [row.get(0)?, row.get(1)?, row.get(2)?];
    let wanted = receipt_crc(
        key,
        receipt_numbers(&receipt),
        [&*receipt.client, &*receipt.task],
        [held, attempts, digest, labels],
    );
    if wanted != row.get::<_, i64>(17)? {
        return Err(damaged());
    }
    Ok(PlacedReceipt {
        period: Period::starting_at(uint(key[0], T)?),
        inc: Incarnation(uint(key[1], T)?),
        off: uint(key[2], T)?,
        receipt,
    })
}

/// The whole-number columns: call, origin, finish, quality, units, prompt units, admission,
/// claim.
fn receipt_numbers(receipt: &Receipt) -> [i64; 8] {
    [
        int(receipt.call),
        origin_int(receipt.origin),
        finish_int(receipt.finish),
        quality_int(receipt.quality),
        units_int(receipt.units),
        units_int(receipt.prompt_units),
        int(receipt.admitted_ms),
        receipt.claim.map_or(-1, int),
    ]
}

fn receipt_crc(key: [i64; 3], numbers: [i64; 8], texts: [&str; 2], blobs: [&[u8]; 4]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for number in key.into_iter().chain(numbers) {
        hasher.update(&number.to_le_bytes());
    }
    for bytes in texts.map(str::as_bytes).into_iter().chain(blobs) {
        // The length first, so that bytes cannot move from one column to the next unseen.
        hasher.update(&bytes.len().to_le_bytes());
        hasher.update(bytes);
    }
    i64::from(hasher.finalize())
}

fn finish_int(finish: Finish) -> i64 {
    match finish {
        Finish::Running => 0,
        Finish::NoCapacity => 1,
        Finish::GatewayLost => 2,
        Finish::SlowConsumer => 3,
        Finish::Drained => 4,
        Finish::Internal => 5,
        Finish::Attempt(outcome) => 16 + i64::from(outcome_byte(outcome)),
    }
}

pub(super) fn finish(number: i64) -> Option<Finish> {
    Some(match number {
        0 => Finish::Running,
        1 => Finish::NoCapacity,
        2 => Finish::GatewayLost,
        3 => Finish::SlowConsumer,
        4 => Finish::Drained,
        5 => Finish::Internal,
        other => Finish::Attempt(outcome(u8::try_from(other.checked_sub(16)?).ok()?)?),
    })
}

fn quality_int(quality: Quality) -> i64 {
    match quality {
        Quality::Exact => 0,
        Quality::Estimated => 1,
        Quality::Partial => 2,
    }
}

fn quality(number: i64) -> Option<Quality> {
    Some(match number {
        0 => Quality::Exact,
        1 => Quality::Estimated,
        2 => Quality::Partial,
        _ => return None,
    })
}

/// The place of an outcome among [`Outcome::ALL`], spelled out because it is on disk.
fn outcome_byte(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Good => 0,
        Outcome::Busy => 1,
        Outcome::Refused => 2,
        Outcome::Cancelled => 3,
        Outcome::Lost => 4,
        Outcome::Stalled => 5,
        Outcome::Protocol => 6,
    }
}

fn outcome(byte: u8) -> Option<Outcome> {
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome_byte(*outcome) == byte)
}

fn held_bytes(held: &[CellId]) -> Vec<u8> {
    held.iter().flat_map(|cell| cell.0.to_le_bytes()).collect()
}

fn held_of(bytes: &[u8]) -> Option<SmallVec<[CellId; 3]>> {
    let (cells, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| {
        cells
            .iter()
            .map(|cell| CellId(u32::from_le_bytes(*cell)))
            .collect()
    })
}

fn attempt_bytes(attempts: &[Attempt]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(attempts.len().saturating_mul(ATTEMPT_BYTES));
    for attempt in attempts {
        bytes.extend_from_slice(&attempt.cell.0.to_le_bytes());
        bytes.push(outcome_byte(attempt.outcome));
        bytes.extend_from_slice(&attempt.units.get().to_le_bytes());
        bytes.extend_from_slice(&attempt.first_chunk_us.unwrap_or(NO_CHUNK).to_le_bytes());
        bytes.extend_from_slice(&attempt.duration_us.to_le_bytes());
    }
    bytes
}

fn attempts_of(bytes: &[u8]) -> Option<SmallVec<[Attempt; 2]>> {
    let (attempts, rest) = bytes.as_chunks::<ATTEMPT_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    attempts
        .iter()
        .map(|bytes| {
            let (cell, rest) = bytes.split_first_chunk::<4>()?;
            let (kind, rest) = rest.split_first()?;
            let (amounts, _) = rest.as_chunks::<8>();
            let [units, first_chunk, duration] = amounts else {
                return None;
            };
            Some(Attempt {
                cell: CellId(u32::from_le_bytes(*cell)),
                outcome: outcome(*kind)?,
                units: Units::new(u64::from_le_bytes(*units)),
                first_chunk_us: Some(u64::from_le_bytes(*first_chunk))
                    .filter(|first_chunk| *first_chunk != NO_CHUNK),
                duration_us: u64::from_le_bytes(*duration),
            })
        })
        .collect()
}

/// Each text after its length, four bytes.
fn label_bytes(labels: &[(String, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn labels_of(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        let more = !rest.is_empty();
        Some((str::from_utf8(text).ok()?.to_owned(), more))
    };
    let mut labels = Vec::new();
    loop {
        let (name, _) = next()?;
        let (value, more) = next()?;
        labels.push((name, value));
        if !more {
            return Some(labels);
        }
    }
}
