//! A call's way to a miner: choose, hold, dispatch; again with another miner while nothing
//! was delivered; then relay, settle, and the final message.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::receipt::{Finish, Outcome};
use taugate_ledger::reservation::{Cause, Reservation};
use taugate_ledger::units::Units;
use tokio::time::{Instant, Interval, timeout, timeout_at};
use tower::retry::budget::Budget as _;

use super::displaced::Taken;
use super::outlet::{Event, Outlet};
use super::payload::{says_nothing_yet, text_only};
use super::record::Attempt;
use super::settle::{Ending, Guard};
use super::waiting::Place;
use super::{Admitted, CallError, Calls, Stage};
use crate::books::HoldError;
use crate::failpoint;
use crate::miner_client::{DispatchError, MinerEvent, MinerFault, MinerStream, Pool};
use crate::proto::v1;
use crate::registry::snapshot::Offer;
use crate::routing::{NoChoice, Wish};

/// Who holds what the call needs.
struct Chosen {
    offer: Offer,
    held: Reservation,
    explanation: Option<crate::routing::Explanation>,
}

/// One call, while it runs.
pub(super) struct Run {
    pool: Arc<Pool>,
    pub(super) admitted: Admitted,
    pub(super) guard: Guard,
    /// Miners that were tried.
    excluded: Vec<CellId>,
    /// How long it may still wait in line, over all its attempts.
    wait_left: Duration,
    /// Places of checks that it took.
    taken: Taken,
}

/// How an attempt that brought nothing ended.
enum Missed {
    /// Another miner may do better.
    Again(Outcome),
    /// The call is over.
    Over(Outcome, Finish, CallError),
}

/// Runs a call to its end. Never fails: whatever happens ends in the guard.
pub(super) async fn run(
    calls: Arc<Calls>,
    pool: Arc<Pool>,
    mut admitted: Admitted,
    outlet: Outlet,
) {
    let guard = Guard::new(calls, &mut admitted, outlet);
    let wait_left = guard.settings.wait;
    let mut run = Run {
        pool,
        admitted,
        guard,
        excluded: Vec::new(),
        wait_left,
        taken: Taken::default(),
    };
    run.work().await;
}

// === impl Run ===

impl Run {
    async fn work(&mut self) {
        loop {
            let chosen = match self.choose().await {
                Ok(chosen) => chosen,
                Err(Missed::Over(outcome, finish, error)) => {
                    return self.fail(outcome, finish, error);
                }
                Err(Missed::Again(_)) => {
                    return self.fail(Outcome::Cancelled, Finish::Internal, CallError::Internal);
                }
            };
            failpoint::hit("reserve");
            if let Err(error) = self.may_go(&chosen) {
                let finish = Finish::Attempt(Outcome::Cancelled);
                return self.fail(Outcome::Cancelled, finish, error);
            }
            let offer = chosen.offer.clone();
            self.begin(chosen);
            failpoint::hit("dispatch");
            match self.first(&offer).await {
                Ok((stream, first)) => return self.relay(stream, first).await,
                Err(Missed::Again(outcome)) => {
                    self.guard.abandon(outcome, Cause::Failover);
                    if outcome != Outcome::Busy || !self.has_displaced(offer.cell) {
                        self.excluded.push(offer.cell);
                    }
                    if !self.may_retry() {
                        let finish = Finish::Attempt(outcome);
                        return self.fail(outcome, finish, self.exhausted());
                    }
                }
                Err(Missed::Over(outcome, finish, error)) => {
                    self.guard.abandon(outcome, Cause::Cancelled);
                    return self.fail(outcome, finish, error);
                }
            }
        }
    }

    fn fail(&mut self, outcome: Outcome, finish: Finish, error: CallError) {
        if self.admitted.due.is_some() && self.guard.record.attempts.is_empty() {
            // A check of our own that was not sent is no call: nobody asked for it.
            self.guard.forget();
        }
        drop(self.guard.settle(outcome, Ending::broken(finish)));
        self.guard.outlet.finish(Err(error));
    }

    /// Another attempt is one too many when its number, or the budget that all calls share,
    /// is used up.
    fn may_retry(&self) -> bool {
        let attempts = self.guard.record.attempts.len();
        attempts < self.guard.settings.attempts_max && self.guard.calls.retries.load().withdraw()
    }

    /// What a call says whose attempts are used up. Miners that only had too much to do did
    /// not fail: another try helps.
    fn exhausted(&self) -> CallError {
        let mut attempts = self.guard.record.attempts.iter();
        if attempts.all(|attempt| attempt.outcome == Outcome::Busy) {
            CallError::AllBusy
        } else {
            CallError::AttemptsExhausted
        }
    }

