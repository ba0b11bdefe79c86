//! Receipts to rows and back, with their checksums.
//!
//! What SQL reads has columns; all else stands in one body, because each column more costs at
//! every receipt.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, Row};
use smallvec::SmallVec;
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;

use super::rows::{RowFault, int, origin, origin_int, period_int, uint, units, units_int};

/// The columns of a receipt, in the order that [`receipt_of`] reads.
pub(super) const RECEIPT_COLUMNS: &str =
    "period, inc, off, call, origin, finish, units, prompt_units, body, crc";

/// A receipt with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacedReceipt {
    pub(super) period: Period,
    pub(super) inc: Incarnation,
    pub(super) off: u64,
    pub(super) receipt: Receipt,
}

/// Receipts of one period and incarnation on their way to the table: many rows a statement
/// cost half of what as many statements do.
pub(super) struct Lines {
    place: [i64; 2],
    /// One after the other.
    bodies: Vec<u8>,
    lines: Vec<Line>,
}

/// A receipt as its row has it.
pub(super) struct Line {
    /// The columns before the body.
    numbers: [i64; 8],
    /// Among the bodies of [`Lines`].
    body: Range<usize>,
    crc: i64,
    /// The cell by which a refusal is named.
    pub(super) named: CellId,
}

/// What stands in the column `body`: after the version byte the quality (one byte), admission
/// and claim (eight bytes each, -1 for no claim), then the runs, each after its length (four
/// bytes); all numbers with the lowest byte first.
struct Body<'a> {
    quality: u8,
    admitted_ms: i64,
    claim: i64,
    /// Client, task, held, attempts, digest, labels.
    runs: [&'a [u8]; 6],
}

/// The form of a body that is written.
const BODY_VERSION: u8 = 1;

/// Rows in one statement: with more the price of a row falls no further.
const ROWS: usize = 16;

static INSERT_ONE: LazyLock<String> = LazyLock::new(|| insert_rows(1));
static INSERT_MANY: LazyLock<String> = LazyLock::new(|| insert_rows(ROWS));

/// The bytes of an attempt: cell, outcome, units, first chunk, duration.
const ATTEMPT_BYTES: usize = 4 + 1 + 8 + 8 + 8;

/// Stands for a first chunk that never came.
const NO_CHUNK: u64 = u64::MAX;

fn insert_rows(rows: usize) -> String {
    let values = vec!["(?1, ?2, ?, ?, ?, ?, ?, ?, ?, ?)"; rows];
    format!(
        "INSERT INTO receipt ({RECEIPT_COLUMNS}) VALUES {}",
        values.join(", ")
    )
}

// === impl Lines ===

impl Lines {
    pub(super) fn new(period: Period, inc: Incarnation) -> Self {
        Self {
            place: [period_int(period), int(inc.0)],
            bodies: Vec::new(),
            lines: Vec::with_capacity(ROWS),
        }
    }

    /// Takes a receipt; a refusal of it is named by a cell.
    pub(super) fn add(&mut self, off: u64, receipt: &Receipt, named: CellId) {
        let [period, inc] = self.place;
        let numbers = [
            period,
            inc,
            int(off),
            int(receipt.call),
            origin_int(receipt.origin),
            finish_int(receipt.finish),
            units_int(receipt.units),
            units_int(receipt.prompt_units),
        ];
        let begin = self.bodies.len();
        put_body(&mut self.bodies, receipt);
        let body = begin..self.bodies.len();
        let crc = receipt_crc(&numbers, self.bodies.get(begin..).unwrap_or_default());
        self.lines.push(Line {
            numbers,
            body,
            crc,
            named,
        });
    }

