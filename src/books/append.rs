//! The task that hands receipts to the engine, and tells who waits for them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use taugate_ledger::engine::{AppendAsk, AppendError};
use tokio_util::sync::CancellationToken;

use super::Books;
use crate::failpoint;

impl Books {
    /// Hands receipts over until `stop`, then once more until none is left or the engine is
    /// away. Run it once, on a runtime of its own: an append must never be cancelled.
    pub async fn run_append(&self, stop: CancellationToken) {
        let mut pause = self.settings.retry_min;
        loop {
            while let Some(ask) = self.journal.next_append(self.settings.append_max) {
                if self.append(ask).await {
                    pause = self.settings.retry_min;
                } else if self.broken.is_cancelled() || stop.is_cancelled() {
                    return;
                } else {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(self.settings.retry_max);
                }
            }
            tokio::select! {
                () = stop.cancelled() => {
                    if self.journal.pending() == 0 { return; }
                }
                () = self.booked.notified() => {}
            }
        }
    }

    /// Waits until every receipt is durable; false when `limit` passed before.
    pub async fn settle(&self, limit: Duration) -> bool {
        let all = async {
            loop {
                // Listened to before the look, so that no answer is missed in between.
                let recorded = self.recorded.notified();
                if self.journal.pending() == 0 {
                    return;
                }
                recorded.await;
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }

    async fn append(&self, ask: AppendAsk) -> bool {
        let period = ask.period;
        failpoint::hit("append");
        self.appends.fetch_add(1, Ordering::Relaxed);
        match self.engine.append(ask).await {
            Ok(reply) => {
                self.reachable.store(true, Ordering::Relaxed);
                let recorded = match self.journal.acked(period, reply.next_offset) {
                    Ok(recorded) => recorded,
                    Err(error) => {
                        tracing::error!(%error, "the books are broken");
                        self.broken.cancel();
                        return false;
                    }
                };
                for (waiter, recorded) in recorded {
                    // A call that stopped waiting has said `recorded = false`.
                    drop(waiter.send(recorded));
                }
                self.recorded.notify_waiters();
                true
            }
            Err(AppendError::Unavailable) => {
                if self.reachable.swap(false, Ordering::Relaxed) {
                    tracing::warn!(
                        pending = self.journal.pending(),
                        "the engine is away; receipts wait"
                    );
                }
                false
            }
            Err(error) => {
                tracing::error!(%error, "the books are broken");
                self.broken.cancel();
                false
            }
        }
    }
}