    // --- choosing ---

    /// A miner with what the call needs held; waits in line for one that is busy.
    async fn choose(&mut self) -> Result<Chosen, Missed> {
        let calls = Arc::clone(&self.guard.calls);
        let begun = Instant::now();
        let until = begun + self.wait_left.min(self.rest());
        let task = Arc::clone(&self.admitted.task.id);
        // A call for one miner neither stands behind the others nor holds them up.
        let pinned = self.admitted.pinned.is_some();
        if pinned || !calls.waiting.is_queued(&task) {
            match self.try_choose().await {
                Ok(chosen) => return Ok(chosen),
                Err(CallError::AllBusy) if !pinned => {}
                Err(error) => return Err(self.unchosen(error)),
            }
        }
        let Some(place) = calls.waiting.join(&task) else {
            return Err(self.unchosen(CallError::AllBusy));
        };
        let ended = self.queue(place, until).await;
        self.wait_left = self.wait_left.saturating_sub(begun.elapsed());
        ended.map_err(|error| self.unchosen(error))
    }

    /// Stands in line until a miner is free. Meanwhile the client hears that its call lives;
    /// one that left gives its place back at once.
    async fn queue(&self, place: Place, until: Instant) -> Result<Chosen, CallError> {
        let queued = async {
            let _head = place.head().await;
            loop {
                match self.try_choose().await {
                    Err(CallError::AllBusy) => self.displace(),
                    ended => return ended,
                }
                // A miner that says it is free says so to the registry only: look now and then.
                drop(timeout(Duration::from_millis(50), place.freed()).await);
            }
        };
        let queued = timeout_at(until, queued);
        tokio::pin!(queued);
        let mut progress = self.progress();
        loop {
            tokio::select! {
                ended = &mut queued => return ended.unwrap_or(Err(CallError::AllBusy)),
                () = self.guard.outlet.gone() => return Err(CallError::Draining),
                () = self.guard.calls.cut.cancelled() => return Err(CallError::Draining),
                _ = progress.tick() => self.say_progress(v1::Phase::Waiting),
            }
        }
    }

    /// Lets a check give way, whose miner this call could have.
    fn displace(&self) {
        let (checks, task) = (&self.guard.calls.checks, &self.admitted.task.id);
        let left = |cell| self.admitted.table.left(cell);
        let would_do = |cell| !self.excluded.contains(&cell) && left(cell) >= self.units();
        if self.admitted.origin == Origin::Organic {
            self.taken.take(checks, task, would_do);
        }
    }

    /// Whether a miner's "too many" comes of a check.
    fn has_displaced(&self, cell: CellId) -> bool {
        let (checks, task) = (&self.guard.calls.checks, &self.admitted.task.id);
        self.admitted.origin == Origin::Organic && self.taken.take_at(checks, task, cell)
    }

    fn unchosen(&self, error: CallError) -> Missed {
        if self.guard.outlet.is_gone() {
            return Missed::Over(
                Outcome::Cancelled,
                Finish::Attempt(Outcome::Cancelled),
                error,
            );
        }
        if Instant::now() >= self.admitted.deadline {
            let finish = Finish::Attempt(Outcome::Cancelled);
            return Missed::Over(
                Outcome::Cancelled,
                finish,
                CallError::Deadline(Stage::Waiting),
            );
        }
        // A call that was tried and then finds nobody else has used up its attempts.
        match self.guard.record.attempts.last() {
            Some(last) => {
                let finish = Finish::Attempt(last.outcome);
                Missed::Over(last.outcome, finish, self.exhausted())
            }
            None => Missed::Over(Outcome::Cancelled, Finish::NoCapacity, error),
        }
    }

