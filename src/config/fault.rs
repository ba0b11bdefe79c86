//! What can be wrong with a configuration: where, what, and what would be right.

use std::fmt;

/// All that is wrong with a configuration, in the order of the file's sections.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The field, such as `tasks.llama.weight`; empty for the file as a whole.
    pub path: String,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with a field, and what would be right.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Wrong {
    /// The text is no TOML.
    #[error("line {line}: {what}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        what: String,
    },
    /// No such key here.
    #[error("is unknown{}", nearest_text(.nearest.as_deref()))]
    UnknownKey {
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value that cannot stand there.
    #[error("is {found}; it must be {right}")]
    Value {
        /// What was found, cut to a readable length.
        found: String,
        /// What would be right.
        right: String,
    },
    /// A value that does not go with another one.
    #[error("is {found}; {rule}")]
    Conflict {
        /// What was found.
        found: String,
        /// What must hold.
        rule: &'static str,
    },
    /// Something that is needed is not there.
    #[error("{0}")]
    Missing(&'static str),
    /// The weights of all tasks do not sum to 1.
    #[error("the weights sum to {sum}; they must sum to 1")]
    Weights {
        /// What they sum to.
        sum: f64,
    },
    /// A listener that others reach, and that is open.
    #[error("{address} is reached from other machines; {needs}, or listen on 127.0.0.1")]
    Exposed {
        /// Where it listens.
        address: std::net::SocketAddr,
        /// What would close it.
        needs: &'static str,
    },
    /// More entries than there may be.
    #[error("has {found} entries; it must have at most {most}")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
}

/// The longest value that a fault repeats, characters.
const FOUND_CHARS_MAX: usize = 60;

// === impl Faults ===

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

// === impl Fault ===

impl Fault {
    /// A fault of the field at `path`.
    pub(super) fn new(path: impl Into<String>, wrong: Wrong) -> Self {
        Self {
            path: path.into(),
            wrong,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            self.wrong.fmt(f)
        } else {
            write!(f, "{}: {}", self.path, self.wrong)
        }
    }
}

// === impl Wrong ===

impl Wrong {
    /// `found` cannot stand where `right` must.
    pub(super) fn value(found: &toml::Value, right: impl Into<String>) -> Self {
        let whole = found.to_string();
        let mut text: String = whole.chars().take(FOUND_CHARS_MAX).collect();
        if text.len() < whole.len() {
            text.push_str("...");
        }
        Self::Value {
            found: text,
            right: right.into(),
        }
    }
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}
