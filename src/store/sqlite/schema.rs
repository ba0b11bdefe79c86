//! The tables, and how an older file becomes one of today.
//!
//! Integers only; amounts are units. `crc` is CRC-32 over the row's other columns, because
//! the engine's own checks see a broken page but not a flipped digit.

use rusqlite::Connection;

use super::{OpenError, packing};

/// Marks a file as ours ("taug").
const APPLICATION_ID: i64 = 0x7461_7567;

/// Each step makes the next version of the schema; a step is never changed once released.
const MIGRATIONS: &[Step] = &[
    Step::Sql(V1),
    Step::Sql(V2),
    Step::Sql(V3),
    Step::Sql(V4),
    Step::Sql(V5),
    Step::Sql(V6),
    Step::Rows(packing::pack),
];

/// How one version becomes the next.
enum Step {
    /// By statements alone.
    Sql(&'static str),
    /// Row by row, where SQL has no words for it.
    Rows(fn(&Connection) -> rusqlite::Result<()>),
}

const V1: &str = "
-- What this file is.
CREATE TABLE store (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store_id BLOB NOT NULL,
    period_s INTEGER NOT NULL
) STRICT;

-- Starts of gateways. AUTOINCREMENT: a number is never given twice.
CREATE TABLE incarnation (
    inc INTEGER PRIMARY KEY AUTOINCREMENT,
    gateway TEXT NOT NULL,
    live INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL
) STRICT;

-- How far an incarnation's receipts of a period are, and whether more may come.
CREATE TABLE inc_period (
    period INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    next_off INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    PRIMARY KEY (period, inc)
) STRICT, WITHOUT ROWID;

-- No grant of this period or an earlier one may rise, because commits were lost.
CREATE TABLE frozen (period INTEGER PRIMARY KEY) STRICT;

-- What cells are about. kind: 0 miner, 1 ceiling, 2 client.
CREATE TABLE subject (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    name BLOB NOT NULL,
    task TEXT NOT NULL,
    UNIQUE (kind, name, task)
) STRICT;

CREATE TABLE declaration (
    hotkey BLOB PRIMARY KEY,
    sequence INTEGER NOT NULL,
    payload BLOB NOT NULL,
    signature BLOB NOT NULL,
    endpoint TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL,
    withdrawn INTEGER NOT NULL
) STRICT;

CREATE TABLE cell (
    period INTEGER NOT NULL,
    cell INTEGER NOT NULL,
    wanted INTEGER NOT NULL CHECK (0 <= wanted AND wanted <= allotment),
    allotment INTEGER NOT NULL,
    granted INTEGER NOT NULL CHECK (0 <= granted AND granted <= allotment),
    crc INTEGER NOT NULL,
    PRIMARY KEY (period, cell)
) STRICT, WITHOUT ROWID;

-- The slice of one incarnation in one cell, and what it proved of it.
CREATE TABLE lease (
    period INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    cell INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    granted INTEGER NOT NULL,
    organic INTEGER NOT NULL CHECK (0 <= organic),
    synthetic INTEGER NOT NULL CHECK (0 <= synthetic),
    crc INTEGER NOT NULL,
    PRIMARY KEY (period, inc, cell),
    CHECK (organic + synthetic <= granted)
) STRICT, WITHOUT ROWID;

-- Attempts of a miner by outcome; grows only. rev counts the receipts that changed these or
-- the lease's units. The sums are over good attempts.
CREATE TABLE tally (
    period INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    cell INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    good INTEGER NOT NULL,
    busy INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    stalled INTEGER NOT NULL,
    protocol INTEGER NOT NULL,
    first_chunk_us INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (period, inc, cell, origin)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipt (
    period INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    off INTEGER NOT NULL,
    call INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    finish INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    units INTEGER NOT NULL,
    prompt_units INTEGER NOT NULL,
    admitted_ms INTEGER NOT NULL,
    client TEXT NOT NULL,
    task TEXT NOT NULL,
    held BLOB NOT NULL,
    attempts BLOB NOT NULL,
    digest BLOB NOT NULL,
    labels BLOB NOT NULL,
    claim INTEGER,
    crc INTEGER NOT NULL,
    PRIMARY KEY (period, inc, off)
) STRICT, WITHOUT ROWID;
-- Nearly sequential, as calls are numbered in the order of their admission.
CREATE INDEX receipt_call ON receipt (period, inc, call);

CREATE TABLE nonce (
    hotkey BLOB NOT NULL,
    nonce BLOB NOT NULL,
    keep_until_ms INTEGER NOT NULL,
    PRIMARY KEY (hotkey, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX nonce_age ON nonce (keep_until_ms);

-- Idempotency keys. period and call are set with the receipt that fulfils the claim.
CREATE TABLE claim (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    client TEXT NOT NULL,
    key TEXT NOT NULL,
    body_sha256 BLOB NOT NULL,
    inc INTEGER NOT NULL,
    made_ms INTEGER NOT NULL,
    period INTEGER,
    call INTEGER,
    UNIQUE (client, key)
) STRICT;

CREATE TABLE api_key (
    public_id TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL,
    name TEXT NOT NULL,
    tasks TEXT,
    scopes TEXT NOT NULL,
    proven_only INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER
) STRICT;
";

const V2: &str = "
-- Rises with each key that is made or revoked: a gateway that runs looks at it, since keys are
-- written by other processes too.
ALTER TABLE store ADD COLUMN key_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN last_used_ms INTEGER;
";

const V3: &str = "
-- The offset behind the last receipt that changed these counters: what came after a cursor.
ALTER TABLE tally ADD COLUMN off INTEGER NOT NULL DEFAULT 0;
UPDATE tally SET off = coalesce((SELECT next_off FROM inc_period
    WHERE inc_period.period = tally.period AND inc_period.inc = tally.inc), 0);

-- Signed totals of ended periods, each revision once. AUTOINCREMENT: a number is never given
-- twice, so that whoever read up to one misses none.
CREATE TABLE seal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    period INTEGER NOT NULL,
    revision INTEGER NOT NULL CHECK (revision >= 1),
    payload BLOB NOT NULL,
    signature BLOB NOT NULL,
    hotkey BLOB NOT NULL,
    UNIQUE (period, revision)
) STRICT;

-- Up to where a consumer has taken effect.
CREATE TABLE ack (
    hotkey BLOB NOT NULL,
    consumer TEXT NOT NULL,
    cursor BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (hotkey, consumer)
) STRICT, WITHOUT ROWID;
";

/// Rows of periods before `kept_from` are being dropped, a few at a time: what is left of
/// them does not add up any more. Set in the transaction that drops the first of them.
const V4: &str = "ALTER TABLE store ADD COLUMN kept_from INTEGER NOT NULL DEFAULT 0;";

/// Whether the file is a backup that was not opened frozen yet: what the store granted since is
/// not in it.
const V5: &str = "ALTER TABLE store ADD COLUMN copied INTEGER NOT NULL DEFAULT 0;";

const V6: &str = "
-- Who plans checks. A term is taken by compare-and-swap and fences the terms before it.
CREATE TABLE planner (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    term INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL
) STRICT;

-- What was drawn for a cell in a period, once: the part of its allotment that is to be checked,
-- in millionths. newcomer: it had shown nothing yet, so that its target is at least one burst.
CREATE TABLE plan (
    period INTEGER NOT NULL,
    cell INTEGER NOT NULL,
    term INTEGER NOT NULL,
    part INTEGER NOT NULL CHECK (0 <= part AND part <= 1000000),
    newcomer INTEGER NOT NULL,
    PRIMARY KEY (period, cell)
) STRICT, WITHOUT ROWID;

-- Windows in which miners are asked at the rate of their allotments over all their tasks.
-- common: all of them; else newcomers only.
CREATE TABLE burst (
    period INTEGER NOT NULL,
    number INTEGER NOT NULL,
    term INTEGER NOT NULL,
    begins_ms INTEGER NOT NULL,
    length_ms INTEGER NOT NULL CHECK (0 < length_ms),
    common INTEGER NOT NULL,
    PRIMARY KEY (period, number)
) STRICT, WITHOUT ROWID;

-- What a cell was asked for and delivered in such a window, by one incarnation, units.
CREATE TABLE demonstration (
    begins_ms INTEGER NOT NULL,
    cell INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    length_ms INTEGER NOT NULL CHECK (0 < length_ms),
    common INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    units INTEGER NOT NULL,
    PRIMARY KEY (cell, begins_ms, inc)
) STRICT, WITHOUT ROWID;

-- What a checker found of an answer; quality in millionths.
CREATE TABLE finding (
    period INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    call INTEGER NOT NULL,
    checker TEXT NOT NULL,
    cell INTEGER NOT NULL,
    quality INTEGER NOT NULL CHECK (0 <= quality AND quality <= 1000000),
    units INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (period, inc, call, checker)
) STRICT, WITHOUT ROWID;
CREATE INDEX finding_cell ON finding (cell, at_ms);

-- What scores keep of an ended period, longer than its books are kept.
CREATE TABLE history (
    period INTEGER NOT NULL,
    cell INTEGER NOT NULL,
    allotment INTEGER NOT NULL,
    organic INTEGER NOT NULL,
    synthetic INTEGER NOT NULL,
    good INTEGER NOT NULL,
    busy INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (period, cell)
) STRICT, WITHOUT ROWID;

-- Of a thousand of a key's answers so many may be shown to who judges miners.
ALTER TABLE api_key ADD COLUMN sample_permille INTEGER NOT NULL DEFAULT 0;
";

/// The version that this program writes.
pub(super) const VERSION: i64 = 7;

/// Sets what every connection needs.
pub(super) fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(std::time::Duration::from_secs(2))?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")
}

/// Sets what the writer's connection needs: a commit returns once it is on the disk.
pub(super) fn tune_writer(conn: &Connection) -> rusqlite::Result<()> {
    tune(conn)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "fullfsync", true)?;
    // 16 MiB of journal between checkpoints; it is cut back to 64 MiB after a long read.
    conn.pragma_update_and_check(None, "wal_autocheckpoint", 4096, |_| Ok(()))?;
    conn.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))
}