    /// One look over the miners, without waiting.
    async fn try_choose(&self) -> Result<Chosen, CallError> {
        let calls = &self.guard.calls;
        if self.guard.outlet.is_gone() {
            return Err(CallError::Draining);
        }
        let snapshot = calls.registry.snapshot();
        let market = snapshot
            .markets
            .get(&self.admitted.task.id)
            .ok_or(CallError::NoMiner)?;
        let table = &self.admitted.table;
        let units = self.units();
        let wish = self.wish(&self.excluded, self.admitted.explain);
        let mut choices =
            calls
                .router
                .choices(&self.admitted.task.id, table.as_ref(), wish, calls.now_ms());
        let mut late = false;
        while let Some(cell) = choices.next_best() {
            let ceiling = market
                .ceiling
                .filter(|_| self.admitted.origin == Origin::Organic);
            let cells = [Some(cell), ceiling];
            let cells: SmallVec<[CellId; 3]> = cells.into_iter().flatten().collect();
            match calls
                .books
                .hold(table, &cells, units, self.admitted.origin)
                .await
            {
                Ok(held) => {
                    let (offer, explanation) = choices.chosen().ok_or(CallError::Internal)?;
                    return Ok(Chosen {
                        offer,
                        held,
                        explanation,
                    });
                }
                Err(HoldError::Spent(cell)) if Some(cell) == ceiling => {
                    return Err(CallError::Ceiling);
                }
                Err(HoldError::Late(cell)) if Some(cell) == ceiling => {
                    return Err(CallError::AllBusy);
                }
                Err(HoldError::Spent(_)) => choices.spent(),
                Err(HoldError::Late(_)) => {
                    late = true;
                    choices.spent();
                }
                Err(HoldError::EngineAway) => return Err(CallError::EngineAway),
                Err(HoldError::Crowded) => return Err(CallError::Crowded),
            }
        }
        Err(match choices.none() {
            // What the engine has not granted yet may come while the call waits in line.
            NoChoice::AllSpent if late => CallError::AllBusy,
            NoChoice::NoMiner => CallError::NoMiner,
            NoChoice::AllBusy => CallError::AllBusy,
            NoChoice::AllSpent => CallError::AllSpent,
            NoChoice::AllExcluded => CallError::AttemptsExhausted,
            NoChoice::AllUnproven => CallError::AllUnproven,
        })
    }

    /// A check looks once more before it is sent: whether it is still due, and whether clients'
    /// calls wait. One that does not go leaves nothing: what it holds goes back with `chosen`.
    fn may_go(&mut self, chosen: &Chosen) -> Result<(), CallError> {
        if self.admitted.origin == Origin::Organic {
            return Ok(());
        }
        let due = self.admitted.due.as_ref();
        if due.is_some_and(|due| !due.is_due(chosen.held.reserved())) {
            return Err(CallError::NotDue);
        }
        let (calls, task) = (Arc::clone(&self.guard.calls), &self.admitted.task.id);
        let place = calls.checks.enter(task, chosen.offer.cell);
        self.guard.enter(place.ok_or(CallError::Crowded)?);
        // Looked at once it can give way: a call that waits from now on sees this check.
        if calls.waiting.is_queued(task) {
            return Err(CallError::AllBusy);
        }
        Ok(())
    }

    fn wish<'a>(&'a self, exclude: &'a [CellId], explain: bool) -> Wish<'a> {
        Wish {
            units: self.units(),
            exclude,
            pinned: self.admitted.pinned.as_deref(),
            proven_only: self.admitted.proven_only,
            explain,
        }
    }

    /// What the call holds at its start.
    fn units(&self) -> Units {
        let output = self.admitted.output_units;
        self.admitted.prompt_units.saturating_add(output)
    }

    fn begin(&mut self, chosen: Chosen) {
        let Chosen {
            offer,
            held,
            explanation,
        } = chosen;
        let in_flight = self.guard.calls.vitals.begin(offer.cell, held.reserved());
        let attempt = Attempt {
            cell: offer.cell,
            hotkey: Arc::clone(&offer.miner.hotkey),
            number: offer.miner.number,
            explanation,
            sent: Instant::now(),
            first_chunk: None,
            ended: None,
            outcome: Outcome::Cancelled,
            units: Units::ZERO,
        };
        self.guard.begin(attempt, held, in_flight);
    }

    // --- dispatching ---

    fn rest(&self) -> Duration {
        self.admitted
            .deadline
            .saturating_duration_since(Instant::now())
    }

