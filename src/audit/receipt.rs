//! One receipt as its row has it.

use rusqlite::Row;

use super::crc;

/// The columns that [`Read::of`] reads.
pub(super) const COLUMNS: &str = "period, inc, off, call, origin, finish, quality, units, \
     prompt_units, admitted_ms, client, task, held, attempts, digest, labels, claim, crc";

/// The outcomes of attempts by their number, as the columns of `tally` are called.
pub(super) const OUTCOMES: [&str; 7] = [
    "good",
    "busy",
    "refused",
    "cancelled",
    "lost",
    "stalled",
    "protocol",
];

/// The number of a good outcome.
const GOOD: u8 = 0;

/// Finishes below this have a name of their own; from it on they are an attempt's outcome.
const FINISH_OF_ATTEMPT: i64 = 16;

/// The bytes of an attempt: cell, outcome, units, first chunk, duration.
const ATTEMPT_BYTES: usize = 4 + 1 + 8 + 8 + 8;

/// One dispatch to one miner.
pub(super) struct Attempt {
    pub(super) cell: i64,
    pub(super) outcome: u8,
    pub(super) units: u64,
    /// To the first chunk, or to the end where none came; microseconds.
    pub(super) first_chunk_us: u64,
    pub(super) duration_us: u64,
}

/// What a row says.
pub(super) struct Read {
    pub(super) off: i64,
    pub(super) inc: i64,
    pub(super) call: i64,
    /// 0 organic, 1 synthetic.
    pub(super) origin: usize,
    pub(super) finish: i64,
    pub(super) units: i64,
    pub(super) prompt_units: i64,
    pub(super) task: String,
    pub(super) held: Vec<i64>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) sound: bool,
}

/// A row that cannot be read as a receipt.
#[derive(Clone, Copy)]
pub(super) struct Unreadable(pub(super) &'static str);

// === impl Attempt ===

impl Attempt {
    pub(super) const fn is_good(&self) -> bool {
        self.outcome == GOOD
    }

    fn of(bytes: &[u8; ATTEMPT_BYTES]) -> Option<Self> {
        let (cell, rest) = bytes.split_first_chunk::<4>()?;
        let (outcome, rest) = rest.split_first()?;
        let (units, rest) = rest.split_first_chunk::<8>()?;
        let (first_chunk, duration) = rest.split_first_chunk::<8>()?;
        let duration_us = u64::from_le_bytes(duration.try_into().ok()?);
        let first_chunk_us = match u64::from_le_bytes(*first_chunk) {
            u64::MAX => duration_us,
            came => came,
        };
        Some(Self {
            cell: i64::from(u32::from_le_bytes(*cell)),
            outcome: *outcome,
            units: u64::from_le_bytes(*units),
            first_chunk_us,
            duration_us,
        })
    }
}

// === impl Read ===

impl Read {
    /// What a row of [`COLUMNS`] says.
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Result<Self, Unreadable>> {
        let number = |column: usize| row.get::<_, i64>(column);
        let blob =
            |column: usize| -> rusqlite::Result<&[u8]> { Ok(row.get_ref(column)?.as_blob()?) };
        let mut numbers = [0; 11];
        for (column, value) in numbers.iter_mut().take(10).enumerate() {
            *value = number(column)?;
        }
        numbers[10] = row.get::<_, Option<i64>>(16)?.unwrap_or(-1);
        let (client, task): (String, String) = (row.get(10)?, row.get(11)?);
        let (held, attempts, digest, labels) = (blob(12)?, blob(13)?, blob(14)?, blob(15)?);
        let runs = [
            client.as_bytes(),
            task.as_bytes(),
            held,
            attempts,
            digest,
            labels,
        ];
        let sound = crc::of_row(&numbers, &runs) == number(17)?;
        let read = || {
            Ok(Self {
                inc: numbers[1],
                off: numbers[2],
                call: numbers[3],
                origin: usize::try_from(numbers[4])
                    .ok()
                    .filter(|origin| *origin < 2)
                    .ok_or(Unreadable("origin"))?,
                finish: finish(numbers[5]).ok_or(Unreadable("finish"))?,
                units: numbers[7],
                prompt_units: numbers[8],
                held: held_of(held).ok_or(Unreadable("held"))?,
                attempts: attempts_of(attempts).ok_or(Unreadable("attempts"))?,
                task,
                sound,
            })
        };
        if !(0..=2).contains(&numbers[6]) {
            return Ok(Err(Unreadable("quality")));
        }
        if digest.len() != 32 {
            return Ok(Err(Unreadable("digest")));
        }
        Ok(read())
    }

    /// Whether the call went on after it.
    pub(super) const fn is_part(&self) -> bool {
        self.finish == 0
    }

    /// Why the receipt does not agree with itself, if it does not: its units are those of
    /// one attempt, and the first held cell is that attempt's.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let mut charged = self.attempts.iter().filter(|attempt| attempt.units > 0);
        let first = charged.next();
        if charged.next().is_some() {
            return Some("more than one attempt has units");
        }
        let by_attempts = first.map_or(0, |attempt| i128::from(attempt.units));
        if by_attempts != i128::from(self.units) {
            return Some("its units are not those of its attempts");
        }
        if first.is_some_and(|attempt| self.held.first() != Some(&attempt.cell)) {
            return Some("its units are not charged to the miner that delivered them");
        }
        if !(0..=self.units).contains(&self.prompt_units) {
            return Some("its prompt has more units than the whole");
        }
        let mut held = self.held.clone();
        held.sort_unstable();
        held.dedup();
        if held.len() < self.held.len() {
            return Some("a cell is charged twice");
        }
        let good = self.attempts.last().is_some_and(Attempt::is_good);
        if self.finish == FINISH_OF_ATTEMPT && !good {
            return Some("it ended well but its last attempt did not");
        }
        None
    }
}

fn finish(number: i64) -> Option<i64> {
    let outcomes = FINISH_OF_ATTEMPT..=FINISH_OF_ATTEMPT + 6;
    ((0..=5).contains(&number) || outcomes.contains(&number)).then_some(number)
}

fn held_of(bytes: &[u8]) -> Option<Vec<i64>> {
    let (cells, rest) = bytes.as_chunks::<4>();
    let cells = cells
        .iter()
        .map(|cell| i64::from(u32::from_le_bytes(*cell)));
    rest.is_empty().then(|| cells.collect())
}

fn attempts_of(bytes: &[u8]) -> Option<Vec<Attempt>> {
    let (attempts, rest) = bytes.as_chunks::<ATTEMPT_BYTES>();
    let read: Option<Vec<Attempt>> = attempts.iter().map(Attempt::of).collect();
    read.filter(|read| {
        let known = |attempt: &Attempt| usize::from(attempt.outcome) < OUTCOMES.len();
        rest.is_empty() && read.iter().all(known)
    })
}
