//! The gateway and its miners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::period::PeriodLength;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{DECLARE, DemoError};
use crate::client::{Client, Retries};
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::identity::call::CallSigner;
use crate::identity::hotkey::Keypair;
use crate::registry::snapshot::Offer;
use crate::sidecar::declare::grpc::GrpcGateway;
use crate::sidecar::openai::OpenAiServer;
use crate::sidecar::sessions::Validators;
use crate::sidecar::simulated::{SimulatedModel, Simulation};
use crate::sidecar::{ServedTask, Sidecar, SidecarSettings};

/// The task that every miner of the demo does.
pub(super) const TASK: &str = "demo-chat";

/// What a simulated miner is like.
#[derive(Clone, Copy, Debug)]
struct Character {
    name: &'static str,
    units_per_hour: u64,
    concurrency: u32,
    tokens_per_s: f64,
    failure_rate: f64,
}

/// Seven miners of different size and quality. The healthy ones have about half more than
/// the recorded hour asks for, and run dry in its steepest minutes only; one declares ten times
/// what it can do.
const MINERS: [Character; 7] = [
    Character {
        name: "large",
        units_per_hour: 8_000_000,
        concurrency: 48,
        tokens_per_s: 400.0,
        failure_rate: 0.0,
    },
    Character {
        name: "medium",
        units_per_hour: 4_000_000,
        concurrency: 24,
        tokens_per_s: 400.0,
        failure_rate: 0.0,
    },
    Character {
        name: "second",
        units_per_hour: 4_000_000,
        concurrency: 24,
        tokens_per_s: 300.0,
        failure_rate: 0.0,
    },
    Character {
        name: "small",
        units_per_hour: 2_000_000,
        concurrency: 12,
        tokens_per_s: 400.0,
        failure_rate: 0.0,
    },
    Character {
        name: "slow",
        units_per_hour: 2_000_000,
        concurrency: 12,
        tokens_per_s: 60.0,
        failure_rate: 0.0,
    },
    Character {
        name: "boasting",
        units_per_hour: 4_000_000,
        concurrency: 4,
        tokens_per_s: 25.0,
        failure_rate: 0.0,
    },
    Character {
        name: "failing",
        units_per_hour: 4_000_000,
        concurrency: 24,
        tokens_per_s: 400.0,
        failure_rate: 0.9,
    },
];

/// The name of the miner in front of a real model server.
const REAL: &str = "real";

/// Units a second that each slot of a real server is trusted to make; a small model on one
/// core makes more.
const REAL_UNITS_PER_S: u32 = 5;

/// Slots of a real server that does not say how many it has.
const REAL_SLOTS: u32 = 4;

/// The first answers that a real server must be good for in each period.
const REAL_ANSWERS: u64 = 2;

/// The longest pause between two looks at what has come up.
const LOOK: Duration = Duration::from_millis(5);

