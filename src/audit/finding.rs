//! What does not add up.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params};
use serde::Serialize;

/// Findings that are kept with their rows; of a store that is wrong throughout, more would
/// tell no more.
const FINDINGS_MAX: usize = 200;

/// Bytes of a blob that are shown.
const BLOB_SHOWN: usize = 40;

/// What kind of thing does not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The engine finds a page, an index or a rule of the schema broken.
    Page,
    /// The store's own row is wrong.
    Store,
    /// The note beside the file is of another store, or knows of later incarnations.
    Note,
    /// A row has not the checksum of its columns.
    Checksum,
    /// A column holds what cannot stand there.
    Value,
    /// More was posted than granted, granted than allotted, or wanted than allotted.
    Bound,
    /// A row without the row that it belongs to.
    Orphan,
    /// The leases of a cell do not add up to what the cell granted.
    Grant,
    /// The receipts of an incarnation do not add up to its units.
    Counter,
    /// The attempts of an incarnation do not add up to its counters by outcome.
    Tally,
    /// Receipts are not numbered from 0 without gaps.
    Offset,
    /// A call ended twice, went on after its end, or shrank.
    Outcome,
    /// A receipt does not agree with itself.
    Receipt,
    /// A seal says more than the books, or is not of one piece.
    Seal,
    /// An idempotency key points to a receipt that is not there or not its own.
    Claim,
}

/// One thing that does not add up, with the rows that show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// What is wrong, with both figures.
    pub says: String,
    /// The rows: table, then each column with its value.
    pub rows: Vec<String>,
}

/// Findings as they come.
#[derive(Debug, Default)]
pub(super) struct Findings {
    kept: Vec<Finding>,
    more: u64,
}

// === impl Kind ===

impl Kind {
    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Store => "store",
            Self::Note => "note",
            Self::Checksum => "checksum",
            Self::Value => "value",
            Self::Bound => "bound",
            Self::Orphan => "orphan",
            Self::Grant => "grant",
            Self::Counter => "counter",
            Self::Tally => "tally",
            Self::Offset => "offset",
            Self::Outcome => "outcome",
            Self::Receipt => "receipt",
            Self::Seal => "seal",
            Self::Claim => "claim",
        }
    }
}

// === impl Findings ===

impl Findings {
    /// Notes a finding; `rows` is asked only when it is kept.
    pub(super) fn add(&mut self, kind: Kind, says: String, rows: impl FnOnce() -> Vec<String>) {
        if self.kept.len() < FINDINGS_MAX {
            let rows = rows();
            self.kept.push(Finding { kind, says, rows });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Notes that a table cannot be read.
    pub(super) fn unreadable(&mut self, table: &str, error: &rusqlite::Error) {
        let says = format!("table {table} cannot be read to its end: {error}");
        self.add(Kind::Page, says, Vec::new);
    }

    /// What was kept, and how many more there were.
    pub(super) fn into_parts(self) -> (Vec<Finding>, u64) {
        (self.kept, self.more)
    }
}

// === rows ===

/// The rows of a table that meet a condition, as text. What cannot be read is left out: that
/// it cannot is a finding of its own.
pub(super) fn rows_of(
    conn: &Connection,
    table: &str,
    condition: &str,
    params: impl Params,
) -> Vec<String> {
    let read = || -> rusqlite::Result<Vec<String>> {
        let mut found =
            conn.prepare_cached(&format!("SELECT * FROM {table} WHERE {condition} LIMIT 3"))?;
        let names: Vec<String> = found.column_names().map(str::to_owned).collect();
        let mut rows = found.query(params)?;
        let mut texts = Vec::new();
        while let Some(row) = rows.next()? {
            let mut text = format!("{table}:");
            for (column, name) in names.iter().enumerate() {
                text.push_str(&format!(" {name}={}", value_text(row.get_ref(column)?)));
            }
            texts.push(text);
        }
        Ok(texts)
    };
    read().unwrap_or_default()
}

fn value_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        // As JSON, so that an odd name cannot write on the terminal.
        ValueRef::Text(text) => {
            serde_json::Value::from(String::from_utf8_lossy(text).into_owned()).to_string()
        }
        ValueRef::Blob(bytes) => {
            let shown = bytes.get(..BLOB_SHOWN).unwrap_or(bytes);
            let cut = if shown.len() < bytes.len() { "..." } else { "" };
            format!("x{}{cut}", hex::encode(shown))
        }
    }
}
