//! Scores every now and then, so that whoever only looks sees no old ones.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::scoring::scorer::Scorer;

/// The longest between two; a twentieth of a period where these are short.
const EVERY_MAX: Duration = Duration::from_secs(30);

/// The shortest.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// Scores until `stop`.
pub(super) async fn run(scorer: Arc<Scorer>, period: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval((period / 20).clamp(EVERY_MIN, EVERY_MAX));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut away = false;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let scored = scorer.standing(None).await;
        if let Err(error) = &scored
            && !away
        {
            tracing::warn!(%error, "miners are not scored");
        }
        away = scored.is_err();
    }
}