/// A running network.
#[derive(Debug)]
pub(super) struct Network {
    gateway: Gateway,
    period_s: u32,
    miners: Vec<(&'static str, String)>,
    sidecars: TaskTracker,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

// === impl Network ===

impl Network {
    /// A gateway without miners yet.
    pub(super) async fn start(period_s: u32) -> Result<Self, DemoError> {
        let dir = tempfile::tempdir()?;
        let config = config(dir.path(), period_s);
        let gateway = Gateway::start(Arc::new(config), Arc::new(SystemClock)).await?;
        Ok(Self {
            gateway,
            period_s,
            miners: Vec::new(),
            sidecars: TaskTracker::new(),
            stop: CancellationToken::new(),
            _dir: dir,
        })
    }

    /// Adds a miner in front of a real model server, with the first of its models.
    pub(super) async fn add_real(&mut self, server: &str) -> Result<(), DemoError> {
        let server = OpenAiServer::new(server, None)?;
        let models = server.models().await.map_err(DemoError::Models)?;
        let model = models.first().ok_or(DemoError::NoModel)?;
        let slots = server.slots().await.unwrap_or(REAL_SLOTS);
        let cautious = u64::from(slots) * u64::from(REAL_UNITS_PER_S) * 3600;
        // An answer's units are not known before: more than its tokens are held.
        let answers = REAL_ANSWERS * u64::from(super::FIRST_TOKENS) * 2;
        let enough = answers * 3600 / u64::from(self.period_s);
        let served = ServedTask {
            task: TASK.into(),
            model: Arc::new(server.model(model)),
            units_per_hour: cautious.max(enough),
        };
        self.add(REAL, served, slots).await?;
        self.wait_for_miners().await
    }

    /// Adds the simulated miners.
    pub(super) async fn add_simulated(&mut self, seed: u64) -> Result<(), DemoError> {
        for (number, character) in MINERS.iter().enumerate() {
            let model = SimulatedModel::new(Simulation {
                tokens_per_s: character.tokens_per_s,
                failure_rate: character.failure_rate,
                seed: seed.wrapping_add(number as u64),
                ..Simulation::default()
            });
            let served = ServedTask {
                task: TASK.into(),
                model: Arc::new(model),
                units_per_hour: character.units_per_hour,
            };
            self.add(character.name, served, character.concurrency)
                .await?;
        }
        self.wait_for_miners().await
    }

    async fn add(
        &mut self,
        name: &'static str,
        served: ServedTask,
        concurrency: u32,
    ) -> Result<(), DemoError> {
        let clock = Arc::new(SystemClock) as SharedClock;
        let keypair = Arc::new(Keypair::from_secret(&format!("//demo-{name}"))?);
        self.miners.push((name, keypair.hotkey().to_string()));
        let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
        let peer = format!("http://{}", self.gateway.addresses().peer);
        let sidecar = Sidecar::bind(SidecarSettings {
            validators: Arc::new(Validators::learned()),
            tls: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            endpoint: None,
            tasks: vec![served],
            concurrency,
            gateways: vec![Arc::new(GrpcGateway::new(&peer, signer)?)],
            keypair,
            clock,
            drain: Duration::from_secs(1),
        });
        let running = sidecar.await?.run(self.stop.clone());
        drop(self.sidecars.spawn(running));
        Ok(())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.addresses().public
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.gateway.addresses().peer
    }

    pub(super) fn admin(&self) -> SocketAddr {
        self.gateway.addresses().admin
    }

    pub(super) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Names and hotkeys.
    pub(super) fn miners(&self) -> &[(&'static str, String)] {
        &self.miners
    }

    /// The name of a miner; of one that a visitor added, its hotkey.
    pub(super) fn name_of<'a>(&self, hotkey: &'a str) -> &'a str {
        let mut known = self.miners.iter();
        known
            .find(|(_, known)| known == hotkey)
            .map_or(hotkey, |(name, _)| name)
    }

    /// What the miners offer now.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let snapshot = self.gateway.registry().snapshot();
        let market = snapshot.markets.get(TASK);
        market.map_or_else(Vec::new, |market| market.offers.clone())
    }

    pub(super) async fn client(&self) -> Result<Client, DemoError> {
        let client = Client::connect(&format!("http://{}", self.address()), None).await?;
        // The replay counts refusals: it does not hide them by trying again.
        Ok(client.with_retries(Retries {
            most: 0,
            wait_max: Duration::ZERO,
        }))
    }

    pub(super) async fn stop(self) -> Result<(), DemoError> {
        self.stop.cancel();
        self.sidecars.close();
        self.sidecars.wait().await;
        Ok(self.gateway.stop().await?)
    }

    /// Until calls can go to each miner that was added.
    async fn wait_for_miners(&self) -> Result<(), DemoError> {
        let router = &self.gateway.calls().router;
        let all = async {
            loop {
                let offers = self.offers();
                let mut known = offers.iter().map(|offer| router.knows(TASK, offer.cell));
                if offers.len() >= self.miners.len() && known.all(|known| known) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(DECLARE, all)
            .await
            .map_err(|_| DemoError::NoMiner)
    }
}

fn config(dir: &std::path::Path, period_s: u32) -> Config {
    let mut config = Config::development();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (
        config.listen.public,
        config.listen.peer,
        config.listen.admin,
    ) = (any, any, any);
    config.store.path = dir.join("taugate.db");
    // The proof at the end reads every period of the run.
    config.store.retention_periods = 1_000;
    if let Some(length) = PeriodLength::from_secs(period_s) {
        config.period.length = length;
    }
    config.drain.delay = Duration::ZERO;
    config
}
