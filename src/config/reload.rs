//! Takes over a changed file without a restart.
//!
//! The file is read once a second and compared by content, since mounted files (a Kubernetes
//! `ConfigMap`, say) change behind a symbolic link and tell nobody. SIGHUP reads it at once.
//! A good file is published with everything that reloads; a bad one is logged with all its
//! faults, and the old configuration holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Config;
use super::load::{self, LoadError};

/// A person who saved a file looks at the result a second later.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks after one file.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    /// What was read last, good or bad, so that a bad file is told of once.
    seen: Option<String>,
    /// Whether the last look could not read the file.
    unreadable: bool,
    publish: watch::Sender<Arc<Config>>,
}

/// What a look at the file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The same as last time.
    Same,
    /// A new configuration, which is published.
    Taken,
    /// Something wrong; the old one holds.
    Kept,
}

// === impl Reloader ===

impl Reloader {
    /// Looks after `path`, from which `running` was read.
    #[must_use]
    pub fn new(path: PathBuf, running: Arc<Config>) -> (Self, watch::Receiver<Arc<Config>>) {
        let (publish, receiver) = watch::channel(running);
        // The file may have changed since it was read: the first look compares meanings.
        let reloader = Self {
            path,
            seen: None,
            unreadable: false,
            publish,
        };
        (reloader, receiver)
    }

    /// Looks once a second, and at once on SIGHUP, until every receiver is gone. The caller
    /// owns the task; dropping the future ends it at any point without harm.
    pub async fn run(mut self) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be received; the file is still watched");
                None
            }
        };
        loop {
            let forced = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = every.tick() => {}
                _ = forced => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    self.seen = None;
                }
                () = self.publish.closed() => return,
            }
            let path = self.path.clone();
            let Ok(text) = tokio::task::spawn_blocking(move || load::read(&path)).await else {
                continue;
            };
            self.look(text);
        }
    }

    /// Considers what was read of the file.
    fn look(&mut self, text: Result<String, LoadError>) -> Look {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                if !self.unreadable {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "configuration not read; the old one holds");
                }
                self.unreadable = true;
                return Look::Kept;
            }
        };
        self.unreadable = false;
        if self.seen.as_deref() == Some(&text) {
            return Look::Same;
        }
        let parsed = Config::parse(&text);
        self.seen = Some(text);
        match parsed {
            Ok(newer) => self.take(&newer),
            Err(faults) => {
                for fault in &faults.0 {
                    tracing::error!(%fault, "configuration refused; the old one holds");
                }
                Look::Kept
            }
        }
    }

    fn take(&self, newer: &Config) -> Look {
        let running = Arc::clone(&self.publish.borrow());
        let (next, kept) = running.reloaded(newer);
        for field in kept {
            tracing::warn!(field, "changed, but needs a restart");
        }
        if next == *running {
            return Look::Same;
        }
        self.publish.send_replace(Arc::new(next));
        tracing::info!("configuration taken over");
        Look::Taken
    }
}
