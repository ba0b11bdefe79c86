//! A real gateway with one simulated miner.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use taugate::clock::{SharedClock, SystemClock};
use taugate::config::Config;
use taugate::gateway::Gateway;
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::sidecar::declare::grpc::GrpcGateway;
use taugate::sidecar::sessions::Validators;
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use taugate_ledger::period::PeriodLength;
use taugate_ledger::units::Units;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const TASK: &str = "tiny";

pub(crate) struct Network {
    gateway: Gateway,
    sidecar: JoinHandle<()>,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Network {
    /// Starts a gateway alone, with a certificate for `localhost` that nobody signed; the
    /// gateway, its address, and the certificate's file in `dir`.
    pub(crate) async fn with_tls(dir: &Path) -> (Gateway, String, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let made = made.expect("a certificate");
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).expect("a scratch file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a scratch file");
        let mut config = config(dir);
        config.listen.cert_file = Some(cert.clone());
        config.listen.key_file = Some(key);
        let gateway = Gateway::start(Arc::new(config), Arc::new(SystemClock)).await;
        let gateway = gateway.expect("the gateway starts");
        let address = format!("https://localhost:{}", gateway.addresses().public.port());
        (gateway, address, cert)
    }

    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let clock = Arc::new(SystemClock) as SharedClock;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = config(dir.path());
        let gateway = Gateway::start(Arc::new(config), Arc::clone(&clock)).await;
        let gateway = gateway.expect("the gateway starts");
        let keypair = Arc::new(Keypair::from_secret("//One").expect("a key"));
        let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
        let peer = format!("http://{}", gateway.addresses().peer);
        let announce = GrpcGateway::new(&peer, signer).expect("an address");
        let model = SimulatedModel::new(Simulation {
            tokens_per_s: 0.0,
            prefill_tokens_per_s: 0.0,
            ..Simulation::default()
        });
        let sidecar = Sidecar::bind(SidecarSettings {
            validators: Arc::new(Validators::learned()),
            tls: None,
            listen: any,
            endpoint: None,
            tasks: vec![ServedTask {
                task: TASK.into(),
                model: Arc::new(model),
                units_per_hour: 10_000_000,
            }],
            concurrency: 64,
            gateways: vec![Arc::new(announce)],
            keypair,
            clock,
            drain: Duration::from_secs(1),
        });
        let stop = CancellationToken::new();
        let sidecar = sidecar.await.expect("it listens").run(stop.clone());
        let network = Self {
            gateway,
            sidecar: tokio::task::spawn(sidecar),
            stop,
            dir,
        };
        network
            .until("the miner has declared", || network.is_known())
            .await;
        network
    }

    fn is_known(&self) -> bool {
        let snapshot = self.gateway.registry().snapshot();
        let offers = snapshot
            .markets
            .get(TASK)
            .map(|market| market.offers.clone());
        let router = &self.gateway.calls().router;
        offers
            .unwrap_or_default()
            .iter()
            .any(|offer| router.knows(TASK, offer.cell))
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.gateway.addresses().public)
    }

    /// A file with that text.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("trace.csv");
        std::fs::write(&path, text).expect("a scratch file");
        path
    }

    /// Units that the durable books say were posted, once nothing is in flight.
    pub(crate) async fn posted(&self) -> u64 {
        let books = self.gateway.books();
        self.until("no receipt waits", || books.pending() == 0)
            .await;
        let rows = self.gateway.book_rows(books.table().period()).await;
        let rows = rows.expect("the store answers");
        assert!(rows.iter().all(taugate::store::BookRow::closes), "{rows:?}");
        rows.iter().flat_map(|row| row.posted).map(Units::get).sum()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.sidecar.await.expect("no panic");
        self.gateway.stop().await.expect("the books are closed");
    }

    async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !reached() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: did not happen"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn config(dir: &Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::development();
    (
        config.listen.public,
        config.listen.peer,
        config.listen.admin,
    ) = (any, any, any);
    config.store.path = dir.join("taugate.db");
    // One period holds the whole test.
    config.period.length = PeriodLength::from_secs(86_400).expect("not zero");
    config.drain.delay = Duration::ZERO;
    config.planner.mode = taugate::synthetic::Mode::Off;
    config.gateway.shards = Some(1);
    config
}
