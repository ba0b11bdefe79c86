//! Reads a configuration's file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Config;
use super::fault::Faults;

/// A thousand tasks with every key are half of this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than any configuration.
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
}

// === impl Config ===

impl Config {
    /// Reads a file; without one, what holds in development.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or with all faults that are in it.
    pub fn load(path: Option<&Path>) -> Result<Self, LoadError> {
        match path {
            Some(path) => Ok(Self::parse(&read(path)?)?),
            None => Ok(Self::development()),
        }
    }
}

/// The text of a configuration's file.
pub(super) fn read(path: &Path) -> Result<String, LoadError> {
    let unread = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unread)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unread)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}
