//! Clients before checks: a request that would wait takes the place of a check in flight.
//!
//! A check stands here from before it is sent until it has ended. A request that finds every
//! miner busy cancels one, as if its client had left, and gets the place that becomes free. A
//! check that comes while requests wait is not sent at all: whoever looks second sees the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taugate_ledger::ids::CellId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::task::TaskId;

/// Checks of one task that may run at once; one more is not sent.
const PER_TASK_MAX: usize = 16 * 1024;

/// A call takes one check's place in this time, at most: it needs one.
const TAKE_EVERY: Duration = Duration::from_millis(500);

/// The checks that run, by task. Bounded by the tasks, which configuration bounds.
#[derive(Debug, Default)]
pub struct Checks {
    tasks: Mutex<HashMap<TaskId, Vec<Running>>>,
    entered: AtomicU64,
    displaced: AtomicU64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    cell: CellId,
    leave: CancellationToken,
}

/// A check's place among those that run; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place {
    checks: Arc<Checks>,
    task: TaskId,
    number: u64,
    /// Cancelled when the check has to give way.
    leave: CancellationToken,
}

/// What a client's call took from checks.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<Option<(CellId, Instant)>>);

// === impl Taken ===

impl Taken {
    /// Lets a check give way whose miner would do. One in a while, at most: the call stands at
    /// the head of its line, so that the place which becomes free is its own.
    pub(super) fn take(&self, checks: &Checks, task: &str, would_do: impl Fn(CellId) -> bool) {
        let mut last = self.0.lock();
        if last.is_some_and(|(_, at)| at.elapsed() < TAKE_EVERY) {
            return;
        }
        let cell = checks.displace(task, would_do);
        *last = cell.map(|cell| (cell, Instant::now())).or(*last);
    }

    /// Whether a miner says "too many" because of a check: one that gave way, which it may
    /// still be leaving, or one that gives way now.
    pub(super) fn take_at(&self, checks: &Checks, task: &str, cell: CellId) -> bool {
        let mut last = self.0.lock();
        if last.is_some_and(|(at, _)| at == cell) {
            return true;
        }
        let given = checks.displace(task, |at| at == cell);
        *last = given.map(|cell| (cell, Instant::now())).or(*last);
        drop(last);
        given.is_some()
    }
}

// === impl Checks ===

impl Checks {
    /// Enters a check; `None` when too many run.
    pub(super) fn enter(self: &Arc<Self>, task: &TaskId, cell: CellId) -> Option<Place> {
        let number = self.entered.fetch_add(1, Ordering::Relaxed);
        let leave = CancellationToken::new();
        let mut tasks = self.tasks.lock();
        let running = tasks.entry(Arc::clone(task)).or_default();
        if running.len() >= PER_TASK_MAX {
            return None;
        }
        running.push(Running {
            number,
            cell,
            leave: leave.clone(),
        });
        drop(tasks);
        Some(Place {
            checks: Arc::clone(self),
            task: Arc::clone(task),
            number,
            leave,
        })
    }

    /// Lets the youngest check of the task give way whose miner would do: the least of its work
    /// is lost. The miner's cell, if there was such a check.
    pub(super) fn displace(&self, task: &str, would_do: impl Fn(CellId) -> bool) -> Option<CellId> {
        let mut tasks = self.tasks.lock();
        let running = tasks.get_mut(task)?;
        let at = running.iter().rposition(|check| would_do(check.cell))?;
        let check = running.remove(at);
        drop(tasks);
        self.displaced.fetch_add(1, Ordering::Relaxed);
        check.leave.cancel();
        Some(check.cell)
    }

    /// Checks that run, over all tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.lock().values().map(Vec::len).sum()
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that gave way since the start.
    #[must_use]
    pub fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }
}

// === impl Place ===

impl Place {
    /// Waits until the check has to give way.
    pub(super) async fn left(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(running) = self.checks.tasks.lock().get_mut(&self.task) {
            running.retain(|check| check.number != self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_youngest_check_that_would_do_gives_way_once() {
        let checks = Arc::new(Checks::default());
        let task: TaskId = "tiny".into();
        let places = [1, 2, 1].map(|cell| checks.enter(&task, CellId(cell)).unwrap());
        assert_eq!(checks.displace("other", |_| true), None);
        assert_eq!(checks.displace("tiny", |cell| cell.0 > 2), None);
        assert_eq!(checks.displace("tiny", |cell| cell.0 == 1), Some(CellId(1)));
        places[2].left().await;
        assert!(!places[0].leave.is_cancelled() && !places[1].leave.is_cancelled());
        assert_eq!((checks.len(), checks.displaced()), (2, 1));
        drop(places);
        assert!(checks.is_empty());
    }
}
