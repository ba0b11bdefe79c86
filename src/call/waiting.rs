//! Calls that wait for a free miner: first come, first served, per task, at most so many
//! and so long.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify};

use crate::task::TaskId;

/// The queues of all tasks. Bounded by the tasks, which configuration bounds.
#[derive(Debug)]
pub struct Waiting {
    per_task_max: AtomicUsize,
    queues: Mutex<HashMap<TaskId, Arc<Queue>>>,
}

/// The queue of one task.
#[derive(Debug, Default)]
pub struct Queue {
    /// tokio's mutex is fair: who waits for it is served in order of arrival.
    head: tokio::sync::Mutex<()>,
    length: AtomicUsize,
    freed: Notify,
}

/// A place in a queue; gives itself back.
#[derive(Debug)]
#[must_use]
pub struct Place(Arc<Queue>);

// === impl Waiting ===

impl Waiting {
    /// Queues of at most so many calls each.
    #[must_use]
    pub fn new(per_task_max: usize) -> Self {
        Self {
            per_task_max: AtomicUsize::new(per_task_max),
            queues: Mutex::new(HashMap::new()),
        }
    }

    /// Changes how many may wait per task; who waits already stays.
    pub fn limit(&self, per_task_max: usize) {
        self.per_task_max.store(per_task_max, Ordering::Relaxed);
    }

    /// Whether someone waits for the task: whoever comes now stands behind.
    #[must_use]
    pub fn is_queued(&self, task: &str) -> bool {
        self.queues
            .lock()
            .get(task)
            .is_some_and(|queue| queue.length.load(Ordering::Acquire) > 0)
    }

    /// A place at the end of the task's queue; `None` when it is full.
    pub fn join(&self, task: &TaskId) -> Option<Place> {
        let queue = Arc::clone(self.queues.lock().entry(Arc::clone(task)).or_default());
        let before = queue.length.fetch_add(1, Ordering::AcqRel);
        let place = Place(queue);
        (before < self.per_task_max.load(Ordering::Relaxed)).then_some(place)
    }

    /// Says that a miner of the task may have become free.
    pub fn freed(&self, task: &str) {
        if let Some(queue) = self.queues.lock().get(task) {
            queue.freed.notify_one();
        }
    }

    /// Calls that wait, over all tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues
            .lock()
            .values()
            .map(|queue| queue.length.load(Ordering::Acquire))
            .sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// === impl Place ===

impl Place {
    /// Waits until it stands at the head.
    pub async fn head(&self) -> MutexGuard<'_, ()> {
        self.0.head.lock().await
    }

    /// Waits until a miner may have become free.
    pub async fn freed(&self) {
        self.0.freed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.length.fetch_sub(1, Ordering::AcqRel);
    }
}
