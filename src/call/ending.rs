//! The end of a call whose answer began: the relay, the last message, the settlement.

use std::sync::Arc;

use taugate_ledger::journal::Recorded;
use taugate_ledger::receipt::{Finish, Outcome};
use taugate_ledger::units::Units;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::attempt::Run;
use super::outlet::Event;
use super::relay::{Bounds, Relay, RelayEnd};
use super::settle::Ending;
use super::{CallError, Stage};
use crate::failpoint;
use crate::miner_client::MinerStream;
use crate::proto::v1;

// === impl Run ===

impl Run {
    /// Relays the answer that has begun, and ends the call.
    pub(super) async fn relay(&mut self, stream: MinerStream, first: v1::Delta) {
        self.guard.first_chunk();
        self.say_started();
        let bounds = Bounds {
            choices: self.admitted.choices,
            units_max: self
                .admitted
                .prompt_units
                .saturating_add(self.admitted.output_units_max),
            deadline: self.admitted.deadline,
        };
        let relay = Relay::new(stream, bounds, self.guard.calls.cut.clone());
        match relay.run(&mut self.guard, first).await {
            RelayEnd::Whole(completed) => self.complete(completed.choices, completed.claimed).await,
            RelayEnd::Length => {
                let ends = (0..self.admitted.choices).map(|choice| v1::ChoiceEnd {
                    choice,
                    finish_reason: v1::FinishReason::Length.into(),
                });
                self.complete(ends.collect(), None).await;
            }
            RelayEnd::Broken(outcome, ending, error) => {
                self.break_off(outcome, ending, error).await;
            }
            RelayEnd::Gone => {
                let ending = Ending::broken(Finish::Attempt(Outcome::Cancelled));
                drop(self.guard.settle(Outcome::Cancelled, ending));
            }
        }
    }

    fn say_started(&self) {
        let attempt = self.guard.record.attempts.last();
        let explanation = attempt.and_then(|attempt| attempt.explanation.as_ref());
        let units = self
            .admitted
            .prompt_units
            .saturating_add(self.admitted.output_units);
        let started = v1::Started {
            request_id: self.admitted.id.to_string(),
            miner: attempt
                .map(|attempt| attempt.hotkey.to_string())
                .unwrap_or_default(),
            units_reserved: units.get(),
            explanation: explanation
                .map(|explanation| explanation.to_proto(self.guard.record.waited_ms())),
        };
        // A client that left is noticed by the relay.
        self.guard.outlet.push(Event::Started(started), 0).ok();
    }

    /// A whole answer: once the client has taken it, book it; once that is durable, say so.
    async fn complete(&mut self, choices: Vec<v1::ChoiceEnd>, claimed: Option<v1::ClaimedTokens>) {
        if !self.delivered_all().await {
            return;
        }
        self.guard.show_ends(&choices);
        let durable = self.guard.settle(Outcome::Good, Ending::whole());
        let recorded = match durable {
            Some(durable) => self.recorded(durable).await,
            None => return self.guard.outlet.finish(Err(CallError::Internal)),
        };
        failpoint::hit("final");
        let completed = self.completed(choices, claimed, recorded);
        self.guard.outlet.conclude(Event::Completed(completed));
    }

    /// The last message of a whole answer. It says that the receipt is recorded when it is
    /// handed the proof of that, which only the engine's acknowledgement makes.
    fn completed(
        &self,
        choices: Vec<v1::ChoiceEnd>,
        claimed: Option<v1::ClaimedTokens>,
        proof: Option<Recorded>,
    ) -> v1::Completed {
        let recorded = match proof {
            Some(_proof) => true,
            None => {
                self.guard.calls.instruments.unrecorded_finals.inc();
                false
            }
        };
        let units = self
            .guard
            .record
            .attempts
            .last()
            .map_or(Units::ZERO, |attempt| attempt.units);
        v1::Completed {
            choices,
            usage: Some(v1::Usage {
                units: units.get(),
                prompt_units: self.admitted.prompt_units.min(units).get(),
                quality: v1::UsageQuality::Exact.into(),
                claimed,
            }),
            recorded,
            capacity_left: self
                .guard
                .calls
                .capacity_left(&self.admitted.task.id)
                .into(),
        }
    }

    /// Waits until a receipt is durable, and gives the proof: no longer than a final message
    /// may wait for that, nor than the client or a drain does.
    async fn recorded(&self, durable: oneshot::Receiver<Recorded>) -> Option<Recorded> {
        let latest = Instant::now() + self.guard.settings.record_wait;
        let until = latest.min(self.admitted.deadline);
        let wait = timeout_at(until, durable);
        let waited = self.guard.calls.cut.run_until_cancelled(wait).await;
        waited?.ok()?.ok()
    }

    /// A broken answer: what the client has of it is booked.
    async fn break_off(&mut self, outcome: Outcome, ending: Ending, error: CallError) {
        if matches!(
            error,
            CallError::SlowConsumer
                | CallError::Draining
                | CallError::Displaced
                | CallError::Deadline(_)
        ) {
            self.guard.outlet.cut(error);
            drop(self.guard.settle(outcome, ending));
            return;
        }
        // What the miner delivered before it broke reaches the client first.
        self.guard.outlet.finish(Err(error));
        if self.delivered_all().await {
            drop(self.guard.settle(outcome, ending));
        }
    }

    /// Waits until the client has taken everything; settles and says false when it does not.
    async fn delivered_all(&mut self) -> bool {
        let calls = Arc::clone(&self.guard.calls);
        let deadline = self.admitted.deadline;
        let (finish, error) = loop {
            let slow = self.guard.slow_at();
            tokio::select! {
                () = self.guard.outlet.emptied() => {
                    // Who left after the last piece has all of it.
                    if self.guard.outlet.is_empty() {
                        return true;
                    }
                    break (Finish::Attempt(Outcome::Cancelled), CallError::Draining);
                }
                () = calls.cut.cancelled() => break (Finish::Drained, CallError::Draining),
                () = tokio::time::sleep_until(slow.map_or(deadline, |slow| slow.min(deadline))) => {}
            }
            let now = Instant::now();
            if now >= deadline {
                let error = CallError::Deadline(Stage::Streaming);
                break (Finish::Attempt(Outcome::Cancelled), error);
            }
            if self.guard.slow_at().is_some_and(|slow| now >= slow) {
                break (Finish::SlowConsumer, CallError::SlowConsumer);
            }
        };
        self.guard.outlet.cut(error);
        drop(
            self.guard
                .settle(Outcome::Cancelled, Ending::broken(finish)),
        );
        false
    }
}
