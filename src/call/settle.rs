//! The one exit of a call. Whatever happened, the guard does the accounting: what was
//! delivered is posted, the rest goes back, one receipt is left.

use std::sync::Arc;

use taugate_ledger::journal::Recorded;
use taugate_ledger::receipt::{Finish, Outcome, Quality};
use taugate_ledger::reservation::{Cause, Reservation};
use taugate_ledger::units::Units;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::displaced::Place;
use super::observed::observe;
use super::outlet::Outlet;
use super::record::Record;
use super::witness::Witness;
use super::{Admitted, CallError, CallSettings, Calls};
use crate::books::Slot;
use crate::failpoint;
use crate::proto::v1;
use crate::routing::InFlight;

/// What must be given back when a call ends, and the record of it.
#[derive(Debug)]
#[must_use = "dropping it settles the call"]
pub(super) struct Guard {
    pub(super) calls: Arc<Calls>,
    /// As they were when it began.
    pub(super) settings: CallSettings,
    pub(super) record: Record,
    pub(super) outlet: Outlet,
    /// The running attempt's hold on its cells.
    held: Option<Reservation>,
    /// The running attempt's place at its miner.
    in_flight: Option<InFlight>,
    /// A check's place among those that run.
    place: Option<Place>,
    witness: Option<Witness>,
    slot: Option<Slot>,
    /// When the last part was booked.
    part_at: Instant,
}

/// How a call ended, for its receipt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) finish: Finish,
    pub(super) quality: Quality,
}

// === impl Ending ===

impl Ending {
    pub(super) const fn whole() -> Self {
        Self {
            finish: Finish::Attempt(Outcome::Good),
            quality: Quality::Exact,
        }
    }

    pub(super) const fn broken(finish: Finish) -> Self {
        Self {
            finish,
            quality: Quality::Partial,
        }
    }
}

// === impl Guard ===

impl Guard {
    /// Takes over an admitted call.
    pub(super) fn new(calls: Arc<Calls>, admitted: &mut Admitted, outlet: Outlet) -> Self {
        let record = Record::new(admitted);
        Self {
            settings: **calls.settings.load(),
            calls,
            record,
            outlet,
            held: None,
            in_flight: None,
            place: None,
            witness: admitted.witness.take(),
            slot: admitted.slot.take(),
            part_at: Instant::now(),
        }
    }

    /// Starts an attempt: its record, its hold, its place at the miner.
    pub(super) fn begin(
        &mut self,
        attempt: super::record::Attempt,
        held: Reservation,
        in_flight: InFlight,
    ) {
        self.record.attempts.push(attempt);
        self.held = Some(held);
        self.in_flight = Some(in_flight);
    }

    /// Notes where a check runs, before it begins.
    pub(super) fn enter(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Waits until a check has to give way; for ever where this is none.
    pub(super) async fn displaced(&self) {
        match &self.place {
            Some(place) => place.left().await,
            None => std::future::pending().await,
        }
    }

    /// Shows a piece of the answer to who sees it beside the client.
    pub(super) fn show(&mut self, delta: &v1::Delta) {
        if let Some(witness) = &mut self.witness {
            witness.delta(delta);
        }
    }

    /// Shows how the choices ended.
    pub(super) fn show_ends(&mut self, ends: &[v1::ChoiceEnd]) {
        if let Some(witness) = &mut self.witness {
            witness.ends(ends);
        }
    }

    /// Ends an attempt that delivered nothing; its units go back.
    pub(super) fn abandon(&mut self, outcome: Outcome, cause: Cause) {
        self.close_attempt(outcome);
        if let Some(held) = self.held.take() {
            // Nothing was posted before the first chunk, so that it cannot be refused.
            held.void(cause).ok();
        }
        self.calls.waiting.freed(&self.record.task.id);
    }

    /// Leaves no receipt: nothing was sent, and nobody waits for an answer.
    pub(super) fn forget(&mut self) {
        self.slot = None;
    }

    /// The running attempt's hold.
    pub(super) fn held(&mut self) -> Option<&mut Reservation> {
        self.held.as_mut()
    }

    /// Grows the running attempt's hold.
    pub(super) async fn grow(&mut self, by: Units) -> bool {
        let Some(held) = self.held.as_mut() else {
            return false;
        };
        self.calls.books.grow(held, by).await.is_ok()
    }

    /// Notes the first delta of the running attempt.
    pub(super) fn first_chunk(&mut self) {
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.first_chunk.get_or_insert_with(Instant::now);
        }
    }

