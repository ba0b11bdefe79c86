//! Tells the store now and then that this incarnation lives, and looks what those that do
//! not left in doubt.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::period::Period;
use taugate_ledger::units::Units;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::store::StoreFault;
use crate::store::sqlite::SqliteStore;
use crate::telemetry::Instruments;

const EVERY: Duration = Duration::from_secs(5);

/// Beats until `stop`.
pub(super) async fn run(
    store: Arc<SqliteStore>,
    books: Arc<Books>,
    instruments: Arc<Instruments>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Err(error) = store.heartbeat(books.incarnation()).await {
            tracing::warn!(%error, "the store did not take the heartbeat");
        }
        match in_doubt(&store, &books).await {
            Ok(units) => instruments.in_doubt(units),
            Err(error) => tracing::warn!(%error, "what is in doubt cannot be read"),
        }
    }
}

/// Of the running period and the one before, whose late receipts may still come.
async fn in_doubt(store: &SqliteStore, books: &Books) -> Result<Units, StoreFault> {
    let running = books.table().period();
    let length = u64::from(books.length().secs());
    let last = Period::starting_at(running.start_s().saturating_sub(length));
    let (running, last) = (store.in_doubt(running).await?, store.in_doubt(last).await?);
    Ok(running.saturating_add(last))
}
