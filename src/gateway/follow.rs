//! What of a changed configuration counts without a restart.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::build::{call_settings, door_settings, grace, retries};
use super::enrolment::{EnrolError, Enrolment};
use crate::call::Calls;
use crate::config::Config;
use crate::front_door::listener::Shards;
use crate::identity::StoreAway;
use crate::identity::key_ring::KeyRing;
use crate::registry::Registry;
use crate::store::sqlite::SqliteStore;

/// Everything that a change reaches.
pub(super) struct Follower {
    pub(super) registry: Arc<Registry>,
    pub(super) enrolment: Arc<Enrolment>,
    pub(super) calls: Arc<Calls>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) store: Arc<SqliteStore>,
    pub(super) doors: Vec<Arc<Shards>>,
}

/// A change was not taken, or not by all.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    /// What it says of miners.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The engine did not answer; the registry tells it later what it lacks.
    #[error(transparent)]
    Away(#[from] StoreAway),
}

// === impl Follower ===

impl Follower {
    /// Takes over what is published, until `stop` or until nothing more comes.
    pub(super) async fn run(
        self,
        mut changes: watch::Receiver<Arc<Config>>,
        stop: CancellationToken,
    ) {
        while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
            let newer = Arc::clone(&changes.borrow_and_update());
            match self.take(&newer).await {
                Ok(()) => tracing::info!("the changed configuration counts now"),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        "the changed configuration does not count in full yet"
                    );
                }
            }
        }
    }

    async fn take(&self, newer: &Arc<Config>) -> Result<(), FollowError> {
        // Before a call is admitted that takes longer than any before.
        self.store.wait_at_least(grace(newer));
        self.keys.require(newer.keys.required);
        self.calls.settings.store(Arc::new(call_settings(newer)));
        self.calls.retries.store(Arc::new(retries(&newer.limits)));
        self.calls.waiting.limit(newer.limits.waiting_per_task_max);
        for door in &self.doors {
            door.change(door_settings(newer, door.name()));
        }
        // Both are tried, whatever becomes of the first.
        let enrolled = self.enrolment.take(Arc::clone(newer)).await;
        self.registry.set_tasks(Arc::clone(&newer.tasks)).await?;
        Ok(enrolled?)
    }
}
