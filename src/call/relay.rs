//! From a miner's stream to a client's outlet: counts, bounds, checks, and never waits for
//! the client, so that the miner is always drained.

use taugate_ledger::receipt::{Finish, Outcome};
use taugate_ledger::units::Units;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outlet::{Blocked, Event};
use super::payload::{code_points, is_empty, says_something, text_only, truncate};
use super::settle::{Ending, Guard};
use super::{CallError, Stage};
use crate::digest::{ChoiceDigests, whole};
use crate::failpoint;
use crate::miner_client::{MinerEvent, MinerFault, MinerStream};
use crate::proto::v1;

/// How the answer of one miner is relayed.
#[derive(Debug)]
pub(super) struct Relay {
    stream: MinerStream,
    digests: ChoiceDigests,
    choices: u32,
    /// Code points handed to the outlet.
    passed: u64,
    /// Bytes handed to the outlet.
    bytes: usize,
    /// Whether anything that was handed over says something.
    said: bool,
    /// The most units of the answer, prompt included.
    units_max: Units,
    deadline: Instant,
    begun: Instant,
    /// When the last whole unit came.
    unit_at: Instant,
    cut: CancellationToken,
}

/// A relay's end.
#[derive(Debug)]
pub(super) enum RelayEnd {
    /// Whole, as the miner says and its digest proves.
    Whole(v1::MinerCompleted),
    /// Whole up to a bound of ours; the miner was cut.
    Length,
    /// Not whole.
    Broken(Outcome, Ending, CallError),
    /// The client left.
    Gone,
}

#[expect(
    clippy::large_enum_variant,
    reason = "lives for one step, never stored"
)]
enum Step {
    Event(Result<MinerEvent, MinerFault>),
    Gone,
    Displaced,
    Cut,
    Tick,
}

/// What bounds a relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) choices: u32,
    pub(super) units_max: Units,
    pub(super) deadline: Instant,
}

// === impl Relay ===

