//! Schema 7: receipts, which had a column for each field, keep in one body what SQL need not
//! see, and have an index that forbids a second end of a call.
//!
//! Fewer columns are written faster: receipts are most of what a store writes. What stands here
//! is never changed: a later form of the body takes another version byte and another step.

use rusqlite::{Connection, Row};

const MAKE: &str = "
ALTER TABLE receipt RENAME TO receipt_of_6;

-- body: all else, see what reads it.
CREATE TABLE receipt (
    period INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    off INTEGER NOT NULL,
    call INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    finish INTEGER NOT NULL,
    units INTEGER NOT NULL,
    prompt_units INTEGER NOT NULL,
    body BLOB NOT NULL,
    crc INTEGER NOT NULL,
    PRIMARY KEY (period, inc, off)
) STRICT, WITHOUT ROWID;
-- A call ends once. Nearly sequential, as calls are numbered in the order of their admission.
CREATE UNIQUE INDEX receipt_end ON receipt (period, inc, call) WHERE finish <> 0;
-- What was booked of calls on the way; most have no such receipt.
CREATE INDEX receipt_part ON receipt (period, inc, call) WHERE finish = 0;
";

const READ: &str = "SELECT period, inc, off, call, origin, finish, quality, units, prompt_units, \
     admitted_ms, coalesce(claim, -1), client, task, held, attempts, digest, labels, crc \
     FROM receipt_of_6 ORDER BY period, inc, off";

const WRITE: &str = "INSERT INTO receipt (period, inc, off, call, origin, finish, units, \
     prompt_units, body, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// Whole numbers before the runs of bytes.
const NUMBERS: usize = 11;
/// Client, task, held, attempts, digest, labels.
const RUNS: usize = 6;

/// Makes the new table of the old one, row by row. A row whose checksum was wrong has a wrong
/// one afterwards, too, so that an audit finds it as before.
pub(super) fn pack(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(MAKE)?;
    {
        let mut old = conn.prepare(READ)?;
        let mut new = conn.prepare(WRITE)?;
        let mut rows = old.query([])?;
        let mut body = Vec::new();
        while let Some(row) = rows.next()? {
            pack_row(row, &mut body, &mut new)?;
        }
    }
    conn.execute_batch("DROP TABLE receipt_of_6")
}

fn pack_row(
    row: &Row<'_>,
    body: &mut Vec<u8>,
    new: &mut rusqlite::Statement<'_>,
) -> rusqlite::Result<()> {
    let mut numbers = [0_i64; NUMBERS];
    for (column, number) in numbers.iter_mut().enumerate() {
        *number = row.get(column)?;
    }
    let mut runs = [&[][..]; RUNS];
    for (column, run) in (NUMBERS..).zip(&mut runs) {
        // A text as it stands, also where a flipped bit left none.
        *run = row.get_ref(column)?.as_bytes()?;
    }
    let [
        period,
        inc,
        off,
        call,
        origin,
        finish,
        quality,
        units,
        prompt,
        admitted,
        claim,
    ] = numbers;
    let was_sound = crc(&numbers, &runs) == row.get::<_, i64>(NUMBERS + RUNS)?;
    body.clear();
    body.push(1);
    body.push(u8::try_from(quality).unwrap_or(u8::MAX));
    body.extend_from_slice(&admitted.to_le_bytes());
    body.extend_from_slice(&claim.to_le_bytes());
    for run in runs {
        let length = u32::try_from(run.len()).unwrap_or(u32::MAX);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(run);
    }
    let key_and_amounts = [period, inc, off, call, origin, finish, units, prompt];
    let right = crc(&key_and_amounts, &[body]);
    let crc = if was_sound { right } else { right ^ 1 };
    new.execute((
        period, inc, off, call, origin, finish, units, prompt, &*body, crc,
    ))?;
    Ok(())
}

fn crc(numbers: &[i64], runs: &[&[u8]]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    for run in runs {
        hasher.update(&run.len().to_le_bytes());
        hasher.update(run);
    }
    i64::from(hasher.finalize())
}
