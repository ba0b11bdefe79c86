//! By what the miners of a task are sorted.

use std::cmp::Ordering;
use std::str::FromStr;

use crate::admin::status::Row;

/// A column, and whether the largest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    column: Column,
    falling: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Miner,
    Task,
    Declared,
    Allotment,
    Reserved,
    Posted,
    Verified,
    Organic,
    Synthetic,
    Due,
    Score,
    State,
    InFlight,
    Success,
}

/// What a column holds of a row. What is not known comes last, whichever way it is sorted.
#[derive(Clone, Copy, Debug)]
enum Key<'a> {
    Text(&'a str),
    Whole(u64),
    Part(f64),
    Unknown,
}

const COLUMNS: [(&str, Column); 14] = [
    ("miner", Column::Miner),
    ("task", Column::Task),
    ("declared", Column::Declared),
    ("allotment", Column::Allotment),
    ("reserved", Column::Reserved),
    ("posted", Column::Posted),
    ("verified", Column::Verified),
    ("organic", Column::Organic),
    ("synthetic", Column::Synthetic),
    ("due", Column::Due),
    ("score", Column::Score),
    ("state", Column::State),
    ("in-flight", Column::InFlight),
    ("success", Column::Success),
];

/// There is no such column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no column is called {0}; there are {names}", names = names())]
pub(super) struct NoColumn(String);

fn names() -> String {
    COLUMNS.map(|(name, _)| name).join(", ")
}

// === impl Sort ===

impl FromStr for Sort {
    type Err = NoColumn;

    fn from_str(text: &str) -> Result<Self, NoColumn> {
        let (falling, name) = match text.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, text),
        };
        let mut columns = COLUMNS.iter();
        let column = columns.find(|(known, _)| *known == name);
        let (_, column) = column.ok_or_else(|| NoColumn(name.to_owned()))?;
        Ok(Self {
            column: *column,
            falling,
        })
    }
}

impl Sort {
    /// Whether the tasks come in the other order of their ids.
    pub(super) fn turns_tasks(self) -> bool {
        self.column == Column::Task && self.falling
    }

    /// How two miners of a task stand to each other; equals stay as they came.
    pub(super) fn compare(self, one: &Row, other: &Row) -> Ordering {
        let (one, other) = (self.column.of(one), self.column.of(other));
        match (one, other) {
            (Key::Unknown, Key::Unknown) => Ordering::Equal,
            (Key::Unknown, _) => Ordering::Greater,
            (_, Key::Unknown) => Ordering::Less,
            _ if self.falling => one.compare(other).reverse(),
            _ => one.compare(other),
        }
    }
}

// === impl Column ===

impl Column {
    fn of(self, row: &Row) -> Key<'_> {
        match self {
            Self::Miner => Key::Text(&row.miner),
            Self::Task => Key::Text(&row.task),
            Self::State => Key::Text(row.state.as_str()),
            Self::Declared => Key::Whole(row.declared),
            Self::Allotment => Key::Whole(row.allotment),
            Self::Reserved => Key::Whole(row.reserved),
            Self::Posted => Key::Whole(row.posted),
            Self::Verified => Key::Whole(row.verified),
            Self::Organic => Key::Whole(row.organic),
            Self::Synthetic => Key::Whole(row.synthetic),
            Self::InFlight => Key::Whole(u64::from(row.in_flight)),
            Self::Due => row.due.map_or(Key::Unknown, Key::Whole),
            Self::Score => row.score.map_or(Key::Unknown, Key::Part),
            Self::Success => row.success.map_or(Key::Unknown, Key::Part),
        }
    }
}

// === impl Key ===

impl Key<'_> {
    fn compare(self, other: Key<'_>) -> Ordering {
        match (self, other) {
            (Key::Text(one), Key::Text(other)) => one.cmp(other),
            (Key::Whole(one), Key::Whole(other)) => one.cmp(&other),
            (Key::Part(one), Key::Part(other)) => one.total_cmp(&other),
            _ => Ordering::Equal,
        }
    }
}