impl Relay {
    pub(super) fn new(stream: MinerStream, bounds: Bounds, cut: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            stream,
            digests: ChoiceDigests::new(bounds.choices),
            choices: bounds.choices,
            passed: 0,
            bytes: 0,
            said: false,
            units_max: bounds.units_max,
            deadline: bounds.deadline,
            begun: now,
            unit_at: now,
            cut,
        }
    }

    /// Relays until the answer ends, one way or another.
    pub(super) async fn run(mut self, guard: &mut Guard, first: v1::Delta) -> RelayEnd {
        if let Err(end) = self.pass(guard, first).await {
            return end;
        }
        loop {
            let step = self.step(guard).await;
            let passed = match step {
                Step::Event(Ok(MinerEvent::Delta(delta))) => self.pass(guard, delta).await,
                Step::Event(Ok(MinerEvent::Completed(completed))) => {
                    return self.check(guard, completed);
                }
                Step::Event(Err(fault)) => return broken(fault),
                Step::Gone => return RelayEnd::Gone,
                Step::Displaced => {
                    let ending = Ending::broken(Finish::Attempt(Outcome::Cancelled));
                    return RelayEnd::Broken(Outcome::Cancelled, ending, CallError::Displaced);
                }
                Step::Cut => {
                    let ending = Ending::broken(Finish::Drained);
                    return RelayEnd::Broken(Outcome::Cancelled, ending, CallError::Draining);
                }
                Step::Tick => self.look(guard),
            };
            if let Err(end) = passed {
                return end;
            }
        }
    }

    async fn step(&mut self, guard: &Guard) -> Step {
        let next = self.next_look(guard);
        tokio::select! {
            biased;
            () = guard.outlet.gone() => Step::Gone,
            () = self.cut.cancelled() => Step::Cut,
            () = guard.displaced() => Step::Displaced,
            event = self.stream.next() => Step::Event(event),
            () = tokio::time::sleep_until(next) => Step::Tick,
        }
    }

    /// When something may be late.
    fn next_look(&self, guard: &Guard) -> Instant {
        let limits = &guard.record.task.limits;
        let slow = guard.slow_at();
        let next = self
            .deadline
            .min(self.unit_at + limits.between_chunks)
            .min(guard.part_due());
        slow.map_or(next, |slow| next.min(slow))
    }

    /// Looks at what may be late.
    fn look(&self, guard: &mut Guard) -> Result<(), RelayEnd> {
        let now = Instant::now();
        if now >= self.deadline {
            let ending = Ending::broken(Finish::Attempt(Outcome::Cancelled));
            let error = CallError::Deadline(Stage::Streaming);
            return Err(RelayEnd::Broken(Outcome::Cancelled, ending, error));
        }
        if now >= self.unit_at + guard.record.task.limits.between_chunks {
            return Err(broken(MinerFault::Stalled));
        }
        if guard.slow_at().is_some_and(|slow| now >= slow) {
            let ending = Ending::broken(Finish::SlowConsumer);
            return Err(RelayEnd::Broken(
                Outcome::Cancelled,
                ending,
                CallError::SlowConsumer,
            ));
        }
        if now >= guard.part_due() {
            guard.book_part();
        }
        Ok(())
    }

    /// Hands a delta on, within what is held.
    async fn pass(&mut self, guard: &mut Guard, delta: v1::Delta) -> Result<(), RelayEnd> {
        let Some(mut delta) = text_only(delta, self.choices) else {
            return Err(broken(MinerFault::Protocol));
        };
        self.digests.add(&delta);
        // A miner that sends one delta after another leaves no pause to look in.
        if Instant::now() >= self.deadline || Instant::now() >= guard.part_due() {
            self.look(guard)?;
        }
        if is_empty(&delta) {
            return self.look(guard);
        }
        if self.outgrown(guard, &delta) {
            return Err(self.length());
        }
        let room = self.room(guard, code_points(&delta)).await;
        let short = room < code_points(&delta);
        if short {
            truncate(&mut delta, room);
        }
        self.hand_over(guard, delta)?;
        failpoint::hit("chunk");
        if short {
            Err(self.length())
        } else {
            self.pace(guard)
        }
    }

    /// A bound of ours is reached. An answer that has said nothing until then is empty, and
    /// that is a failure.
    fn length(&self) -> RelayEnd {
        if self.said {
            RelayEnd::Length
        } else {
            broken(MinerFault::Protocol)
        }
    }

    fn hand_over(&mut self, guard: &mut Guard, delta: v1::Delta) -> Result<(), RelayEnd> {
        self.said |= says_something(&delta);
        let units = self.passed.div_ceil(4);
        self.passed = self.passed.saturating_add(code_points(&delta));
        if self.passed.div_ceil(4) > units {
            self.unit_at = Instant::now();
        }
        self.bytes = self
            .bytes
            .saturating_add(prost::Message::encoded_len(&delta));
        guard.show(&delta);
        match guard.outlet.push(Event::Delta(delta), self.passed) {
            Ok(()) => Ok(()),
            Err(Blocked::Gone) => Err(RelayEnd::Gone),
            Err(Blocked::Full) => {
                let ending = Ending::broken(Finish::SlowConsumer);
                Err(RelayEnd::Broken(
                    Outcome::Cancelled,
                    ending,
                    CallError::SlowConsumer,
                ))
            }
        }
    }

    /// Code points of the next `wanted` that what is held allows; grows it where needed.
    async fn room(&self, guard: &mut Guard, wanted: u64) -> u64 {
        let prompt = guard.record.prompt_units;
        let after = self.passed.saturating_add(wanted);
        let needed = prompt
            .saturating_add(Units::new(after.div_ceil(4)))
            .min(self.units_max);
        let mut reserved = guard.held().map_or(Units::ZERO, |held| held.reserved());
        if let Some(lacking) = needed
            .checked_sub(reserved)
            .filter(|lacking| !lacking.is_zero())
        {
            let rest = self.units_max.saturating_sub(reserved);
            let growth = guard.settings.growth.min(rest);
            // A whole step ahead, so that not every delta grows; else exactly what is lacking.
            if !guard.grow(growth.max(lacking)).await && growth > lacking {
                guard.grow(lacking).await;
            }
            reserved = guard.held().map_or(Units::ZERO, |held| held.reserved());
        }
        let output = reserved.min(self.units_max).saturating_sub(prompt);
        output
            .saturating_mul(4)
            .get()
            .saturating_sub(self.passed)
            .min(wanted)
    }

    fn outgrown(&self, guard: &Guard, delta: &v1::Delta) -> bool {
        let bytes = self
            .bytes
            .saturating_add(prost::Message::encoded_len(delta));
        bytes > guard.record.task.limits.answer_bytes_max
    }

    /// A drip that never quite stops is a stall too.
    fn pace(&self, guard: &Guard) -> Result<(), RelayEnd> {
        let limits = &guard.record.task.limits;
        let units = u32::try_from(self.passed / 4).unwrap_or(u32::MAX);
        let allowed = limits
            .slowest_unit
            .saturating_mul(units)
            .saturating_add(limits.between_chunks);
        if self.begun.elapsed() > allowed {
            Err(broken(MinerFault::Stalled))
        } else {
            Ok(())
        }
    }

    /// Whether what came is what the miner says it sent, and is an answer at all: one that
    /// holds nothing but log probabilities, or calls of tools without names, is empty.
    fn check(self, guard: &mut Guard, completed: v1::MinerCompleted) -> RelayEnd {
        let every = (0..self.choices).all(|choice| {
            completed
                .choices
                .iter()
                .filter(|end| end.choice == choice)
                .count()
                == 1
        });
        let digests = self.digests.finish();
        let proven = digests == completed.digests;
        if self.said && every && proven && completed.choices.len() == self.choices as usize {
            guard.record.digest = whole(&digests);
            RelayEnd::Whole(completed)
        } else {
            broken(MinerFault::Protocol)
        }
    }
}

/// A miner that let the client down in mid-answer.
fn broken(fault: MinerFault) -> RelayEnd {
    let outcome = fault.outcome();
    let error = match fault {
        MinerFault::Stalled => CallError::MinerStalled,
        MinerFault::Protocol => CallError::MinerProtocol,
        MinerFault::Lost | MinerFault::Busy | MinerFault::Closed | MinerFault::Refused => {
            CallError::MinerLost
        }
    };
    RelayEnd::Broken(outcome, Ending::broken(Finish::Attempt(outcome)), error)
}
