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
use crate::sidecar::declare::grpc::GrpcGateway;
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

/// Six miners of different size and quality. The healthy ones have about half more than
/// the recorded hour asks for, and run dry in its steepest minutes only.
const MINERS: [Character; 6] = [
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
        name: "failing",
        units_per_hour: 4_000_000,
        concurrency: 24,
        tokens_per_s: 400.0,
        failure_rate: 0.9,
    },
];

/// A running network.
#[derive(Debug)]
pub(super) struct Network {
    gateway: Gateway,
    miners: Vec<(&'static str, String)>,
    sidecars: TaskTracker,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

// === impl Network ===

impl Network {
    pub(super) async fn start(period_s: u32, seed: u64) -> Result<Self, DemoError> {
        let dir = tempfile::tempdir()?;
        let clock = Arc::new(SystemClock) as SharedClock;
        let config = config(dir.path(), period_s);
        let gateway = Gateway::start(Arc::new(config), Arc::clone(&clock)).await?;
        let peer = format!("http://{}", gateway.addresses().peer);
        let (sidecars, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut miners = Vec::new();
        for (number, character) in MINERS.iter().enumerate() {
            let keypair = Arc::new(Keypair::from_secret(&format!("//demo-{}", character.name))?);
            miners.push((character.name, keypair.hotkey().to_string()));
            let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
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
            let sidecar = Sidecar::bind(SidecarSettings {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                endpoint: None,
                tasks: vec![served],
                concurrency: character.concurrency,
                gateways: vec![Arc::new(GrpcGateway::new(&peer, signer)?)],
                keypair,
                clock: Arc::clone(&clock),
                drain: Duration::from_secs(1),
            });
            drop(sidecars.spawn(sidecar.await?.run(stop.clone())));
        }
        let network = Self {
            gateway,
            miners,
            sidecars,
            stop,
            _dir: dir,
        };
        network.wait_for_miners().await?;
        Ok(network)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.addresses().public
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

    async fn wait_for_miners(&self) -> Result<(), DemoError> {
        let mut changed = self.gateway.registry().subscribe();
        let all = async {
            loop {
                let snapshot = self.gateway.registry().snapshot();
                let offers = snapshot
                    .markets
                    .get(TASK)
                    .map_or(0, |market| market.offers.len());
                if offers == MINERS.len() || changed.changed().await.is_err() {
                    return;
                }
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