/// What stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing at all.
    Nothing,
    /// A store of this or an older version.
    Store,
}

/// Looks at what a file holds; refuses what is not ours and what is newer.
pub(super) fn look(conn: &Connection) -> Result<Found, OpenError> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && application == 0 && tables == 0 {
        return Ok(Found::Nothing);
    }
    if application != APPLICATION_ID {
        return Err(OpenError::NotAStore);
    }
    if version > VERSION {
        return Err(OpenError::NewerSchema {
            found: version,
            known: VERSION,
        });
    }
    Ok(Found::Store)
}

/// Whether a store has this program's schema.
pub(super) fn is_of_today(conn: &Connection) -> rusqlite::Result<bool> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(version == VERSION)
}

/// Brings a file to [`VERSION`]; all steps and `fill` in one transaction.
pub(super) fn migrate(
    conn: &mut Connection,
    fill: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in MIGRATIONS.iter().skip(done) {
        step.take(&tx)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    fill(&tx)?;
    tx.commit()
}

// === impl Step ===

impl Step {
    fn take(&self, conn: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Sql(statements) => conn.execute_batch(statements),
            Self::Rows(make) => make(conn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_each_older_version_becomes_one_of_today_and_keeps_its_rows() {
        for steps in 1..MIGRATIONS.len() {
            let mut conn = Connection::open_in_memory().unwrap();
            for step in &MIGRATIONS[..steps] {
                step.take(&conn).unwrap();
            }
            conn.pragma_update(None, "application_id", APPLICATION_ID)
                .unwrap();
            conn.pragma_update(None, "user_version", i64::try_from(steps).unwrap())
                .unwrap();
            conn.execute_batch(
                "INSERT INTO api_key (public_id, sha256, name, scopes, proven_only, created_ms)
                 VALUES ('abcdefgh', x'00', 'a name', 'generate', 0, 5);",
            )
            .unwrap();
            migrate(&mut conn, |_| Ok(())).unwrap();
            let mut fresh = Connection::open_in_memory().unwrap();
            migrate(&mut fresh, |_| Ok(())).unwrap();
            let columns = |conn: &Connection| -> Vec<String> {
                let mut names = conn
                    .prepare(
                        "SELECT m.name || '.' || c.name FROM sqlite_schema m, \
                         pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY 1",
                    )
                    .unwrap();
                let rows = names.query_map([], |row| row.get(0)).unwrap();
                rows.collect::<Result<_, _>>().unwrap()
            };
            assert_eq!(columns(&conn), columns(&fresh));
            assert_eq!(look(&conn).unwrap(), Found::Store);
            let name: String = conn
                .query_row("SELECT name FROM api_key", [], |row| row.get(0))
                .unwrap();
            assert_eq!(name, "a name");
        }
    }
}
