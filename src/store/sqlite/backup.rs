//! A copy of a store, taken while it is in use. The copy is marked as one: what the store
//! grants after that moment is not in it, so that it is opened frozen, the first time.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::OpenError;
use super::place::{beside, sync_directory_of};
use super::reader::open_to_read;
use super::schema;

/// Pages between two reports of progress: 4 MiB.
const PAGES_A_STEP: i32 = 1024;

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupProgress {
    /// Pages copied.
    pub done: u64,
    /// Pages in all.
    pub total: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store cannot be read.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// There is a file already where the copy should be.
    #[error("the target exists already")]
    Exists,
    /// Something else holds the store or the target.
    #[error("the store or the target is held by something else")]
    Held,
    /// The target could not be written.
    #[error("the target could not be written")]
    Target(#[from] io::Error),
    /// The engine failed.
    #[error("the engine failed while copying")]
    Engine(#[from] rusqlite::Error),
}

/// Copies the store at `from` to a new file `to`, in this process or beside the one that
/// writes it. The copy is the state of one moment; it appears under its name only once it
/// is whole and on the disk.
///
/// The moment is held by a reading transaction: without one, each commit of another
/// process would start the copy anew, and a busy store would never be copied.
///
/// # Errors
/// When the target exists, or something cannot be read or written; then no file of that
/// name is left.
pub fn backup(
    from: &Path,
    to: &Path,
    mut progress: impl FnMut(BackupProgress),
) -> Result<(), BackupError> {
    if to.try_exists()? {
        return Err(BackupError::Exists);
    }
    let source = open_to_read(from)?;
    let moment = source.unchecked_transaction().map_err(OpenError::from)?;
    // The first read takes the moment.
    moment
        .query_row("SELECT store_id FROM store", [], |_| Ok(()))
        .map_err(OpenError::from)?;
    let unfinished = beside(to, "part");
    let copied = copy(&moment, &unfinished, &mut progress).and_then(|()| {
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, to)?;
        Ok(sync_directory_of(to)?)
    });
    if copied.is_err() {
        // Best effort: the first failure is the one to tell.
        drop(fs::remove_file(&unfinished));
    }
    copied
}

fn copy(
    source: &Connection,
    to: &Path,
    progress: &mut impl FnMut(BackupProgress),
) -> Result<(), BackupError> {
    // What an interrupted copy left would be taken for a database to be overwritten page by
    // page; a new file is surer.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut target = Connection::open(to)?;
    {
        let copy = Backup::new(source, &mut target)?;
        loop {
            let step = copy.step(PAGES_A_STEP)?;
            let at = copy.progress();
            let total = u64::try_from(at.pagecount).unwrap_or(0);
            let left = u64::try_from(at.remaining).unwrap_or(0);
            progress(BackupProgress {
                done: total.saturating_sub(left),
                total,
            });
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                StepResult::Busy | StepResult::Locked | _ => return Err(BackupError::Held),
            }
        }
    }
    // An older schema has no place for the mark.
    if schema::is_of_today(&target)? {
        target.execute("UPDATE store SET copied = 1", [])?;
    }
    // One file, whole by itself: a journal beside it could be left behind when it is moved.
    target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    target.close().map_err(|(_, error)| error)?;
    Ok(())
}
