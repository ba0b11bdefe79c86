//! The task that asks the engine for rights to spend, and gives back what is not needed.

use std::sync::atomic::Ordering;

use taugate_ledger::engine::{ExchangeAsk, ExchangeError};
use taugate_ledger::period::Period;
use tokio_util::sync::CancellationToken;

use super::Books;
use crate::failpoint;

/// How often a clean stop tries to give everything back.
const GIVE_BACK_ROUNDS: usize = 8;

impl Books {
    /// Keeps cells supplied until `stop`. Run it once, on a runtime of its own.
    pub async fn run_exchange(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            for ask in self.lender.asks(self.clock.unix_ms()) {
                self.exchange(ask).await;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.lacking.notified() => {}
                () = tokio::time::sleep(self.settings.exchange_every) => {}
            }
        }
    }

    /// Fetches the first slices of the next period, for cells with demand.
    pub async fn fetch_ahead(&self, next: Period) {
        self.tables.open(next);
        for ask in self.lender.open_ahead(self.clock.unix_ms()) {
            self.exchange(ask).await;
        }
    }

    /// Publishes a period's table; from now on calls are charged to it. Never steps back.
    pub fn turn(&self, to: Period) {
        self.tables.turn(to);
    }

    /// Closes past periods of which nothing is open: gives back what is left of them.
    pub async fn close_past(&self) {
        let current = self.tables.current().period();
        for period in self.tables.periods() {
            // A call that holds a slot may draw again: its period is left alone.
            let receipts = self.journal.open(period) > 0 || self.journal.unacked(period) > 0;
            if period >= current || receipts {
                continue;
            }
            let Some(asks) = self.lender.retire(period) else {
                continue;
            };
            if !asks.is_empty() {
                // Whether they arrived is seen the next time: then nothing is owed.
                for ask in asks {
                    self.exchange(ask).await;
                }
                continue;
            }
            if !self.journal.seal(period) {
                continue;
            }
            let closed = self.engine.close_period(self.incarnation, period).await;
            if closed.is_ok() {
                self.lender.forget(period);
                self.tables.forget(period);
            }
        }
    }

    /// Gives back all that is free and ends the incarnation. Call it when no call is left and
    /// every receipt is durable; otherwise what is left stays charged to its period.
    ///
    /// # Errors
    /// When the engine is away, or receipts are not durable; nothing is lost then but what
    /// was free.
    pub async fn close(&self) -> Result<(), ExchangeError> {
        failpoint::hit("return");
        // An ask that was on its way brings units after the first round.
        for _ in 0..GIVE_BACK_ROUNDS {
            let answered = self.answered.notified();
            let asks = self.lender.give_back_all();
            if asks.is_empty() && !self.lender.owes() {
                break;
            }
            if asks.is_empty() {
                // Another task waits for the answer; or none comes.
                tokio::time::timeout(self.settings.draw_wait, answered)
                    .await
                    .ok();
            }
            for ask in asks {
                self.exchange(ask).await;
            }
        }
        for period in self.tables.periods() {
            if !self.journal.seal(period) {
                tracing::error!(period = period.start_s(), "closed with receipts to come");
                return Err(ExchangeError::Unavailable);
            }
            self.engine.close_period(self.incarnation, period).await?;
        }
        failpoint::hit("close");
        self.engine.close(self.incarnation).await
    }

    pub(super) async fn exchange(&self, mut ask: ExchangeAsk) {
        let answer = loop {
            self.lender.refresh(&mut ask);
            failpoint::hit("exchange");
            self.exchanges.fetch_add(1, Ordering::Relaxed);
            match self.engine.exchange(ask.clone()).await {
                // The other task's receipts were faster; only a posting more leads here again.
                Err(ExchangeError::PostedBehind(cell)) if self.lender.overtaken(&ask, cell) => {}
                answer => break answer,
            }
        };
        failpoint::hit("exchanged");
        match &answer {
            Ok(_) => self.reachable.store(true, Ordering::Relaxed),
            Err(ExchangeError::Unavailable) => self.reachable.store(false, Ordering::Relaxed),
            Err(ExchangeError::Fenced | ExchangeError::PostedBehind(_)) => {
                tracing::error!(error = ?answer, "the books are broken");
                self.broken.cancel();
            }
            Err(
                ExchangeError::PeriodNotOpen(_)
                | ExchangeError::UnknownCell(_)
                | ExchangeError::LostCommits,
            ) => tracing::warn!(error = ?answer, "an exchange was refused"),
        }
        if self.lender.answered(&ask, answer) {
            let period = ask.period.start_s();
            tracing::error!(period, "the engine lost commits; the period is frozen");
        }
        self.answered.notify_waiters();
    }
}
