//! How many places each client has, by address or by hotkey, so that none takes those of all
//! others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Places that are taken, by who has them. Who has none has no entry.
#[derive(Debug)]
pub(super) struct Seats<K> {
    max: AtomicUsize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One place; dropping it gives it back.
#[derive(Debug)]
#[must_use]
pub(super) struct Seat<K: Eq + Hash>(Arc<Seats<K>>, K);

// === impl Seats ===

impl<K: Copy + Eq + Hash> Seats<K> {
    /// At most so many for each.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            taken: Mutex::default(),
        }
    }

    /// Changes how many; those that are taken stay.
    pub(super) fn limit(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// One more place, if `who` may have it.
    pub(super) fn take(self: &Arc<Self>, who: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(who).or_default();
        if *count >= self.max.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Seat(Arc::clone(self), who))
    }
}

// === impl Seat ===

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.0.taken.lock();
        if let Some(count) = taken.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn one_address_takes_no_place_of_another_and_leaves_nothing_behind() {
        // Abuse case 16.
        let seats = Arc::new(Seats::new(2));
        let (one, two): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = [seats.take(one), seats.take(one)];
        assert!(held.iter().all(Option::is_some));
        assert!(seats.take(one).is_none());
        let other = seats.take(two);
        assert!(other.is_some());
        drop(held);
        assert!(seats.take(one).is_some(), "its places came back");
        drop(other);
        assert!(seats.taken.lock().is_empty());
    }
}
