//! Receipts on their way to the engine: a bounded queue whose slots are taken at admission,
//! so that the end of a call can always hand its receipt over without waiting.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::AppendAsk;
use crate::ids::Incarnation;
use crate::period::Period;
use crate::receipt::Receipt;

/// The queue. `W` is who waits for a receipt to be durable.
pub struct Journal<W> {
    incarnation: Incarnation,
    capacity: usize,
    state: Mutex<State<W>>,
    waker: Mutex<Option<Waker>>,
}

type Waker = Arc<dyn Fn() + Send + Sync>;

/// A slot of the queue. Dropping it gives the slot back.
#[must_use = "dropping a permit gives its slot back"]
pub struct Permit<W> {
    journal: Arc<Journal<W>>,
    sent: bool,
}

/// Proof that a receipt is durable. Only an append's acknowledgement makes one.
///
/// ```compile_fail
/// let faked = taugate_ledger::journal::Recorded(());
/// ```
#[derive(Debug)]
pub struct Recorded(());

struct State<W> {
    permits: usize,
    queued: usize,
    outboxes: BTreeMap<Period, Outbox<W>>,
}

/// The receipts of one period that are not durable yet.
struct Outbox<W> {
    /// The offset of the first entry.
    first: u64,
    entries: VecDeque<(Receipt, Option<W>)>,
}

// === impl Journal ===

impl<W> Journal<W> {
    /// A queue of so many slots.
    #[must_use]
    pub fn new(incarnation: Incarnation, capacity: usize) -> Self {
        let state = State {
            permits: 0,
            queued: 0,
            outboxes: BTreeMap::new(),
        };
        Self {
            incarnation,
            capacity,
            state: Mutex::new(state),
            waker: Mutex::new(None),
        }
    }

    /// Calls this whenever a receipt was handed over.
    pub fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>) {
        *self.waker.lock() = Some(Arc::from(waker));
    }

    /// A slot, if one is free.
    #[must_use]
    pub fn try_permit(self: &Arc<Self>) -> Option<Permit<W>> {
        let mut state = self.state.lock();
        if state.permits.saturating_add(state.queued) >= self.capacity {
            return None;
        }
        state.permits = state.permits.saturating_add(1);
        drop(state);
        Some(Permit {
            journal: Arc::clone(self),
            sent: false,
        })
    }

    /// The next receipts to hand to the engine, of the oldest period first. The same again
    /// until they are acknowledged.
    #[must_use]
    pub fn next_append(&self, most: usize) -> Option<AppendAsk> {
        let state = self.state.lock();
        let (period, outbox) = state
            .outboxes
            .iter()
            .find(|(_, outbox)| !outbox.entries.is_empty())?;
        Some(AppendAsk {
            incarnation: self.incarnation,
            period: *period,
            first_offset: outbox.first,
            receipts: outbox
                .entries
                .iter()
                .take(most)
                .map(|(receipt, _)| receipt.clone())
                .collect(),
        })
    }

    /// The engine says that all before `next_offset` is durable: their slots are free, and
    /// who waits for them gets the proof.
    pub fn acked(&self, period: Period, next_offset: u64) -> Vec<(W, Recorded)> {
        let mut state = self.state.lock();
        let mut waiters = Vec::new();
        let mut freed: usize = 0;
        if let Some(outbox) = state.outboxes.get_mut(&period) {
            while outbox.first < next_offset {
                let Some((_, waiter)) = outbox.entries.pop_front() else {
                    break;
                };
                outbox.first = outbox.first.saturating_add(1);
                freed = freed.saturating_add(1);
                waiters.extend(waiter.map(|waiter| (waiter, Recorded(()))));
            }
        }
        state.queued = state.queued.saturating_sub(freed);
        waiters
    }

    /// Receipts that are not durable yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state.lock().queued
    }

    /// Receipts of a period that are not durable yet.
    #[must_use]
    pub fn unacked(&self, period: Period) -> usize {
        self.state
            .lock()
            .outboxes
            .get(&period)
            .map_or(0, |outbox| outbox.entries.len())
    }

    /// How many slots there are.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Slots that are neither taken nor full.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        let state = self.state.lock();
        self.capacity
            .saturating_sub(state.permits)
            .saturating_sub(state.queued)
    }
}

impl<W> fmt::Debug for Journal<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

// === impl Permit ===

impl<W> Permit<W> {
    /// Hands a receipt over. Never waits, never fails.
    pub fn send(mut self, period: Period, receipt: Receipt, waiter: Option<W>) {
        self.sent = true;
        let mut state = self.journal.state.lock();
        state.permits = state.permits.saturating_sub(1);
        state.queued = state.queued.saturating_add(1);
        let fresh = || Outbox {
            first: 0,
            entries: VecDeque::new(),
        };
        let outbox = state.outboxes.entry(period).or_insert_with(fresh);
        outbox.entries.push_back((receipt, waiter));
        drop(state);
        let waker = self.journal.waker.lock().clone();
        if let Some(waker) = waker {
            waker();
        }
    }
}

impl<W> Drop for Permit<W> {
    fn drop(&mut self) {
        if !self.sent {
            let mut state = self.journal.state.lock();
            state.permits = state.permits.saturating_sub(1);
        }
    }
}

impl<W> fmt::Debug for Permit<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
