//! How many connections each address has, so that none takes the places of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Open connections by address. Only addresses with one have an entry.
#[derive(Debug)]
pub(super) struct Addresses {
    max: AtomicUsize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place among those of its address; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat(Arc<Addresses>, IpAddr);

// === impl Addresses ===

impl Addresses {
    /// At most so many of one address.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            open: Mutex::default(),
        }
    }

    /// Changes how many; those that are open stay.
    pub(super) fn limit(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// A place for one more connection, if the address may have it.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut open = self.open.lock();
        let count = open.entry(address).or_default();
        if *count >= self.max.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Seat(Arc::clone(self), address))
    }
}

// === impl Seat ===

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.0.open.lock();
        if let Some(count) = open.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_no_place_of_another_and_leaves_nothing_behind() {
        // Abuse case 16.
        let addresses = Arc::new(Addresses::new(2));
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = [addresses.take(one), addresses.take(one)];
        assert!(held.iter().all(Option::is_some));
        assert!(addresses.take(one).is_none());
        let other = addresses.take(two);
        assert!(other.is_some());
        drop(held);
        assert!(addresses.take(one).is_some(), "its places came back");
        drop(other);
        assert!(addresses.open.lock().is_empty());
    }
}
