//! The one thread that writes.
//!
//! Work is queued; the thread drains what is there into one transaction, commits it once,
//! and then answers everyone. So the price of an fsync is shared by all who wait for one,
//! and an idle store answers at once. Each piece of work stands in a savepoint of its own:
//! what the books refuse leaves nothing behind and disturbs nobody.
//!
//! When the engine fails, the whole group is rolled back and told so. A full disk or a busy
//! file passes; anything else (an fsync that failed, a damaged page) ends the store for
//! good, because no later answer could be trusted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::place::Lock;
use super::rows::{RowFault, Stop};
use super::upkeep::Upkeep;
use crate::failpoint;
use crate::store::{Health, StoreFault};

/// Receipts in one commit, at most: beyond it latency grows faster than the rate.
const GROUP_RECEIPTS_MAX: usize = 1024;
/// Pieces of work in one commit, at most.
const GROUP_WORK_MAX: usize = 1024;
/// How long a group is gathered, at most.
const GROUP_TIME_MAX: Duration = Duration::from_millis(2);
/// Without work for so long the thread does a piece of upkeep.
const IDLE: Duration = Duration::from_millis(20);
/// A store that is never idle does a piece of upkeep this often all the same.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How often the free space is looked at.
const SPACE_EVERY: Duration = Duration::from_millis(250);
/// It is looked at after so many receipts as well: a few hundred KiB, far less than what is kept
/// free, however fast the disk is.
const SPACE_EVERY_RECEIPTS: u64 = 1000;

/// What kind of work it is, for a disk that runs full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Leads to more receipts: refused first.
    Opens,
    /// Proof of what was done, or giving back: taken as long as there is any space.
    Proves,
}

/// A piece of work with the way to answer it.
pub(super) trait Work: Send {
    /// Does it within the open transaction; `Ok(false)` when the books refused it.
    fn run(&mut self, conn: &Connection) -> Result<bool, RowFault>;

    /// Answers it: with what came of [`Work::run`], or with what befell the transaction.
    fn answer(self: Box<Self>, fault: Option<StoreFault>);
}

/// Queued work.
pub(super) struct Job {
    pub(super) class: Class,
    /// Receipts in it.
    pub(super) receipts: usize,
    pub(super) work: Box<dyn Work>,
}

/// Work as a closure, and who waits for it.
pub(super) struct Asked<T, E, F> {
    run: F,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

/// What a store counts of itself.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) commits: AtomicU64,
    pub(super) receipts: AtomicU64,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
    pub(super) free_bytes_min: u64,
    pub(super) health: watch::Sender<Health>,
    pub(super) counts: Arc<Counts>,
    pub(super) upkeep: Upkeep,
    /// Released last, when the connection is closed.
    pub(super) _lock: Lock,
}

/// What became of a group.
struct Group {
    done: Vec<Box<dyn Work>>,
    receipts: usize,
    fault: Option<StoreFault>,
}

// === impl Asked ===

impl<T, E, F> Asked<T, E, F> {
    /// Work that answers by `reply`.
    pub(super) fn new(run: F, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self {
            run,
            result: None,
            reply,
        }
    }
}