    /// The stream of the chosen miner and its first delta. Meanwhile the client hears that
    /// its call lives.
    async fn first(&mut self, offer: &Offer) -> Result<(MinerStream, v1::Delta), Missed> {
        let calls = Arc::clone(&self.guard.calls);
        let begun = Instant::now();
        let attempts = self.guard.record.attempts.len();
        let mut last = attempts >= self.guard.settings.attempts_max;
        let (mut until, mut blame) = self.first_until(begun, last);
        let choices = self.admitted.choices;
        let reaching = reach(&self.pool, offer, self.to_miner(), choices, self.rest());
        tokio::pin!(reaching);
        let mut progress = self.progress();
        loop {
            tokio::select! {
                biased;
                () = self.guard.outlet.gone() => {
                    let finish = Finish::Attempt(Outcome::Cancelled);
                    return Err(Missed::Over(Outcome::Cancelled, finish, CallError::Draining));
                }
                () = calls.cut.cancelled() => {
                    return Err(Missed::Over(Outcome::Cancelled, Finish::Drained, CallError::Draining));
                }
                () = self.guard.displaced() => {
                    let finish = Finish::Attempt(Outcome::Cancelled);
                    return Err(Missed::Over(Outcome::Cancelled, finish, CallError::Displaced));
                }
                reached = &mut reaching => {
                    return reached.map_err(|error| Missed::Again(error.outcome()));
                }
                () = tokio::time::sleep_until(until) => {
                    if last || blame == Outcome::Stalled || self.has_another(offer) {
                        return Err(self.late(blame));
                    }
                    // To give this one up would help nobody.
                    last = true;
                    (until, blame) = self.first_until(begun, last);
                }
                _ = progress.tick() => self.say_progress(v1::Phase::Prefill),
            }
        }
    }

    /// Until when the first delta has to come, and whose fault it is when it does not: a
    /// client with little time must not get miners ejected.
    fn first_until(&self, begun: Instant, last: bool) -> (Instant, Outcome) {
        let limits = &self.admitted.task.limits;
        let kib = u32::try_from(self.admitted.prompt_bytes / 1024).unwrap_or(u32::MAX);
        let limit = limits
            .first_chunk
            .saturating_add(limits.first_chunk_per_kib.saturating_mul(kib));
        let latest = begun + limit;
        let rest = self.admitted.deadline.saturating_duration_since(begun);
        // A quarter of the time, so that another miner can still make it.
        let share = begun + if last { rest } else { rest / 4 };
        if latest <= share {
            (latest, Outcome::Stalled)
        } else {
            (share, Outcome::Cancelled)
        }
    }

    /// Whether a miner is left that was not tried and could take the call now.
    fn has_another(&self, offer: &Offer) -> bool {
        let calls = &self.guard.calls;
        let tried = [self.excluded.as_slice(), &[offer.cell]].concat();
        let wish = self.wish(&tried, false);
        let (task, table) = (&self.admitted.task.id, self.admitted.table.as_ref());
        let mut choices = calls.router.choices(task, table, wish, calls.now_ms());
        choices.next_best().is_some()
    }

    fn late(&self, blame: Outcome) -> Missed {
        if self.rest().is_zero() {
            let finish = Finish::Attempt(Outcome::Cancelled);
            return Missed::Over(blame, finish, CallError::Deadline(Stage::Prefill));
        }
        Missed::Again(blame)
    }

    /// Ticks when a client has heard nothing for too long, from now on.
    fn progress(&self) -> Interval {
        let every = self.guard.settings.progress_every;
        tokio::time::interval_at(Instant::now() + every, every)
    }

    fn say_progress(&self, phase: v1::Phase) {
        let waited = self.guard.record.admitted_at.elapsed();
        let progress = v1::Progress {
            phase: phase.into(),
            waited: prost_types::Duration::try_from(waited).ok(),
        };
        // A client that left is noticed by the loop around this.
        self.guard.outlet.push(Event::Progress(progress), 0).ok();
    }

    fn to_miner(&self) -> v1::MinerGenerateRequest {
        let attempt = self.guard.record.attempts.len();
        v1::MinerGenerateRequest {
            attempt_id: format!("{}-{attempt}", self.admitted.id),
            task: self.admitted.task.id.to_string(),
            payload: Some(self.admitted.payload.clone()),
        }
    }
}

/// Dispatches and waits for the first delta that brings anything.
async fn reach(
    pool: &Pool,
    offer: &Offer,
    request: v1::MinerGenerateRequest,
    choices: u32,
    rest: Duration,
) -> Result<(MinerStream, v1::Delta), DispatchError> {
    const EMPTY_MAX: usize = 1024; // A miner that sends nothing is not waited for long.
    // The miner hears a deadline a little before ours, so that its word still arrives.
    let told = rest.saturating_sub((rest / 20).max(Duration::from_millis(20)));
    let mut stream = MinerStream::dispatch(pool, &offer.miner, request, told).await?;
    for _ in 0..EMPTY_MAX {
        match stream.next().await? {
            // Refused here, another miner can still answer.
            MinerEvent::Delta(delta) => match text_only(delta, choices) {
                Some(delta) if says_nothing_yet(&delta) => {}
                Some(delta) => return Ok((stream, delta)),
                None => break,
            },
            // An empty answer is a failure.
            MinerEvent::Completed(_) => break,
        }
    }
    Err(MinerFault::Protocol.into())
}
