//! Reads a section from its table and notes every fault instead of stopping at the first.

use toml::{Table, Value};

use super::fault::{Fault, Wrong};
use super::field::{Fields, Section, Slot};

/// Two keys look alike from this Jaro-Winkler likeness up; below it a hint would mislead.
const ALIKE_MIN: f64 = 0.8;

/// Reads the fields of one table.
pub(super) struct Reader<'a> {
    path: &'a str,
    table: &'a Table,
    known: Vec<&'static str>,
    faults: &'a mut Vec<Fault>,
}

/// Reads a section from its table, at `path` in the file.
pub(super) fn read(path: &str, table: &Table, section: &mut dyn Section, faults: &mut Vec<Fault>) {
    let mut reader = Reader {
        path,
        table,
        known: Vec::new(),
        faults,
    };
    section.fields(&mut reader);
    let Reader { known, faults, .. } = reader;
    unknown(path, table, &known, faults);
}

/// The table under a key, or a fault and none.
pub(super) fn table<'a>(
    path: &str,
    value: &'a Value,
    faults: &mut Vec<Fault>,
) -> Option<&'a Table> {
    let table = value.as_table();
    if table.is_none() {
        let wrong = Wrong::value(value, format!("a table, [{path}]"));
        faults.push(Fault::new(path, wrong));
    }
    table
}

/// Notes each key of a table that is not known there.
pub(super) fn unknown(path: &str, table: &Table, known: &[&str], faults: &mut Vec<Fault>) {
    for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
        let nearest = nearest(key, known);
        faults.push(Fault::new(under(path, key), Wrong::UnknownKey { nearest }));
    }
}

/// The path of a key under another, for people; quoted where it is no bare key.
pub(super) fn under(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

fn nearest(key: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(alike, _)| *alike >= ALIKE_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| (*name).to_owned())
}

// === impl Reader ===

impl Fields for Reader<'_> {
    fn field(&mut self, key: &'static str, _: &'static str, slot: &mut dyn Slot) {
        self.known.push(key);
        if let Some(value) = self.table.get(key)
            && let Err(wrong) = slot.read(value)
        {
            self.faults.push(Fault::new(under(self.path, key), wrong));
        }
    }
}
