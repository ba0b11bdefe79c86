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
    every: Duration,
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
            every: LOOK_EVERY,
            publish,
        };
        (reloader, receiver)
    }

    /// Looks once a second, and at once on SIGHUP, until every receiver is gone. The caller
    /// owns the task; dropping the future ends it at any point without harm.
    pub async fn run(mut self) {
        let mut every = tokio::time::interval(self.every);
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
        let running = Arc::clone(&self.publish.borrow());
        match parsed.and_then(|newer| running.reloaded(&newer)) {
            Ok((next, kept)) => self.take(&running, next, &kept),
            Err(faults) => {
                for fault in &faults.0 {
                    tracing::error!(%fault, "configuration refused; the old one holds");
                }
                Look::Kept
            }
        }
    }

    fn take(&self, running: &Config, next: Config, kept: &[String]) -> Look {
        for field in kept {
            tracing::warn!(%field, "changed, but needs a restart");
        }
        if next == *running {
            return Look::Same;
        }
        self.publish.send_replace(Arc::new(next));
        tracing::info!("configuration taken over");
        Look::Taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[registry]\nopen_registration = true\nopen_tasks = true\n";

    fn config(more: &str) -> String {
        format!("{GOOD}\n{more}")
    }

    fn reloader(path: &str) -> (Reloader, watch::Receiver<Arc<Config>>) {
        let running = Config::parse(GOOD).unwrap();
        Reloader::new(path.into(), Arc::new(running))
    }

    #[test]
    fn a_good_file_is_taken_over() {
        let (mut reloader, receiver) = reloader("unread");
        let look = reloader.look(Ok(config("[limits]\nattempts_max = 2")));
        assert_eq!(look, Look::Taken);
        assert_eq!(receiver.borrow().limits.attempts_max, 2);
    }

    #[test]
    fn a_bad_file_keeps_the_old_one_and_the_next_good_one_counts() {
        let (mut reloader, receiver) = reloader("unread");
        let before = Arc::clone(&receiver.borrow());
        for bad in ["[limits]\nattempts_max = 0", "[limits", "[unknown]"] {
            assert_eq!(reloader.look(Ok(config(bad))), Look::Kept);
            assert!(Arc::ptr_eq(&before, &receiver.borrow()));
        }
        let missing = LoadError::TooLarge { path: "x".into() };
        assert_eq!(reloader.look(Err(missing)), Look::Kept);
        let look = reloader.look(Ok(config("[limits]\nattempts_max = 2")));
        assert_eq!(look, Look::Taken);
    }

    #[test]
    fn what_means_the_same_wakes_nobody() {
        let (mut reloader, receiver) = reloader("unread");
        let look = reloader.look(Ok(config("# only a remark")));
        assert_eq!(look, Look::Same);
        assert!(!receiver.has_changed().unwrap());
    }

    #[test]
    fn what_needs_a_restart_is_named_and_kept() {
        let running = Config::parse(GOOD).unwrap();
        let newer = config(
            "[period]\nlength_s = 10\n[listen]\npublic = \"127.0.0.1:1\"\n\
             [limits]\nwait_ms = 1\nrequest_bytes_max = 5000\n[routing]\npolicy = \"random\"\n\
             [gateway]\nshare = \"1/2\"\nshards = 3",
        );
        let (next, kept) = running.reloaded(&Config::parse(&newer).unwrap()).unwrap();
        let fixed = [
            "gateway.shards",
            "listen.public",
            "period.length_s",
            "routing.policy",
            "limits.request_bytes_max",
        ];
        assert_eq!(kept, fixed);
        assert_eq!(
            next.gateway.share.map(crate::config::gateway::Share::of),
            Some(2)
        );
        assert_eq!(next.gateway.shards, None);
        assert_eq!(next.routing, running.routing);
        let size = |config: &Config| config.limits.request_bytes_max;
        assert_eq!(size(&next), size(&running));
        assert_eq!(next.period, running.period);
        assert_eq!(next.listen, running.listen);
        assert_eq!(next.limits.wait, Duration::from_millis(1));
    }

    /// The file is sound by itself; together with the listeners that stay it would let
    /// everybody in.
    #[test]
    fn what_does_not_fit_what_stays_is_refused() {
        let closed = "[gateway]\nhotkey_file = \"key\"\n[tasks.t]\n[registry]\nhotkeys = \
                      [\"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY\"]\n";
        let mut open = Config::parse(closed).unwrap();
        open.listen.public = "0.0.0.0:50051".parse().unwrap();
        open.listen.tls_terminated_in_front = true;
        let newer = Config::parse(&format!("{closed}[keys]\nrequired = false\n")).unwrap();
        let faults = open.reloaded(&newer).unwrap_err();
        assert!(faults.to_string().contains("listen.public"), "{faults}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_seen_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taugate.toml");
        std::fs::write(&path, config("[limits]\nattempts_max = 2")).unwrap();
        let (reloader, mut receiver) = reloader(path.to_str().unwrap());
        let running = async {
            receiver.changed().await.unwrap();
            assert_eq!(receiver.borrow_and_update().limits.attempts_max, 2);
            std::fs::write(&path, config("[limits]\nattempts_max = 4")).unwrap();
            receiver.changed().await.unwrap();
            assert_eq!(receiver.borrow_and_update().limits.attempts_max, 4);
        };
        tokio::select! {
            () = reloader.run() => unreachable!("a receiver is left"),
            () = running => {}
        }
    }

    #[tokio::test]
    async fn a_hangup_reads_the_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taugate.toml");
        std::fs::write(&path, config("[limits]\nattempts_max = 2")).unwrap();
        let (mut reloader, mut receiver) = reloader(path.to_str().unwrap());
        reloader.every = Duration::from_secs(3600);
        let running = async {
            receiver.changed().await.unwrap();
            receiver.borrow_and_update();
            std::fs::write(&path, config("[limits]\nattempts_max = 4")).unwrap();
            let pid = std::process::id().to_string();
            let kill = tokio::process::Command::new("kill")
                .args(["-HUP", &pid])
                .status();
            assert!(kill.await.unwrap().success());
            receiver.changed().await.unwrap();
            assert_eq!(receiver.borrow_and_update().limits.attempts_max, 4);
        };
        tokio::select! {
            () = reloader.run() => unreachable!("a receiver is left"),
            () = running => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_listens() {
        let (reloader, receiver) = reloader("unread");
        drop(receiver);
        reloader.run().await;
    }
}