impl<T, E, F> Work for Asked<T, E, F>
where
    T: Send,
    E: From<StoreFault> + Send,
    F: FnMut(&Connection) -> Result<T, Stop<E>> + Send,
{
    fn run(&mut self, conn: &Connection) -> Result<bool, RowFault> {
        match (self.run)(conn) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Ok(true)
            }
            Err(Stop::Refused(error)) => {
                self.result = Some(Err(error));
                Ok(false)
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    fn answer(self: Box<Self>, fault: Option<StoreFault>) {
        let result = match (fault, self.result) {
            (None, Some(result)) => result,
            (Some(fault), _) => Err(fault.into()),
            (None, None) => Err(StoreFault::Unavailable.into()),
        };
        // Nobody waits any more: the work stands all the same.
        drop(self.reply.send(result));
    }
}

// === impl Writer ===

impl Writer {
    /// Works until the last sender is gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut space_at: Option<Instant> = None;
        let mut space_at_receipts = 0;
        let mut upkeep_at = Instant::now();
        loop {
            let next = jobs.recv_timeout(IDLE);
            let receipts = self.counts.receipts.load(Ordering::Relaxed);
            if space_at.is_none_or(|at| at.elapsed() >= SPACE_EVERY)
                || receipts.saturating_sub(space_at_receipts) >= SPACE_EVERY_RECEIPTS
            {
                self.look_at_space();
                space_at = Some(Instant::now());
                space_at_receipts = receipts;
            }
            let idle = match next {
                Ok(job) => {
                    self.group(job, jobs);
                    false
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if idle || upkeep_at.elapsed() >= UPKEEP_EVERY {
                self.keep_up();
                upkeep_at = Instant::now();
            }
        }
        if self.is_sound() {
            // Leaves a file that is whole by itself; what fails here is in the journal still.
            let cut = self
                .conn
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            if let Err(error) = cut {
                tracing::warn!(%error, "could not write the journal back");
            }
        }
    }

    fn is_sound(&self) -> bool {
        *self.health.borrow() != Health::Damaged
    }

    /// Does a group of work in one transaction and answers all of it.
    fn group(&mut self, first: Job, jobs: &Receiver<Job>) {
        if !self.is_sound() {
            first.work.answer(Some(StoreFault::Damaged));
            return;
        }
        let group = match self.begin() {
            Ok(()) => self.gather(first, jobs),
            Err(fault) => Group {
                done: vec![first.work],
                receipts: 0,
                fault: Some(self.failed(&fault)),
            },
        };
        failpoint::hit("commit");
        let fault = group
            .fault
            .or_else(|| match self.conn.execute_batch("COMMIT") {
                Ok(()) => {
                    failpoint::hit("committed");
                    self.counts.commits.fetch_add(1, Ordering::Relaxed);
                    let receipts = u64::try_from(group.receipts).unwrap_or(u64::MAX);
                    self.counts.receipts.fetch_add(receipts, Ordering::Relaxed);
                    None
                }
                Err(error) => Some(self.failed(&error.into())),
            });
        if fault.is_some() {
            self.roll_back();
        }
        for work in group.done {
            work.answer(fault);
        }
    }

    fn begin(&self) -> Result<(), RowFault> {
        Ok(self.conn.execute_batch("BEGIN IMMEDIATE")?)
    }

    /// Runs work from the queue until it is empty or the group is large enough.
    fn gather(&self, first: Job, jobs: &Receiver<Job>) -> Group {
        let began = Instant::now();
        let mut group = Group {
            done: Vec::new(),
            receipts: 0,
            fault: None,
        };
        let mut next = Some(first);
        while let Some(mut job) = next {
            if job.class == Class::Opens && *self.health.borrow() == Health::Full {
                job.work.answer(Some(StoreFault::Unavailable));
            } else {
                let ran = self.run_in_savepoint(&mut job);
                group.done.push(job.work);
                match ran {
                    Ok(true) => group.receipts = group.receipts.saturating_add(job.receipts),
                    Ok(false) => {}
                    Err(fault) => {
                        group.fault = Some(self.failed(&fault));
                        return group;
                    }
                }
            }
            let more = group.receipts < GROUP_RECEIPTS_MAX
                && group.done.len() < GROUP_WORK_MAX
                && began.elapsed() < GROUP_TIME_MAX;
            next = if more { jobs.try_recv().ok() } else { None };
        }
        group
    }

    fn run_in_savepoint(&self, job: &mut Job) -> Result<bool, RowFault> {
        self.conn.prepare_cached("SAVEPOINT work")?.execute([])?;
        let accepted = job.work.run(&self.conn)?;
        if !accepted {
            self.conn.prepare_cached("ROLLBACK TO work")?.execute([])?;
        }
        self.conn.prepare_cached("RELEASE work")?.execute([])?;
        Ok(accepted)
    }

    fn roll_back(&self) {
        // The engine may have rolled back by itself.
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            self.failed(&error.into());
        }
    }

    /// Notes what a failure means for the store's health.
    fn failed(&self, fault: &RowFault) -> StoreFault {
        let meaning = fault.meaning();
        match meaning {
            StoreFault::Damaged => {
                tracing::error!(error = %fault, "the store is damaged and stops");
                self.set_health(Health::Damaged);
            }
            StoreFault::Unavailable => {
                tracing::warn!(error = %fault, "the store could not write");
                if fault.is_full() {
                    self.set_health(Health::Full);
                }
            }
        }
        meaning
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let changes = *now != health && *now != Health::Damaged;
            if changes {
                *now = health;
            }
            changes
        });
    }

    /// Full when the disk has less free than it should, or the file has reached its limit.
    fn look_at_space(&self) {
        if !self.is_sound() {
            return;
        }
        let parent = self.path.parent().filter(|at| !at.as_os_str().is_empty());
        let free = fs4::available_space(parent.unwrap_or_else(|| ".".as_ref()));
        let full = match (free, self.room_in_file()) {
            (Ok(free), Ok(room)) => free.min(room) < self.free_bytes_min,
            (Err(error), _) => {
                tracing::warn!(%error, "could not see how much space is free");
                false
            }
            (_, Err(fault)) => {
                self.failed(&fault);
                return;
            }
        };
        let health = if full { Health::Full } else { Health::Ready };
        if *self.health.borrow() != health {
            tracing::warn!(?health, "the free space of the store changed");
        }
        self.set_health(health);
    }

    /// Bytes that the file may still take, free pages included.
    fn room_in_file(&self) -> Result<u64, RowFault> {
        let ask = |pragma: &str| -> rusqlite::Result<i64> {
            self.conn.pragma_query_value(None, pragma, |row| row.get(0))
        };
        let pages = ask("max_page_count")?
            .saturating_sub(ask("page_count")?)
            .saturating_add(ask("freelist_count")?);
        Ok(u64::try_from(pages.saturating_mul(ask("page_size")?)).unwrap_or(0))
    }

    fn keep_up(&mut self) {
        if !self.is_sound() || !self.upkeep.is_due() {
            return;
        }
        let done = self
            .begin()
            .and_then(|()| self.upkeep.step(&self.conn))
            .and_then(|()| Ok(self.conn.execute_batch("COMMIT")?));
        if let Err(fault) = done {
            self.failed(&fault);
            self.roll_back();
        }
    }
}
