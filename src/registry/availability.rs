//! What miners say of themselves from moment to moment, and on which stream.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Registry;
use super::snapshot::Availability;
use crate::identity::hotkey::Hotkey;
use crate::task::TaskId;

/// A change in a miner's availability.
#[derive(Clone, Debug)]
pub struct Change {
    /// Rises with each change of the miner.
    pub counter: u64,
    /// One task, or all.
    pub task: Option<TaskId>,
    /// How it is.
    pub availability: Availability,
    /// Requests at once; `None`: as declared.
    pub concurrency: Option<u32>,
}

/// What a miner last said of itself: of all tasks, and since then of single ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    counter: u64,
    of_all: Option<Said>,
    of_one: HashMap<TaskId, Said>,
}

/// What a miner last said of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) availability: Availability,
    pub(super) concurrency: Option<u32>,
}

/// The one live stream of each hotkey: the newest.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// No larger than the number of open streams.
    by_hotkey: HashMap<Hotkey, (u64, CancellationToken)>,
}

/// A miner's stream of changes. Dropped without [`LiveStream::finish`] it was cut off.
#[derive(Debug)]
pub struct LiveStream {
    registry: Arc<Registry>,
    hotkey: Hotkey,
    number: u64,
    superseded: CancellationToken,
    finished: bool,
}

// === impl Word ===

impl Word {
    /// Heeds a change; one whose counter is not above the last one's is ignored.
    pub(super) fn heed(&mut self, change: Change) -> bool {
        if change.counter <= self.counter {
            return false;
        }
        self.counter = change.counter;
        let said = Said {
            availability: change.availability,
            concurrency: change.concurrency,
        };
        match change.task {
            Some(task) => {
                self.of_one.insert(task, said);
            }
            None => {
                self.of_one.clear();
                self.of_all = Some(said);
            }
        }
        true
    }

    /// What holds for a task.
    pub(super) fn of(&self, task: &str) -> Option<Said> {
        self.of_one.get(task).copied().or(self.of_all)
    }

    /// Forgets tasks that are no longer declared, so that this does not grow with each
    /// declaration.
    pub(super) fn keep(&mut self, declared: impl Fn(&str) -> bool) {
        self.of_one.retain(|task, _| declared(task));
    }

    /// Heeds a newer declaration: how many requests at once it states counts for the tasks of
    /// which it states something else than before. How the miner is, it does not say.
    pub(super) fn restate(&mut self, restated: impl IntoIterator<Item = TaskId>) {
        for task in restated {
            if let Some(said) = self.of(&task) {
                let as_declared = Said {
                    concurrency: None,
                    ..said
                };
                self.of_one.insert(task, as_declared);
            }
        }
    }

    /// Forgets what was said, but not how far the miner has counted.
    pub(super) fn forget(&mut self) {
        self.of_all = None;
        self.of_one.clear();
    }

    /// Takes "busy" back: the stream that would have said "free" again is gone. Whoever
    /// drains goes on draining.
    pub(super) fn forget_busy(&mut self) -> bool {
        let said = self.of_one.values_mut().chain(&mut self.of_all);
        let busy = said.filter(|said| said.availability == Availability::Busy);
        busy.map(|said| said.availability = Availability::Free)
            .count()
            > 0
    }
}

// === impl Streams ===

impl Streams {
    /// A new stream of a hotkey; an older one is told that it is superseded.
    pub(super) fn open(&self, registry: &Arc<Registry>, hotkey: Hotkey) -> LiveStream {
        let superseded = CancellationToken::new();
        let mut live = self.0.lock();
        live.next = live.next.saturating_add(1);
        let number = live.next;
        let older = live.by_hotkey.insert(hotkey, (number, superseded.clone()));
        drop(live);
        if let Some((_, older)) = older {
            older.cancel();
        }
        LiveStream {
            registry: Arc::clone(registry),
            hotkey,
            number,
            superseded,
            finished: false,
        }
    }

    /// Forgets a stream; `false` when a newer one took over.
    fn close(&self, hotkey: &Hotkey, number: u64) -> bool {
        let mut live = self.0.lock();
        let own = live
            .by_hotkey
            .get(hotkey)
            .is_some_and(|(newest, _)| *newest == number);
        if own {
            live.by_hotkey.remove(hotkey);
        }
        own
    }

    /// Whether a stream of the hotkey is open.
    pub(super) fn has(&self, hotkey: &Hotkey) -> bool {
        self.0.lock().by_hotkey.contains_key(hotkey)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().by_hotkey.len()
    }
}

// === impl LiveStream ===

impl LiveStream {
    /// Ends when a newer stream of the same hotkey took over.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Heeds a change, unless its counter is not above the last one's.
    #[must_use]
    pub fn heed(&self, change: Change) -> bool {
        self.registry.set_availability(self.hotkey, change)
    }

    /// The miner said that this was its last word: it stands.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let newest = self.registry.streams().close(&self.hotkey, self.number);
        if newest && !self.finished {
            self.registry.stream_lost(self.hotkey);
        }
    }
}
