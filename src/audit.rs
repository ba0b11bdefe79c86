//! `taugate audit`: proof of a store's books, by someone who did not write them.
//!
//! It reads the tables with plain SQL and uses no other room and nothing of the ledger: its
//! checksums, its reading of a receipt's bytes and its sums are its own, so that a mistake in
//! the ledger does not hide itself here. What must hold, cell by cell:
//!
//! - the receipts of an incarnation add up to its counters, by origin, and its attempts to the
//!   counters by outcome;
//! - the leases of a cell add up to what the cell granted, and that is within the allotment;
//! - the newest seal of a period says no more than that, and its digest is that of its totals;
//! - receipts are numbered without gaps, and each call ended at most once;
//! - each row of cell, lease and receipt has the checksum of its other columns, and the engine
//!   finds every page and index whole.
//!
//! Everything is read in one transaction, so that a store in use is seen as it was at one
//! moment. Nothing is written and no lock is taken; the one price is that the writer's journal
//! grows until the audit ends.
//!
//! - `file` opens and looks at what concerns the whole file;
//! - `books` sums up a period, `receipt` reads one receipt, `crc` makes checksums;
//! - `finding` is what does not add up, `report` how it is told, `command` who asks.

mod books;
mod command;
mod crc;
mod file;
mod finding;
mod receipt;
mod report;

use std::path::{Path, PathBuf};

pub use self::command::AuditArgs;
pub use self::finding::{Finding, Kind};
pub use self::report::{PeriodSum, Report};

use self::file::Moment;
use self::finding::Findings;

/// How far an audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub doing: Doing,
    /// Receipts read.
    pub done: u64,
    /// Receipts in all.
    pub total: u64,
}

/// A stage of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// The engine checks pages and indexes.
    Pages,
    /// Periods are added up.
    Books,
}

/// Why there was no audit. What does not add up is no error but a [`Finding`].
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// There is no such file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file cannot be opened.
    #[error("{path} cannot be read: {reason}", path = .0.display(), reason = .1)]
    Unreadable(PathBuf, rusqlite::Error),
    /// The file holds something else.
    #[error("{} is no store", .0.display())]
    NotAStore(PathBuf),
    /// The file was written by a program of another version.
    #[error(
        "the store has schema {found}, this program audits schema {known}: \
         use the program that wrote it"
    )]
    OtherSchema {
        /// The file's.
        found: i64,
        /// The one that this program knows.
        known: i64,
    },
}

/// Audits the store at `path`, which another process may be writing.
///
/// # Errors
/// When the file cannot be audited at all; see [`AuditError`].
pub fn audit(path: &Path, mut progress: impl FnMut(Progress)) -> Result<Report, AuditError> {
    let file = file::open(path)?;
    let mut findings = Findings::default();
    let moment = Moment::take(&file, path, &mut findings)?;
    let mut report = Report {
        file: path.to_owned(),
        store_id: moment.store_id(),
        incarnations: moment.incarnations(),
        dropping: 0,
        periods: Vec::new(),
        findings: Vec::new(),
        more_findings: 0,
    };
    let total = moment.receipts();
    let at = |doing, done| Progress { doing, done, total };
    progress(at(Doing::Pages, 0));
    moment.check_pages(&mut findings);
    moment.check_file(&mut findings);
    let mut done = 0;
    for period in moment.periods(&mut findings) {
        if moment.is_dropping(period) {
            report.dropping += 1;
            continue;
        }
        let sum = books::add_up(&moment, period, &mut findings, |read| {
            progress(at(Doing::Books, done + read));
        });
        done += sum.receipts;
        report.periods.push(sum);
    }
    progress(at(Doing::Books, total));
    (report.findings, report.more_findings) = findings.into_parts();
    Ok(report)
}
