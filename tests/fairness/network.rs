//! A gateway and simulated miners, each on its own socket, as `taugate demo` has them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate::client::{Client, Retries};
use taugate::clock::{SharedClock, SystemClock};
use taugate::config::Config;
use taugate::gateway::Gateway;
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::sidecar::declare::grpc::GrpcGateway;
use taugate::sidecar::sessions::Validators;
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use taugate_ledger::ids::CellId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const TASK: &str = "fair-chat";
pub(crate) const PERIOD_S: u32 = 10;

/// What a miner is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Character {
    pub(crate) name: &'static str,
    pub(crate) units_per_hour: u64,
    pub(crate) concurrency: u32,
    pub(crate) tokens_per_s: f64,
    pub(crate) failure_rate: f64,
    /// The pause before each answer.
    pub(crate) delay: Duration,
}

/// A running network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) gateway: Gateway,
    sidecars: TaskTracker,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

/// What the durable books say of a miner, over all periods.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Booked {
    pub(crate) posted: u64,
    pub(crate) good: u64,
    pub(crate) busy: u64,
    pub(crate) failed: u64,
    pub(crate) attempts: u64,
}

// === impl Network ===

impl Network {
    pub(crate) async fn start(miners: &[Character]) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let mut config = Config::development();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (
            config.listen.public,
            config.listen.peer,
            config.listen.admin,
        ) = (any, any, any);
        config.store.path = dir.path().join("taugate.db");
        config.store.retention_periods = 1_000;
        config.period.length = PeriodLength::from_secs(PERIOD_S).expect("not zero");
        config.drain.delay = Duration::ZERO;
        config.planner.mode = taugate::synthetic::Mode::Off;
        let gateway = Gateway::start(Arc::new(config), Arc::new(SystemClock)).await;
        let network = Self {
            gateway: gateway.expect("the gateway starts"),
            sidecars: TaskTracker::new(),
            stop: CancellationToken::new(),
            _dir: dir,
        };
        for miner in miners {
            network.join(*miner).await;
        }
        network
    }

    /// Starts a miner and waits until it may be chosen. Says its cell.
    pub(crate) async fn join(&self, character: Character) -> CellId {
        let clock: SharedClock = Arc::new(SystemClock);
        let keypair = Arc::new(key(character));
        let hotkey = keypair.hotkey().to_string();
        let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
        let peer = format!("http://{}", self.gateway.addresses().peer);
        let model = SimulatedModel::new(Simulation {
            tokens_per_s: character.tokens_per_s,
            failure_rate: character.failure_rate,
            delay: character.delay,
            seed: u64::from(character.concurrency),
            ..Simulation::default()
        });
        let sidecar = Sidecar::bind(SidecarSettings {
            validators: Arc::new(Validators::learned()),
            tls: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            endpoint: None,
            tasks: vec![ServedTask {
                task: TASK.into(),
                model: Arc::new(model),
                units_per_hour: character.units_per_hour,
            }],
            concurrency: character.concurrency,
            gateways: vec![Arc::new(
                GrpcGateway::new(&peer, signer).expect("an address"),
            )],
            keypair,
            clock,
            drain: Duration::from_secs(1),
        });
        let sidecar = sidecar.await.expect("a free port");
        drop(self.sidecars.spawn(sidecar.run(self.stop.clone())));
        let mut changed = self.gateway.registry().subscribe();
        let known = async {
            loop {
                if let Some(cell) = self.cell(&hotkey) {
                    return cell;
                }
                changed.changed().await.expect("the registry lives");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), known)
            .await
            .expect("the miner declares")
    }

    pub(crate) async fn client(&self) -> Client {
        let address = format!("http://{}", self.gateway.addresses().public);
        let client = Client::connect(&address, None).await;
        client.expect("the gateway listens").with_retries(Retries {
            most: 0,
            wait_max: Duration::ZERO,
        })
    }

    pub(crate) fn period(&self) -> Period {
        self.gateway.books().table().period()
    }

    /// The cell of a miner that has declared.
    pub(crate) fn cell(&self, hotkey: &str) -> Option<CellId> {
        let snapshot = self.gateway.registry().snapshot();
        let offers = &snapshot.markets.get(TASK)?.offers;
        let offer = offers.iter().find(|offer| *offer.miner.hotkey == *hotkey)?;
        Some(offer.cell)
    }

    pub(crate) fn cell_of(&self, character: Character) -> CellId {
        let hotkey = key(character).hotkey().to_string();
        self.cell(&hotkey).expect("it has declared")
    }

    pub(crate) fn allotment(&self, cell: CellId) -> u64 {
        let snapshot = self.gateway.registry().snapshot();
        let offers = &snapshot.markets[TASK].offers;
        let offer = offers.iter().find(|offer| offer.cell == cell);
        offer.map_or(0, |offer| offer.allotment.get())
    }

    /// What the durable books say of a miner in some periods.
    pub(crate) async fn booked(&self, cell: CellId, periods: &[Period]) -> Booked {
        let mut booked = Booked::default();
        for period in periods {
            let rows = self.gateway.book_rows(*period).await.expect("the store");
            for row in rows.iter().filter(|row| row.cell == cell) {
                assert!(row.closes(), "{row:?}");
                booked.posted += row.posted.into_iter().sum::<Units>().get();
            }
            let tallies = self.gateway.store().tallies(*period).await;
            for tally in tallies.expect("the store") {
                if tally.cell == cell {
                    booked.add(&tally.attempts);
                }
            }
        }
        booked
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.sidecars.close();
        self.sidecars.wait().await;
        self.gateway.stop().await.expect("all is given back");
    }
}

fn key(character: Character) -> Keypair {
    Keypair::from_secret(&format!("//fair-{}", character.name)).expect("a key")
}

// === impl Booked ===

impl Booked {
    fn add(&mut self, attempts: &[u64; 7]) {
        for (outcome, count) in Outcome::ALL.into_iter().zip(attempts) {
            self.attempts += count;
            match outcome {
                Outcome::Good => self.good += count,
                Outcome::Busy => self.busy += count,
                Outcome::Lost | Outcome::Stalled | Outcome::Protocol => self.failed += count,
                Outcome::Refused | Outcome::Cancelled => {}
            }
        }
    }
}
