//! One receipt as its row has it.

use rusqlite::Row;

use super::crc;

/// The columns that [`Read::of`] reads.
pub(super) const COLUMNS: &str =
    "period, inc, off, call, origin, finish, units, prompt_units, body, crc";

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

/// What stands in the column `body`.
pub(super) struct Body<'a> {
    quality: u8,
    /// The claim that the call fulfilled; below 0 for none.
    pub(super) claim: i64,
    task: &'a str,
    held: &'a [u8],
    attempts: &'a [u8],
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

// === impl Body ===

impl<'a> Body<'a> {
    /// Reads a body: version, quality, admission, claim, and six runs of bytes after their
    /// lengths. All of it must be of the form that there is, also what is not looked at here.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let ([version, quality], rest) = front(bytes)?;
        if *version != 1 {
            return Err(Unreadable("version of the body"));
        }
        let (_admitted, rest) = front::<8>(rest)?;
        let (claim, mut rest) = front::<8>(rest)?;
        let mut runs = [&[][..]; 6];
        for run in &mut runs {
            let (length, after) = front::<4>(rest)?;
            (*run, rest) = usize::try_from(u32::from_le_bytes(*length))
                .ok()
                .and_then(|length| after.split_at_checked(length))
                .ok_or(Unreadable("body"))?;
        }
        let [client, task, held, attempts, digest, labels] = runs;
        if !rest.is_empty() {
            return Err(Unreadable("body"));
        }
        if digest.len() != 32 {
            return Err(Unreadable("digest"));
        }
        str::from_utf8(client).map_err(|_| Unreadable("client"))?;
        if !are_texts(labels) {
            return Err(Unreadable("labels"));
        }
        Ok(Self {
            quality: *quality,
            claim: i64::from_le_bytes(*claim),
            task: str::from_utf8(task).map_err(|_| Unreadable("task"))?,
            held,
            attempts,
        })
    }
}

fn front<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Unreadable> {
    bytes.split_first_chunk().ok_or(Unreadable("body"))
}

/// Whether labels are pairs of texts, each after its length.
fn are_texts(mut bytes: &[u8]) -> bool {
    let mut texts: u32 = 0;
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        match rest.split_at_checked(length) {
            Some((text, rest)) if str::from_utf8(text).is_ok() => bytes = rest,
            _ => return false,
        }
        texts = texts.saturating_add(1);
    }
    bytes.is_empty() && texts.is_multiple_of(2)
}

// === impl Read ===

impl Read {
    /// What a row of [`COLUMNS`] says.
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Result<Self, Unreadable>> {
        let mut numbers = [0_i64; 8];
        for (column, value) in numbers.iter_mut().enumerate() {
            *value = row.get(column)?;
        }
        let body = row.get_ref(8)?.as_blob()?;
        let sound = crc::of_row(&numbers, &[body]) == row.get::<_, i64>(9)?;
        Ok(Self::of_values(numbers, body, sound))
    }

    fn of_values(numbers: [i64; 8], body: &[u8], sound: bool) -> Result<Self, Unreadable> {
        let [_, inc, off, call, origin, ended, units, prompt_units] = numbers;
        let body = Body::of(body)?;
        if body.quality > 2 {
            return Err(Unreadable("quality"));
        }
        Ok(Self {
            inc,
            off,
            call,
            origin: usize::try_from(origin)
                .ok()
                .filter(|origin| *origin < 2)
                .ok_or(Unreadable("origin"))?,
            finish: finish(ended).ok_or(Unreadable("finish"))?,
            units,
            prompt_units,
            held: held_of(body.held).ok_or(Unreadable("held"))?,
            attempts: attempts_of(body.attempts).ok_or(Unreadable("attempts"))?,
            task: body.task.to_owned(),
            sound,
        })
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
