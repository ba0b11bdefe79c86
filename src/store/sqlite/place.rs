//! Where a store stands: its file, the lock that keeps a second process off, and a note
//! beside it that tells this store from another one, from an empty file, and from an older
//! copy of itself.
//!
//! The lock is on a file of its own, because a lock on the store's file would shut readers
//! (an audit, a backup) out as well.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;

/// The right to write a store; released when dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

/// What the note beside a store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The store's id.
    pub(super) store_id: [u8; 16],
    /// The largest number that it gave to an incarnation.
    pub(super) incarnation: u64,
}

/// `<path>.<ending>`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Makes what happened to names in a directory durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

// === impl Lock ===

impl Lock {
    /// Takes the lock of the store at `path`, and leaves this process's id in it.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let at = beside(path, "lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                return Err(OpenError::InUse {
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }
}

// === impl Note ===

impl Note {
    /// The note beside the store at `path`, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        match fs::read_to_string(beside(path, "id")) {
            Ok(text) => Self::parse(&text).map(Some).ok_or(OpenError::BadNote),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the note, durably: after a crash either the old or the new one is there.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let (at, new) = (beside(path, "id"), beside(path, "id.new"));
        let mut file = File::create(&new)?;
        writeln!(
            file,
            "store {}\nincarnation {}",
            hex::encode(self.store_id),
            self.incarnation
        )?;
        file.sync_all()?;
        fs::rename(&new, &at)?;
        sync_directory_of(&at)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let id = lines.next()?.strip_prefix("store ")?;
        let incarnation = lines.next()?.strip_prefix("incarnation ")?;
        let mut store_id = [0; 16];
        hex::decode_to_slice(id, &mut store_id).ok()?;
        Some(Self {
            store_id,
            incarnation: incarnation.parse().ok()?,
        })
    }
}
