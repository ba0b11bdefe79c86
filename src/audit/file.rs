//! The file as a whole: what it is, whether its pages are sound, who wrote to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction};

use super::AuditError;
use super::finding::{Findings, Kind, rows_of};
use super::receipt::Body;

/// Marks a file as a store ("taug").
const APPLICATION_ID: i64 = 0x7461_7567;

/// The schema that is audited.
const SCHEMA: i64 = 7;

/// What the engine says of broken pages, at most.
const PAGES_SAID_MAX: i64 = 20;

/// Tables with rows of a period.
const BY_PERIOD: [&str; 5] = ["cell", "lease", "tally", "receipt", "inc_period"];

/// One moment of a store, and what concerns all its periods.
pub(super) struct Moment<'a> {
    snapshot: Transaction<'a>,
    /// The store's id, and which periods are being dropped.
    store: Option<(Vec<u8>, i64)>,
    noted: Option<(String, i64)>,
    /// The incarnations, and whether each is live.
    incarnations: BTreeMap<i64, bool>,
    subjects: BTreeMap<i64, Subject>,
}

/// What a cell is about.
pub(super) struct Subject {
    pub(super) kind: i64,
    pub(super) task: String,
}

/// Opens a file for reading; refuses what is no store of this schema.
pub(super) fn open(path: &Path) -> Result<Connection, AuditError> {
    if !path.exists() {
        return Err(AuditError::Missing(path.to_owned()));
    }
    let unreadable = |error| AuditError::Unreadable(path.to_owned(), error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(unreadable)?;
    let ask = |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let look = || -> rusqlite::Result<(i64, i64)> {
        conn.busy_timeout(Duration::from_secs(2))?;
        conn.pragma_update(None, "trusted_schema", false)?;
        conn.pragma_update(None, "query_only", true)?;
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        Ok((ask("application_id")?, ask("user_version")?))
    };
    let (application, found) = look().map_err(unreadable)?;
    if application != APPLICATION_ID {
        return Err(AuditError::NotAStore(path.to_owned()));
    }
    if found != SCHEMA {
        return Err(AuditError::OtherSchema {
            found,
            known: SCHEMA,
        });
    }
    Ok(conn)
}

/// The id and the incarnation that the note beside the file names, if it can be read.
fn note_beside(path: &Path) -> Option<(String, i64)> {
    let mut name = path.as_os_str().to_owned();
    name.push(".id");
    let text = std::fs::read_to_string(name).ok()?;
    let mut lines = text.lines();
    let id = lines.next()?.strip_prefix("store ")?.to_owned();
    let incarnation = lines.next()?.strip_prefix("incarnation ")?.parse().ok()?;
    Some((id, incarnation))
}

// === impl Moment ===

impl<'a> Moment<'a> {
    /// Takes the moment that is audited.
    pub(super) fn take(
        conn: &'a Connection,
        path: &Path,
        findings: &mut Findings,
    ) -> Result<Self, AuditError> {
        // Before the moment, for the note is written after the rows that it tells of.
        let noted = note_beside(path);
        let snapshot = conn
            .unchecked_transaction()
            .map_err(|error| AuditError::Unreadable(path.to_owned(), error))?;
        let store = snapshot
            .query_row("SELECT store_id, kept_from FROM store", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .unwrap_or_else(|error| {
                findings.unreadable("store", &error);
                None
            });
        let mut moment = Self {
            snapshot,
            store,
            noted,
            incarnations: BTreeMap::new(),
            subjects: BTreeMap::new(),
        };
        let read = moment.read_incarnations();
        moment.incarnations = read.unwrap_or_else(|error| {
            findings.unreadable("incarnation", &error);
            BTreeMap::new()
        });
        let read = moment.read_subjects();
        moment.subjects = read.unwrap_or_else(|error| {
            findings.unreadable("subject", &error);
            BTreeMap::new()
        });
        Ok(moment)
    }

    /// The connection, within the moment.
    pub(super) fn conn(&self) -> &Connection {
        &self.snapshot
    }

    /// The store's id in hexadecimal.
    pub(super) fn store_id(&self) -> String {
        self.store
            .as_ref()
            .map_or_else(String::new, |(id, _)| hex::encode(id))
    }

    /// How many incarnations there were.
    pub(super) fn incarnations(&self) -> usize {
        self.incarnations.len()
    }

    /// The newest incarnation: the only one that may be at work.
    pub(super) fn newest(&self) -> Option<i64> {
        self.incarnations.keys().next_back().copied()
    }

    /// Whether an incarnation is live; `None` when there is none of that number.
    pub(super) fn is_live(&self, incarnation: i64) -> Option<bool> {
        self.incarnations.get(&incarnation).copied()
    }

    /// What a cell is about.
    pub(super) fn subject(&self, cell: i64) -> Option<&Subject> {
        self.subjects.get(&cell)
    }

    /// Whether rows of a period are being dropped, so that the rest does not add up.
    pub(super) fn is_dropping(&self, period: i64) -> bool {
        self.store
            .as_ref()
            .is_some_and(|(_, kept_from)| period < *kept_from)
    }

    /// All receipts of the file.
    pub(super) fn receipts(&self) -> u64 {
        let counted = self
            .snapshot
            .query_row("SELECT count(*) FROM receipt", [], |row| {
                row.get::<_, i64>(0)
            });
        u64::try_from(counted.unwrap_or(0)).unwrap_or(0)
    }

    /// The periods that have rows.
    pub(super) fn periods(&self, findings: &mut Findings) -> Vec<i64> {
        // From one period to the next, for DISTINCT would walk through every row.
        let all = BY_PERIOD.map(|table| {
            format!(
                "SELECT at FROM (WITH RECURSIVE found (at) AS (
                     SELECT min(period) FROM {table} UNION ALL
                     SELECT (SELECT min(period) FROM {table} WHERE period > at)
                     FROM found WHERE at IS NOT NULL)
                 SELECT at FROM found WHERE at IS NOT NULL)"
            )
        });
        let sql = format!("{} ORDER BY 1", all.join(" UNION "));
        let read = || -> rusqlite::Result<Vec<i64>> {
            self.snapshot
                .prepare(&sql)?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        read().unwrap_or_else(|error| {
            findings.unreadable("of periods", &error);
            Vec::new()
        })
    }

    /// Lets the engine check its pages, its indexes and the rules of the schema.
    pub(super) fn check_pages(&self, findings: &mut Findings) {
        let read = || -> rusqlite::Result<Vec<String>> {
            self.snapshot
                .prepare(&format!("PRAGMA integrity_check({PAGES_SAID_MAX})"))?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        match read() {
            Ok(said) => {
                for says in said.into_iter().filter(|says| says != "ok") {
                    findings.add(Kind::Page, says, Vec::new);
                }
            }
            Err(error) => findings.unreadable("of pages", &error),
        }
    }

    /// Checks what concerns no single period.
    pub(super) fn check_file(&self, findings: &mut Findings) {
        self.check_store(findings);
        self.check_note(findings);
        if let Err(error) = self.check_subjects(findings) {
            findings.unreadable("subject", &error);
        }
        if let Err(error) = self.check_claims(findings) {
            findings.unreadable("claim", &error);
        }
    }

    fn read_incarnations(&self) -> rusqlite::Result<BTreeMap<i64, bool>> {
        self.snapshot
            .prepare("SELECT inc, live FROM incarnation")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    fn read_subjects(&self) -> rusqlite::Result<BTreeMap<i64, Subject>> {
        self.snapshot
            .prepare("SELECT id, kind, task FROM subject")?
            .query_map([], |row| {
                let (kind, task) = (row.get(1)?, row.get(2)?);
                Ok((row.get(0)?, Subject { kind, task }))
            })?
            .collect()
    }

    fn check_store(&self, findings: &mut Findings) {
        let rows = || rows_of(&self.snapshot, "store", "1", []);
        let Some((id, kept_from)) = &self.store else {
            let says = "the store's own row is missing".to_owned();
            return findings.add(Kind::Store, says, rows);
        };
        if id.len() != 16 {
            let says = "the store's id is not of 16 bytes".to_owned();
            findings.add(Kind::Store, says, rows);
        }
        // Rows are dropped some time after their period, by the same clock.
        let seen: Option<i64> = self
            .snapshot
            .query_row("SELECT max(last_seen_ms) FROM incarnation", [], |row| {
                row.get(0)
            })
            .unwrap_or(None);
        let seen_s = seen.unwrap_or(0) / 1000;
        if *kept_from > seen_s {
            let says = format!(
                "rows before {kept_from} (Unix time) are said to be dropped, \
                 but no incarnation was seen after {seen_s}"
            );
            findings.add(Kind::Store, says, rows);
        }
    }

    fn check_note(&self, findings: &mut Findings) {
        let Some((id, incarnation)) = &self.noted else {
            return;
        };
        if *id != self.store_id() {
            let says = format!(
                "the note beside the file is of store {id}, the file is store {}",
                self.store_id()
            );
            findings.add(Kind::Note, says, Vec::new);
        }
        let given: i64 = self
            .snapshot
            .query_row(
                "SELECT seq FROM sqlite_sequence WHERE name = 'incarnation'",
                [],
                |row| row.get(0),
            )
            .unwrap_or(0);
        if given < *incarnation {
            let says = format!(
                "the file gave incarnation {given} last, the note beside it says {incarnation}: \
                 commits are lost"
            );
            findings.add(Kind::Note, says, Vec::new);
        }
    }

    /// Subjects are numbered densely from 0, and a miner's name is a key.
    fn check_subjects(&self, findings: &mut Findings) -> rusqlite::Result<()> {
        let wrong: Vec<i64> = self
            .snapshot
            .prepare(
                "SELECT id FROM subject
                 WHERE id < 0 OR id >= (SELECT count(*) FROM subject)
                 OR kind NOT IN (0, 1, 2) OR (kind = 0 AND length(name) <> 32)",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in wrong {
            let says = format!("subject {id} is none that a store makes");
            findings.add(Kind::Value, says, || {
                rows_of(&self.snapshot, "subject", "id = ?1", [id])
            });
        }
        Ok(())
    }

    /// A key that was used up names the receipt that did it.
    fn check_claims(&self, findings: &mut Findings) -> rusqlite::Result<()> {
        let kept_from = self.store.as_ref().map_or(0, |(_, kept_from)| *kept_from);
        let mut claims = self.snapshot.prepare(
            "SELECT c.id, r.body FROM claim c LEFT JOIN receipt r INDEXED BY receipt_end
             ON r.period = c.period AND r.inc = c.inc AND r.call = c.call AND r.finish <> 0
             WHERE c.call IS NOT NULL AND c.period >= ?1",
        )?;
        let mut wrong = Vec::new();
        let mut rows = claims.query([kept_from])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let body = row.get_ref(1)?.as_blob_or_null()?;
            let claim = body
                .and_then(|body| Body::of(body).ok())
                .map(|body| body.claim);
            if claim != Some(id) {
                wrong.push(id);
            }
        }
        for id in wrong {
            let says = format!("claim {id} names a receipt that is not there or not its own");
            findings.add(Kind::Claim, says, || {
                rows_of(&self.snapshot, "claim", "id = ?1", [id])
            });
        }
        Ok(())
    }
}
