//! Receipts on their way to the engine: a bounded queue whose slots are taken at admission,
//! so that the end of a call can always hand its receipt over without waiting.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use crate::engine::AppendAsk;
use crate::ids::Incarnation;
use crate::period::Period;
use crate::receipt::Receipt;
use crate::sync::Mutex;

/// The queue. `W` is who waits for a receipt to be durable.
pub struct Journal<W> {
    incarnation: Incarnation,
    capacity: usize,
    state: Mutex<State<W>>,
    waker: Mutex<Option<Waker>>,
}

type Waker = Arc<dyn Fn() + Send + Sync>;

/// A slot of the queue, for one receipt of one period. Dropping it gives the slot back.
#[must_use = "dropping a permit gives its slot back"]
pub struct Permit<W> {
    journal: Arc<Journal<W>>,
    period: Period,
    sent: bool,
}

/// Proof that a receipt is durable. Only an append's acknowledgement makes one.
///
/// ```compile_fail
/// let faked = taugate_ledger::journal::Recorded(());
/// ```
#[derive(Debug)]
pub struct Recorded(());

/// The engine acknowledged what it was never sent: its books are not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("receipts before {next} are acknowledged, but only those before {sent} were sent")]
pub struct AckBeyondSent {
    /// All before this offset is durable, says the engine.
    pub next: u64,
    /// All before this offset was handed over.
    pub sent: u64,
}

struct State<W> {
    permits: usize,
    queued: usize,
    outboxes: BTreeMap<Period, Outbox<W>>,
    /// The period whose receipts were handed over last.
    turn: Option<Period>,
    /// The latest period that was sealed.
    sealed: Option<Period>,
}

/// One period's side of the queue, until it is sealed.
struct Outbox<W> {
    /// Slots that calls of this period hold.
    permits: usize,
    /// The offset of the first entry.
    first: u64,
    /// All before this offset was handed over at least once.
    sent: u64,
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
            turn: None,
            sealed: None,
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

    /// A slot for a receipt of that period; `None` when all are taken, or the period is
    /// sealed. Until it is used or dropped, the period cannot be sealed.
    #[must_use]
    pub fn try_permit(self: &Arc<Self>, period: Period) -> Option<Permit<W>> {
        let mut state = self.state.lock();
        if state.permits.saturating_add(state.queued) >= self.capacity {
            return None;
        }
        let late = state.sealed.is_some_and(|sealed| period <= sealed);
        if late && !state.outboxes.contains_key(&period) {
            return None;
        }
        state.permits = state.permits.saturating_add(1);
        let outbox = state.outboxes.entry(period).or_insert_with(Outbox::new);
        outbox.permits = outbox.permits.saturating_add(1);
        drop(state);
        Some(Permit {
            journal: Arc::clone(self),
            period,
            sent: false,
        })
    }

    /// The next receipts to hand to the engine: of each period in turn, so that one whose
    /// receipts the engine does not take holds up no other. The same again until they are
    /// acknowledged.
    #[must_use]
    pub fn next_append(&self, most: usize) -> Option<AppendAsk> {
        let mut state = self.state.lock();
        let full = |(period, outbox): (&Period, &Outbox<W>)| {
            (!outbox.entries.is_empty()).then_some(*period)
        };
        let after = state.turn.and_then(|turn| {
            let later = (Bound::Excluded(turn), Bound::Unbounded);
            state.outboxes.range(later).find_map(full)
        });
        let period = after.or_else(|| state.outboxes.iter().find_map(full))?;
        state.turn = Some(period);
        let outbox = state.outboxes.get_mut(&period)?;
        let some = outbox.entries.iter().take(most.max(1));
        let receipts: Vec<_> = some.map(|(receipt, _)| receipt.clone()).collect();
        let count = u64::try_from(receipts.len()).unwrap_or(u64::MAX);
        outbox.sent = outbox.sent.max(outbox.first.saturating_add(count));
        Some(AppendAsk {
            incarnation: self.incarnation,
            period,
            first_offset: outbox.first,
            receipts,
        })
    }

    /// The engine says that all before `next_offset` is durable: their slots are free, and
    /// who waits for them gets the proof.
    ///
    /// # Errors
    /// When that is more than was ever handed over; nothing changes then.
    pub fn acked(
        &self,
        period: Period,
        next_offset: u64,
    ) -> Result<Vec<(W, Recorded)>, AckBeyondSent> {
        let mut state = self.state.lock();
        let Some(outbox) = state.outboxes.get_mut(&period) else {
            // Sealed: all of it was acknowledged, this is an echo.
            return Ok(Vec::new());
        };
        if next_offset > outbox.sent {
            return Err(AckBeyondSent {
                next: next_offset,
                sent: outbox.sent,
            });
        }
        let mut waiters = Vec::new();
        let mut freed: usize = 0;
        while outbox.first < next_offset {
            let Some((_, waiter)) = outbox.entries.pop_front() else {
                break;
            };
            outbox.first = outbox.first.saturating_add(1);
            freed = freed.saturating_add(1);
            waiters.extend(waiter.map(|waiter| (waiter, Recorded(()))));
        }
        state.queued = state.queued.saturating_sub(freed);
        Ok(waiters)
    }

