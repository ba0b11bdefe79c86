//! The loop that sends checks: it holds the term, draws what has to be drawn, and lets leave
//! what is due.
//!
//! ```text
//! term ──▶ draws, once a cell and period ──▶ what is due now ──▶ checks, each asked once more
//! ```
//!
//! It may end at any moment. What it needs stands in the store, and what is due in the books.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::ids::Incarnation;
use taugate_ledger::period::{Period, PeriodLength};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Checks;
use super::bursts::Bursts;
use super::desk::{Desk, Leaving};
use super::plan::{PlanStore, Term};
use super::settings::Mode;
use crate::identity::StoreAway;

/// How often it is looked at what is due; a hundredth of a short period.
const TICK_MAX: Duration = Duration::from_millis(100);

/// How often the store is asked what others booked, and told that the planner lives; a
/// twentieth of a short period.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Looks that a planner may miss before another one takes over.
const LOOKS_MISSED: u32 = 10;

/// Periods before the running one that forecasts learn from.
const PERIODS_BEFORE: usize = 3;

/// Checks that run at once over all cells; those beyond wait for the next tick.
const CHECKS_MAX: usize = 4096;

/// Plans checks and sends them.
#[derive(Debug)]
pub struct Planner<C> {
    /// What is due.
    pub desk: Arc<Desk>,
    /// Who plans, and what was drawn.
    pub store: Arc<dyn PlanStore>,
    /// Sends them.
    pub checks: Arc<C>,
    /// Windows in which all are asked at once; `None`: none are planned.
    pub bursts: Option<Arc<Bursts>>,
    /// Who sends them: others than this gateway need to know only what is due.
    pub mode: Mode,
    /// This start of this gateway.
    pub incarnation: Incarnation,
    /// The length of periods.
    pub length: PeriodLength,
}

/// Why a planner stopped to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Stopped {
    /// There is a newer term.
    #[error("another planner leads")]
    Fenced,
    /// Nothing is known of the term.
    #[error(transparent)]
    Away(#[from] StoreAway),
}

// === impl Planner ===

impl<C: Checks + 'static> Planner<C> {
    /// Plans until `stop`; then checks that run are cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let (every, mut away) = (self.look_every(), false);
        let mut looks = ticks(every);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let silent = every.saturating_mul(LOOKS_MISSED);
            let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
            let taken = self.store.take_term(self.incarnation, silent_ms).await;
            let stopped = match taken {
                Ok(Some(term)) => {
                    tracing::info!(term = term.0, "this gateway plans checks");
                    let leading = self.lead(term, &mut running);
                    match stop.run_until_cancelled(leading).await {
                        Some(stopped) => stopped,
                        None => return,
                    }
                }
                Ok(None) => continue,
                Err(error) => error.into(),
            };
            if stopped == Stopped::Fenced || !away {
                tracing::warn!(reason = %stopped, "no checks are planned here for now");
            }
            away = stopped != Stopped::Fenced;
        }
    }

    /// Leads as long as the term stands. While the store is away nothing is sent, since nobody
    /// knows whether it does.
    async fn lead(&self, term: Term, running: &mut JoinSet<()>) -> Stopped {
        let mut tick = ticks(self.tick_every());
        let (mut looked, mut away) = (None, false);
        loop {
            tick.tick().await;
            while running.try_join_next().is_some() {}
            let went_on = self.step(term, &mut looked, running).await;
            match went_on {
                Err(Stopped::Fenced) => return Stopped::Fenced,
                Err(Stopped::Away(_)) if !away => {
                    tracing::warn!("no checks are sent while the engine is away");
                }
                Ok(()) | Err(Stopped::Away(_)) => {}
            }
            away = went_on.is_err();
        }
    }

    async fn step(
        &self,
        term: Term,
        looked: &mut Option<Instant>,
        running: &mut JoinSet<()>,
    ) -> Result<(), Stopped> {
        let (period, fresh) = self.desk.turn();
        let undrawn = self.desk.undrawn();
        if !undrawn.is_empty() {
            let drawn = self.store.draw(term, period, undrawn).await?;
            self.desk.drawn(period, drawn.ok_or(Stopped::Fenced)?);
        }
        if fresh || looked.is_none_or(|at| at.elapsed() >= self.look_every()) {
            self.look(term, period, fresh).await?;
            *looked = Some(Instant::now());
        }
        if self.mode != Mode::BuiltIn {
            return Ok(());
        }
        if let Some(bursts) = &self.bursts {
            bursts.plan(term, period).await?;
        }
        let leaving = self.desk.leaving();
        if leaving.is_empty() {
            return Ok(());
        }
        if !self.store.term_stands(term).await? {
            return Err(Stopped::Fenced);
        }
        let free = CHECKS_MAX.saturating_sub(running.len());
        for leaving in leaving.into_iter().take(free) {
            running.spawn(send(Arc::clone(&self.checks), leaving));
        }
        Ok(())
    }

    /// Says that it lives, and reads what others booked.
    async fn look(&self, term: Term, period: Period, fresh: bool) -> Result<(), Stopped> {
        if !self.store.keep_term(term).await? {
            return Err(Stopped::Fenced);
        }
        if fresh {
            let before = self.store.organic_before(period, PERIODS_BEFORE).await?;
            self.desk.remember(period, before);
        }
        let books = self.store.cell_books(period, self.incarnation).await?;
        self.desk.read(period, books);
        Ok(())
    }

    fn tick_every(&self) -> Duration {
        let bursts = self.bursts.as_ref();
        // In a window places are filled as they become free.
        let most = bursts.map_or(TICK_MAX, |bursts| bursts.look_every());
        part_of(self.length, 100).min(most)
    }

    fn look_every(&self) -> Duration {
        part_of(self.length, 20).min(LOOK_MAX)
    }
}

async fn send<C: Checks>(checks: Arc<C>, leaving: Leaving) {
    let end = checks.check(leaving.check.clone()).await;
    leaving.ended(end);
}

fn part_of(length: PeriodLength, parts: u32) -> Duration {
    Duration::from_secs(u64::from(length.secs())) / parts
}

fn ticks(every: Duration) -> Interval {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests;
