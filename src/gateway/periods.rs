//! The turn of the period: the next one is opened ahead, so that there is no empty moment.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::period::Period;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::registry::Registry;

/// How long ahead the next period is opened; less where periods are short.
const AHEAD_MAX: Duration = Duration::from_secs(10);

/// How often the clock is looked at away from a turn.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Opens, turns and closes periods until `stop`.
pub(super) async fn run(books: Arc<Books>, registry: Arc<Registry>, stop: CancellationToken) {
    let length = books.length();
    let ahead = AHEAD_MAX.min(Duration::from_secs(u64::from(length.secs())) / 4);
    let mut opened: Option<Period> = None;
    while !stop.is_cancelled() {
        let current = books.table().period();
        let by_clock = length.period_at(books.unix_ms());
        if by_clock > current {
            // A clock that jumped past the period that was opened ahead.
            if opened != Some(by_clock) {
                open(&books, &registry, by_clock).await;
            }
            books.turn(by_clock);
            tracing::info!(period = by_clock.start_s(), "period turned");
            continue;
        }
        let rest = books.period_rest();
        let next = length.next(current);
        if rest <= ahead && opened != Some(next) && open(&books, &registry, next).await {
            opened = Some(next);
        }
        books.close_past().await;
        let pause = books
            .period_rest()
            .min(LOOK_EVERY)
            .max(Duration::from_millis(1));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Opens a period in the store and fetches first slices of it.
async fn open(books: &Books, registry: &Registry, period: Period) -> bool {
    if let Err(error) = registry.open_period(period).await {
        tracing::warn!(%error, period = period.start_s(), "the next period is not open yet");
        return false;
    }
    books.fetch_ahead(period).await;
    books.expect(period, &registry.wanted());
    true
}