    /// Whether a period may be closed: no receipt of it is waiting or still to come. If so,
    /// none can come any more. Asked last, after everything else that closing needs.
    #[must_use]
    pub fn seal(&self, period: Period) -> bool {
        let mut state = self.state.lock();
        let busy = |outbox: &Outbox<W>| outbox.permits > 0 || !outbox.entries.is_empty();
        if state.outboxes.get(&period).is_some_and(busy) {
            return false;
        }
        state.outboxes.remove(&period);
        state.sealed = state.sealed.max(Some(period));
        true
    }

    /// Slots that calls of a period hold: receipts still to come.
    #[must_use]
    pub fn open(&self, period: Period) -> usize {
        let state = self.state.lock();
        state
            .outboxes
            .get(&period)
            .map_or(0, |outbox| outbox.permits)
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

// === impl State ===

impl<W> State<W> {
    fn give_back(&mut self, period: Period) {
        self.permits = self.permits.saturating_sub(1);
        if let Some(outbox) = self.outboxes.get_mut(&period) {
            outbox.permits = outbox.permits.saturating_sub(1);
        }
    }
}

// === impl Outbox ===

impl<W> Outbox<W> {
    const fn new() -> Self {
        Self {
            permits: 0,
            first: 0,
            sent: 0,
            entries: VecDeque::new(),
        }
    }
}

// === impl Permit ===

impl<W> Permit<W> {
    /// The period of its receipt.
    #[must_use]
    pub const fn period(&self) -> Period {
        self.period
    }

    /// Hands the receipt over. Never waits, never fails.
    pub fn send(mut self, receipt: Receipt, waiter: Option<W>) {
        self.sent = true;
        let mut state = self.journal.state.lock();
        state.give_back(self.period);
        state.queued = state.queued.saturating_add(1);
        let outbox = state
            .outboxes
            .entry(self.period)
            .or_insert_with(Outbox::new);
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
            self.journal.state.lock().give_back(self.period);
        }
    }
}

impl<W> fmt::Debug for Permit<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Origin;
    use crate::receipt::{Finish, Quality};
    use crate::units::Units;

    const P: Period = Period::starting_at(60);
    const LATER: Period = Period::starting_at(120);

    fn journal() -> Arc<Journal<u64>> {
        Arc::new(Journal::new(Incarnation(1), 4))
    }

    fn receipt(call: u64) -> Receipt {
        Receipt {
            call,
            origin: Origin::Organic,
            client: "".into(),
            task: "t".into(),
            admitted_ms: 0,
            finish: Finish::NoCapacity,
            quality: Quality::Exact,
            units: Units::ZERO,
            prompt_units: Units::ZERO,
            held: Default::default(),
            attempts: Default::default(),
            digest: [0; 32],
            labels: Vec::new(),
            claim: None,
        }
    }

    #[test]
    fn a_period_with_a_receipt_to_come_is_not_sealed() {
        let journal = journal();
        let permit = journal.try_permit(P).unwrap();
        assert_eq!((journal.open(P), journal.seal(P)), (1, false));
        permit.send(receipt(1), Some(1));
        assert_eq!((journal.open(P), journal.seal(P)), (0, false));
        let ask = journal.next_append(10).unwrap();
        assert_eq!((ask.period, ask.first_offset), (P, 0));
        assert_eq!(journal.acked(P, 1).unwrap().len(), 1);
        assert!(journal.seal(P));
        assert!(journal.try_permit(P).is_none(), "sealed for ever");
        assert!(journal.try_permit(LATER).is_some());
    }

    #[test]
    fn a_dropped_permit_opens_its_period_and_its_slot() {
        let journal = journal();
        let permits: Vec<_> = (0..4).map_while(|_| journal.try_permit(P)).collect();
        assert_eq!(permits.len(), 4);
        assert!(journal.try_permit(LATER).is_none());
        drop(permits);
        assert_eq!(journal.free_slots(), 4);
        assert!(journal.seal(P));
    }

    #[test]
    fn sealed_periods_leave_nothing_behind() {
        let journal = journal();
        for start_s in 0..100 {
            let period = Period::starting_at(start_s);
            drop(journal.try_permit(period));
            assert!(journal.seal(period));
        }
        assert!(journal.state.lock().outboxes.is_empty());
    }

    #[test]
    fn one_period_does_not_hold_up_another() {
        let journal = journal();
        journal.try_permit(P).unwrap().send(receipt(1), None);
        journal.try_permit(LATER).unwrap().send(receipt(2), None);
        let asked: Vec<_> = (0..3)
            .map(|_| journal.next_append(1).unwrap().period)
            .collect();
        assert_eq!(asked, [P, LATER, P]);
    }

    #[test]
    fn what_was_never_sent_cannot_be_acknowledged() {
        let journal = journal();
        journal.try_permit(P).unwrap().send(receipt(1), Some(1));
        assert_eq!(
            journal.acked(P, 1).unwrap_err(),
            AckBeyondSent { next: 1, sent: 0 }
        );
        assert_eq!(journal.unacked(P), 1);
        journal.next_append(1).unwrap();
        assert_eq!(journal.acked(P, 1).unwrap().len(), 1);
        assert!(journal.acked(P, 1).unwrap().is_empty(), "an echo");
    }
}