    /// Whether as many wait as one statement writes.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= ROWS
    }

    /// Writes all that wait. When it fails they still stand here, and some of them in the table.
    pub(super) fn write(&mut self, conn: &Connection) -> Result<(), RowFault> {
        let (many, rest) = self.lines.as_chunks::<ROWS>();
        for lines in many {
            self.insert(conn, &INSERT_MANY, lines)?;
        }
        for line in rest {
            self.insert(conn, &INSERT_ONE, std::slice::from_ref(line))?;
        }
        self.lines.clear();
        self.bodies.clear();
        Ok(())
    }

    fn insert(&self, conn: &Connection, sql: &str, lines: &[Line]) -> Result<(), RowFault> {
        let mut insert = conn.prepare_cached(sql)?;
        let mut parameters = 1..;
        let mut next = || parameters.next().unwrap_or(usize::MAX);
        for number in self.place {
            insert.raw_bind_parameter(next(), number)?;
        }
        for line in lines {
            let [_, _, own @ ..] = line.numbers;
            for number in own {
                insert.raw_bind_parameter(next(), number)?;
            }
            insert.raw_bind_parameter(next(), self.bodies.get(line.body.clone()))?;
            insert.raw_bind_parameter(next(), line.crc)?;
        }
        insert.raw_execute()?;
        Ok(())
    }

    /// The first of those that wait that ends a call which had ended before.
    pub(super) fn second_end(&self, conn: &Connection) -> Result<Option<&Line>, RowFault> {
        let mut ended = conn.prepare_cached(
            "SELECT 1 FROM receipt INDEXED BY receipt_end
             WHERE period = ?1 AND inc = ?2 AND call = ?3 AND finish <> 0 AND off <> ?4",
        )?;
        let mut here = BTreeSet::new();
        for line in self.lines.iter().filter(|line| line.ends_call()) {
            let [period, inc, off, call, ..] = line.numbers;
            if !here.insert(call) || ended.exists([period, inc, call, off])? {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

// === impl Line ===

impl Line {
    const fn ends_call(&self) -> bool {
        let [_, _, _, _, _, finish, ..] = self.numbers;
        finish != RUNNING
    }
}

fn put_body(bytes: &mut Vec<u8>, receipt: &Receipt) {
    bytes.extend_from_slice(&[BODY_VERSION, quality_byte(receipt.quality)]);
    bytes.extend_from_slice(&int(receipt.admitted_ms).to_le_bytes());
    bytes.extend_from_slice(&receipt.claim.map_or(-1, int).to_le_bytes());
    put_run(bytes, receipt.client.as_bytes());
    put_run(bytes, receipt.task.as_bytes());
    put_counted(bytes, |bytes| put_held(bytes, &receipt.held));
    put_counted(bytes, |bytes| put_attempts(bytes, &receipt.attempts));
    put_run(bytes, &receipt.digest);
    put_counted(bytes, |bytes| put_labels(bytes, &receipt.labels));
}

fn put_run(bytes: &mut Vec<u8>, run: &[u8]) {
    bytes.extend_from_slice(&length_bytes(run.len()));
    bytes.extend_from_slice(run);
}

/// Writes what is as long as is known only afterwards.
fn put_counted(bytes: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend_from_slice(&length_bytes(0));
    let begin = bytes.len();
    put(bytes);
    let length = length_bytes(bytes.len().saturating_sub(begin));
    if let Some(before) = bytes.get_mut(at..begin) {
        before.copy_from_slice(&length);
    }
}

fn length_bytes(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

// === reading ===

/// A receipt from a row of [`RECEIPT_COLUMNS`], proven by its checksum.
pub(super) fn receipt_of(row: &Row<'_>) -> Result<PlacedReceipt, RowFault> {
    const T: &str = "receipt";
    let damaged = || RowFault::Damaged(T);
    let mut numbers = [0_i64; 8];
    for (column, number) in numbers.iter_mut().enumerate() {
        *number = row.get(column)?;
    }
    let bytes = row.get_ref(8)?.as_blob().map_err(|_| damaged())?;
    if receipt_crc(&numbers, bytes) != row.get::<_, i64>(9)? {
        return Err(damaged());
    }
    let body = Body::of(bytes).ok_or_else(damaged)?;
    let [client, task, held, attempts, digest, labels] = body.runs;
    let text = |run: &[u8]| str::from_utf8(run).map(Arc::from).map_err(|_| damaged());
    let [period, inc, off, call, from, ended, all_units, prompt_units] = numbers;
    let receipt = Receipt {
        call: uint(call, T)?,
        origin: origin(from, T)?,
        client: text(client)?,
        task: text(task)?,
        admitted_ms: uint(body.admitted_ms, T)?,
        finish: finish(ended).ok_or_else(damaged)?,
        quality: quality(body.quality).ok_or_else(damaged)?,
        units: units(all_units, T)?,
        prompt_units: units(prompt_units, T)?,
        held: held_of(held).ok_or_else(damaged)?,
        attempts: attempts_of(attempts).ok_or_else(damaged)?,
        digest: digest.try_into().map_err(|_| damaged())?,
        labels: labels_of(labels).ok_or_else(damaged)?,
        claim: match body.claim {
            -1 => None,
            claim => Some(uint(claim, T)?),
        },
    };
    Ok(PlacedReceipt {
        period: Period::starting_at(uint(period, T)?),
        inc: Incarnation(uint(inc, T)?),
        off: uint(off, T)?,
        receipt,
    })
}

/// Over the whole-number columns, eight bytes each, and the body after its length.
fn receipt_crc(numbers: &[i64; 8], body: &[u8]) -> i64 {
    let length = (body.len() as u64).to_le_bytes();
    let mut head = [0; 72];
    let all = numbers.iter().map(|number| number.to_le_bytes());
    for (at, bytes) in head.as_chunks_mut().0.iter_mut().zip(all.chain([length])) {
        *at = bytes;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(body);
    i64::from(hasher.finalize())
}

// === impl Body ===

impl<'a> Body<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let ([BODY_VERSION, quality], rest) = bytes.split_first_chunk::<2>()? else {
            return None;
        };
        let (admitted_ms, rest) = rest.split_first_chunk::<8>()?;
        let (claim, mut rest) = rest.split_first_chunk::<8>()?;
        let mut runs = [&[][..]; 6];
        for run in &mut runs {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            (*run, rest) = after.split_at_checked(length)?;
        }
        rest.is_empty().then_some(Self {
            quality: *quality,
            admitted_ms: i64::from_le_bytes(*admitted_ms),
            claim: i64::from_le_bytes(*claim),
            runs,
        })
    }
}

// === fields ===

/// The finish of a receipt after which more of its call may come.
const RUNNING: i64 = 0;

fn finish_int(finish: Finish) -> i64 {
    match finish {
        Finish::Running => RUNNING,
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
        RUNNING => Finish::Running,
        1 => Finish::NoCapacity,
        2 => Finish::GatewayLost,
        3 => Finish::SlowConsumer,
        4 => Finish::Drained,
        5 => Finish::Internal,
        other => Finish::Attempt(outcome(u8::try_from(other.checked_sub(16)?).ok()?)?),
    })
}

fn quality_byte(quality: Quality) -> u8 {
    match quality {
        Quality::Exact => 0,
        Quality::Estimated => 1,
        Quality::Partial => 2,
    }
}

fn quality(byte: u8) -> Option<Quality> {
    Some(match byte {
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

fn put_held(bytes: &mut Vec<u8>, held: &[CellId]) {
    for cell in held {
        bytes.extend_from_slice(&cell.0.to_le_bytes());
    }
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

fn put_attempts(bytes: &mut Vec<u8>, attempts: &[Attempt]) {
    bytes.reserve(attempts.len().saturating_mul(ATTEMPT_BYTES));
    for attempt in attempts {
        bytes.extend_from_slice(&attempt.cell.0.to_le_bytes());
        bytes.push(outcome_byte(attempt.outcome));
        bytes.extend_from_slice(&attempt.units.get().to_le_bytes());
        bytes.extend_from_slice(&attempt.first_chunk_us.unwrap_or(NO_CHUNK).to_le_bytes());
        bytes.extend_from_slice(&attempt.duration_us.to_le_bytes());
    }
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
fn put_labels(bytes: &mut Vec<u8>, labels: &[(String, String)]) {
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
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