    /// When the next part is due.
    pub(super) fn part_due(&self) -> Instant {
        self.part_at + self.settings.part_every
    }

    /// Books what was delivered until now, if anything was and a slot is free. A crash
    /// then puts only what comes after in doubt.
    pub(super) fn book_part(&mut self) {
        self.part_at = Instant::now();
        let delivered = self.delivered();
        let Some(held) = self.held.as_mut() else {
            return;
        };
        if delivered <= held.posted() || held.deliver(delivered).is_err() {
            return;
        }
        let Some(slot) = self.calls.books.slot(held.table().period()) else {
            return;
        };
        let units = held.post_part();
        let cells = held.cells().to_vec();
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.units = units;
        }
        slot.send(
            self.record
                .receipt(Finish::Running, Quality::Partial, &cells),
            None,
        );
    }

    /// Ends the call's books. What comes back tells when the receipt is durable.
    pub(super) fn settle(
        &mut self,
        outcome: Outcome,
        ending: Ending,
    ) -> Option<oneshot::Receiver<Recorded>> {
        // The slot and the hold stay here until all is ready: should anything on the way
        // panic, the guard's drop settles once more.
        self.slot.as_ref()?;
        let mut units = Units::ZERO;
        let mut cells = Vec::new();
        if let Some(held) = &self.held {
            units = self.units_at_end(outcome, held);
            cells.extend_from_slice(held.cells());
            if let Some(attempt) = self.record.attempts.last_mut() {
                attempt.units = units;
            }
        }
        self.close_attempt(outcome);
        self.record.judge_refusals();
        let receipt = self.record.receipt(ending.finish, ending.quality, &cells);
        let (waiter, durable) = oneshot::channel();
        let slot = self.slot.take()?;
        // Nothing that can panic may stand between these two: units that are posted have a receipt.
        if let Some(held) = self.held.take() {
            held.post(units);
            failpoint::hit("post");
        }
        slot.send(receipt, Some(waiter));
        // Booked before it is told: what listens to logs and traces may fail.
        self.calls.waiting.freed(&self.record.task.id);
        observe(
            &self.record,
            &self.calls.instruments,
            &self.calls.trace,
            ending.finish,
        );
        if let Some(witness) = self.witness.take() {
            witness.tell(&self.record, ending.finish);
        }
        Some(durable)
    }

    /// When the client is too slow, if it takes nothing until then.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        self.outlet
            .waiting_since()
            .map(|since| since + self.settings.slow_consumer)
    }

    /// What the client has taken, in units.
    pub(super) fn delivered(&self) -> Units {
        let bound = self
            .held
            .as_ref()
            .map_or(Units::ZERO, Reservation::reserved);
        self.units_of(self.outlet.delivered(), bound)
    }

    /// The units of so many code points, prompt included; never more than `bound`.
    pub(super) fn units_of(&self, code_points: u64, bound: Units) -> Units {
        if code_points == 0 {
            return Units::ZERO;
        }
        let output = Units::new(code_points.div_ceil(4));
        self.record.prompt_units.saturating_add(output).min(bound)
    }

    /// What the running attempt has to post in all: what `post` will say, known before it.
    fn units_at_end(&self, outcome: Outcome, held: &Reservation) -> Units {
        let mut units = self.units_of(self.outlet.delivered(), held.reserved());
        // A whole answer without a counted code point calls a tool without arguments: it was
        // delivered, so that its prompt is charged.
        if outcome == Outcome::Good {
            units = units.max(self.record.prompt_units.min(held.reserved()));
        }
        units.max(held.posted())
    }

    fn close_attempt(&mut self, outcome: Outcome) {
        let now_ms = self.calls.now_ms();
        self.place = None;
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        let Some(attempt) = self.record.attempts.last_mut() else {
            return;
        };
        attempt.ended = Some(Instant::now());
        attempt.outcome = outcome;
        self.calls.vitals.ended(
            in_flight,
            outcome,
            attempt.sample(self.record.prompt_units),
            now_ms,
        );
        self.calls.deliveries.ended(attempt.delivery());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.slot.is_none() {
            return;
        }
        // Nobody ended the call: a panic in its task, or a runtime that was shut down. What the
        // client has not taken by now it does not get, or it would get what is not booked.
        self.outlet.cut(CallError::Internal);
        let finish = if std::thread::panicking() {
            Finish::Internal
        } else {
            Finish::Drained
        };
        drop(self.settle(Outcome::Cancelled, Ending::broken(finish)));
    }
}
