//! Who may declare and what part of it is ours: what configuration and metagraph say together.
//! One place makes it of both, so that a change of either finds the other as it is now.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::config::Config;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::registry::metagraph::Metagraph;
use crate::registry::share::Share;
use crate::registry::{Registry, RegistrySettings};

/// How often it is looked whether the file changed; the chain has a block in twelve seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the registry in step with configuration and metagraph.
#[derive(Debug)]
pub(super) struct Enrolment {
    own: Hotkey,
    registry: Arc<Registry>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<Config>,
    /// The file as it was looked at last, good or bad, so that a bad one is told of once.
    seen: Stamp,
    /// Whether something of it does not count yet.
    owed: bool,
}

/// What changes when a file is written or put in place of another; nothing where none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stamp(Option<(SystemTime, u64, u64)>);

/// A change that does not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnrolError {
    /// What is said of miners does not hold: what was said before counts.
    #[error(transparent)]
    Settings(#[from] StartError),
    /// The engine did not answer; it is tried again.
    #[error(transparent)]
    Away(#[from] StoreAway),
}

/// What holds by a configuration and the metagraph that it names.
///
/// # Errors
/// When the metagraph cannot be read or lacks the validator.
pub(super) fn settings(config: &Config, own: Hotkey) -> Result<RegistrySettings, StartError> {
    let registered = config.registry.hotkeys.iter().map(|text| {
        text.parse::<Hotkey>()
            .map_err(|_| StartError::Registered(text.clone()))
    });
    let file = config.registry.metagraph.as_deref();
    let metagraph = file.map(Metagraph::load).transpose()?.map(Arc::new);
    Ok(RegistrySettings {
        network: Arc::clone(&config.gateway.network),
        share: share(config, metagraph.as_deref(), own)?,
        open_registration: config.registry.open_registration,
        hotkeys: registered.collect::<Result<BTreeSet<_>, _>>()?,
        metagraph,
        open_tasks: config.registry.open_tasks,
        private_endpoints: config.private_endpoints(),
        miners_max: config.registry.miners_max,
    })
}

/// The fixed share, or the stake's, or all.
fn share(config: &Config, metagraph: Option<&Metagraph>, own: Hotkey) -> Result<Share, StartError> {
    match (config.gateway.share, metagraph) {
        (Some(fixed), _) => Ok(Share::new(fixed.parts(), fixed.of()).unwrap_or(Share::WHOLE)),
        (None, Some(metagraph)) => Ok(metagraph.share(&own)?),
        (None, None) => Ok(Share::WHOLE),
    }
}

// === impl Enrolment ===

impl Enrolment {
    /// Goes on from what a gateway started with.
    pub(super) fn new(config: Arc<Config>, own: Hotkey, registry: Arc<Registry>) -> Self {
        Self {
            own,
            registry,
            state: tokio::sync::Mutex::new(State {
                config,
                // The file may have changed since: the first look reads it again.
                seen: Stamp::default(),
                owed: false,
            }),
        }
    }

    /// Takes over a changed configuration.
    #[expect(clippy::significant_drop_tightening, reason = "one change at a time")]
    pub(super) async fn take(&self, newer: Arc<Config>) -> Result<(), EnrolError> {
        let mut state = self.state.lock().await;
        state.config = newer;
        let stamp = Stamp::of(&state.config).await;
        self.look(&mut state, stamp).await
    }

    /// Looks at the metagraph once a second, until `stop`.
    #[expect(clippy::significant_drop_tightening, reason = "one change at a time")]
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let mut state = self.state.lock().await;
            let stamp = Stamp::of(&state.config).await;
            if state.seen == stamp && !state.owed {
                continue;
            }
            let owed = state.owed;
            match self.look(&mut state, stamp).await {
                Ok(()) => self.tell(),
                // Told when it began.
                Err(EnrolError::Away(_)) if owed => {}
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "metagraph refused; the old one holds");
                }
            }
        }
    }

    async fn look(&self, state: &mut State, stamp: Stamp) -> Result<(), EnrolError> {
        state.seen = stamp;
        let (config, own) = (Arc::clone(&state.config), self.own);
        let read = tokio::task::spawn_blocking(move || settings(&config, own)).await;
        let settled = match read {
            Ok(Ok(settings)) => self.registry.set_settings(settings).await,
            Ok(Err(error)) => return Err(error.into()),
            // The process ends.
            Err(_) => Ok(()),
        };
        state.owed = settled.is_err();
        Ok(settled?)
    }

    fn tell(&self) {
        let settings = self.registry.settings();
        let listed = settings.metagraph.as_ref().map_or(0, |all| all.len());
        tracing::info!(listed, share = %settings.share, "the metagraph counts now");
    }
}

// === impl Stamp ===

impl Stamp {
    /// Of the metagraph that a configuration names.
    async fn of(config: &Config) -> Self {
        match &config.registry.metagraph {
            Some(file) => Self::at(file).await,
            None => Self::default(),
        }
    }

    async fn at(file: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let found = tokio::fs::metadata(file).await.ok();
        Self(found.and_then(|found| Some((found.modified().ok()?, found.len(), found.ino()))))
    }
}
