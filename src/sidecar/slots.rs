//! The bound on requests at once. Model servers take any number and let them wait without a
//! word; a request that is turned away at once can go to another miner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::condition::Conditions;

/// So many requests at once.
#[derive(Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    most: usize,
    turned_away: AtomicU64,
    conditions: Arc<Conditions>,
}

/// A request's slot; free again when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    conditions: Arc<Conditions>,
}

// === impl Slots ===

impl Slots {
    /// At most so many.
    #[must_use]
    pub fn new(most: usize, conditions: Arc<Conditions>) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            turned_away: AtomicU64::new(0),
            conditions,
        }
    }

    /// A slot, if there is one.
    pub fn take(&self) -> Option<Slot> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(Slot {
                permit: Some(permit),
                conditions: Arc::clone(&self.conditions),
            });
        }
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        self.conditions.full(true);
        // A slot that came back in between found nothing to take back.
        if self.free.available_permits() > 0 {
            self.conditions.full(false);
        }
        None
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// How many there are.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Requests that found none, since the start.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.conditions.full(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miner_is_full_from_the_first_it_turns_away_to_the_next_free_slot() {
        let conditions = Arc::new(Conditions::new(1));
        let slots = Slots::new(1, Arc::clone(&conditions));
        let watch = conditions.watch();
        let held = slots.take().unwrap();
        assert!(!watch.borrow().full, "busy is not full");
        assert!(slots.take().is_none());
        assert!(watch.borrow().full);
        assert_eq!((slots.free(), slots.turned_away()), (0, 1));
        drop(held);
        assert!(!watch.borrow().full);
        assert_eq!(slots.free(), 1);
    }
}
