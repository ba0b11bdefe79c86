//! Follows the store's keys, which other processes write too: a key that is made or revoked
//! counts within a second. Streams that run go on: a key is asked for when a call begins.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::identity::StoreAway;
use crate::identity::api_key::KeyStore;
use crate::identity::key_ring::KeyRing;

/// An operator who revoked a key looks at once whether it is refused.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The uses of keys are written with every so many looks: they are for people.
const NOTE_EVERY: u32 = 10;

/// Follows until `stop`.
pub(super) async fn run(store: Arc<dyn KeyStore>, keys: Arc<KeyRing>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut seen, mut looks, mut away) = (None, 0_u32, false);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        looks = looks.wrapping_add(1);
        let looked = match look(&*store, &keys, &mut seen).await {
            Ok(()) if looks.is_multiple_of(NOTE_EVERY) => note(&*store, &keys).await,
            looked => looked,
        };
        if looked.is_err() && !away {
            tracing::warn!("keys cannot be read or noted; those that were read last count");
        }
        away = looked.is_err();
    }
    if note(&*store, &keys).await.is_err() {
        tracing::warn!("the last uses of keys were not noted");
    }
}

/// Takes the keys over when one was put or revoked since.
async fn look(
    store: &dyn KeyStore,
    keys: &KeyRing,
    seen: &mut Option<u64>,
) -> Result<(), StoreAway> {
    // Before the keys: a change in between is found again by the next look.
    let version = store.key_version().await?;
    if *seen != Some(version) {
        keys.replace(store.keys().await?);
        if seen.is_some() {
            tracing::info!(keys = keys.len(), "changed keys count now");
        }
        *seen = Some(version);
    }
    Ok(())
}

async fn note(store: &dyn KeyStore, keys: &KeyRing) -> Result<(), StoreAway> {
    let uses = keys.uses();
    if uses.is_empty() {
        return Ok(());
    }
    store.note_key_uses(uses.clone()).await?;
    keys.noted(&uses);
    Ok(())
}
