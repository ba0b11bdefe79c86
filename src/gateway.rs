//! Composition: one gateway out of its rooms. It owns every task, their order of start and
//! their order of end.

mod build;
mod bursts;
mod checking;
mod checks;
mod drain;
mod enrolment;
mod follow;
mod health;
mod heartbeat;
mod keys;
mod miners;
mod periods;
mod readers;
mod receipts;
mod scores;
mod seals;
mod supervisor;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::engine::ExchangeError;
use taugate_ledger::period::Period;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::call::Calls;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::front_door::listener::Shards;
use crate::identity::hotkey::{Hotkey, KeyFileError, Keypair, SecretError};
use crate::identity::key_ring::KeyRing;
use crate::registry::Registry;
use crate::registry::metagraph::{MetagraphError, ShareFault};
use crate::scoring::scorer::Scorer;
use crate::store::sqlite::{OpenError, SqliteStore};
use crate::store::{BookRow, Health, StoreFault};
use crate::synthetic::bursts::Bursts;
use crate::synthetic::desk::Desk;
use crate::synthetic::driver::Driver;
use crate::synthetic::judge::Judge;
use crate::synthetic::planner::Planner;
use crate::telemetry::Instruments;

use self::checking::Checking;
use self::enrolment::Enrolment;
use self::seals::Seals;
use self::supervisor::Supervisor;

pub use build::Parts;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    addresses: Addresses,
    keypair: Arc<Keypair>,
    store: Arc<SqliteStore>,
    books: Arc<Books>,
    registry: Arc<Registry>,
    enrolment: Arc<Enrolment>,
    calls: Arc<Calls>,
    checks: Checking,
    keys: Arc<KeyRing>,
    instruments: Arc<Instruments>,
    scorer: Arc<Scorer>,
    /// Where it is known what of checks is due.
    desk: Option<Arc<Desk>>,
    /// When all are asked at once.
    bursts: Arc<Bursts>,
    /// Rises when much was consumed.
    news: watch::Sender<u64>,
    health: tonic_health::server::HealthReporter,
    doors: Vec<Arc<Shards>>,
    supervisor: Supervisor,
    stops: Stops,
}

/// Where a gateway listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub public: SocketAddr,
    /// For miners and validators.
    pub peer: SocketAddr,
    /// For operators: metrics and health, HTTP.
    pub admin: SocketAddr,
}

/// What ends what, in this order.
#[derive(Clone, Debug)]
struct Stops {
    /// The end has begun; all goes on for a while.
    drain: CancellationToken,
    /// No more checks are sent; with the drain at latest.
    checks: CancellationToken,
    /// No more connections are accepted; those that live are asked to go.
    accept: CancellationToken,
    /// Calls that still run are cut.
    cut: CancellationToken,
    /// Connections are gone; later than calls, which say last why they ended.
    gone: CancellationToken,
    /// Exchange, append, periods and upkeep end.
    control: CancellationToken,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("the store cannot be opened: {0}")]
    Open(OpenError),
    /// The store is an older copy of itself, or a backup.
    #[error("the store cannot be opened: {0}, as `taugate gateway --freeze-period` does")]
    Older(OpenError),
    /// The store, once it was open.
    #[error("the store does not answer: {0}")]
    Store(#[from] StoreFault),
    /// A declaration or a key could not be read.
    #[error("the store does not answer")]
    Away(#[from] crate::identity::StoreAway),
    /// An address is taken, or not ours.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// A thread or runtime.
    #[error("cannot start a shard: {0}")]
    Shard(std::io::Error),
    /// The validator's hotkey.
    #[error("the validator's hotkey cannot be read: {0}")]
    Hotkey(#[from] KeyFileError),
    /// The secret of the prompts of checks.
    #[error("the operating system gives no random bytes")]
    Randomness,
    /// A development hotkey could not be made.
    #[error("cannot make a development hotkey: {0}")]
    Secret(#[from] SecretError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] crate::identity::tls::TlsError),
    /// The metagraph.
    #[error("registry.metagraph: {0}")]
    Metagraph(#[from] MetagraphError),
    /// The validator's part of all stake.
    #[error("registry.metagraph: {0}")]
    Share(#[from] ShareFault),
    /// A hotkey of the configuration.
    #[error("registry.hotkeys: {0} is no hotkey")]
    Registered(String),
    /// A hotkey of the configuration.
    #[error("reports.readers: {0} is no hotkey")]
    Reader(String),
    /// The descriptors of reflection.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

// === impl Stops ===

impl Default for Stops {
    fn default() -> Self {
        let drain = CancellationToken::new();
        Self {
            checks: drain.child_token(),
            drain,
            accept: CancellationToken::new(),
            cut: CancellationToken::new(),
            gone: CancellationToken::new(),
            control: CancellationToken::new(),
        }
    }
}

// === impl StartError ===

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        if matches!(error, OpenError::Older { .. } | OpenError::Copy) {
            Self::Older(error)
        } else {
            Self::Open(error)
        }
    }
}

// === impl Gateway ===

impl Gateway {
    /// Starts a gateway on this runtime, which becomes its control runtime; shards have
    /// threads of their own. It is ready when this answers.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(config: Arc<Config>, clock: SharedClock) -> Result<Self, StartError> {
        let gateway = Self::open(config, clock).await?;
        gateway.begin().await;
        Ok(gateway)
    }

    /// Opens the store, then the doors. It is not ready, and health says so, until it begins.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn open(config: Arc<Config>, clock: SharedClock) -> Result<Self, StartError> {
        let parts = Parts::assemble(&config, clock, false).await?;
        build::open_doors(config, parts).await
    }

    /// Opens a store that lost commits, such as a backup that was put in place: nothing of the
    /// running period is granted any more, and the next one is as any other. A store that lost
    /// nothing may be opened so too.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn open_frozen(config: Arc<Config>, clock: SharedClock) -> Result<Self, StartError> {
        tracing::warn!("the running period is frozen: nothing of it is granted until its end");
        let parts = Parts::assemble(&config, clock, true).await?;
        build::open_doors(config, parts).await
    }

    /// Starts what works beside the doors; the gateway is ready then.
    pub async fn begin(&self) {
        self.run_control();
        self.run_checks();
        self.ready().await;
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The validator's hotkey.
    #[must_use]
    pub fn hotkey(&self) -> Hotkey {
        self.keypair.hotkey()
    }

    /// Who can do what.
    #[must_use]
    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Its books in this process.
    #[must_use]
    pub const fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// Its calls.
    #[must_use]
    pub const fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// What sends its checks.
    #[must_use]
    pub const fn driver(&self) -> &Arc<Driver> {
        &self.checks.driver
    }

    /// What judges its miners' answers.
    #[must_use]
    pub const fn judge(&self) -> &Arc<Judge> {
        &self.checks.judge
    }

    /// Its store.
    #[must_use]
    pub const fn store(&self) -> &Arc<SqliteStore> {
        &self.store
    }

    /// What the durable books say of a period.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn book_rows(&self, period: Period) -> Result<Vec<BookRow>, StoreFault> {
        self.store.books(period).await
    }

    /// Cancelled when the books are broken: the process must end.
    #[must_use]
    pub fn broken(&self) -> CancellationToken {
        self.books.broken().clone()
    }

    /// Cancelled when a task that the gateway cannot do without has died, or its store: the
    /// process must end.
    #[must_use]
    pub fn died(&self) -> CancellationToken {
        self.supervisor.died().clone()
    }

    /// Takes over what reloads of each configuration that is published, until the gateway
    /// ends: tasks and limits of calls from the next call on, limits of connections from the
    /// next connection on.
    pub fn follow(&self, changes: watch::Receiver<Arc<Config>>) {
        let follower = follow::Follower {
            registry: Arc::clone(&self.registry),
            enrolment: Arc::clone(&self.enrolment),
            calls: Arc::clone(&self.calls),
            keys: Arc::clone(&self.keys),
            store: Arc::clone(&self.store),
            doors: self.doors.clone(),
        };
        let stop = &self.stops.control;
        self.supervisor
            .spawn("reload", stop, follower.run(changes, stop.clone()));
    }

    /// Ends: lets streams run to the drain's deadline, settles all, closes the incarnation.
    ///
    /// # Errors
    /// When the engine is away; what was free then stays charged to its period.
    pub async fn stop(self) -> Result<(), ExchangeError> {
        drain::run(self).await
    }

    fn run_control(&self) {
        let (books, stop) = (&self.books, &self.stops.control);
        let exchanging = (Arc::clone(books), stop.clone());
        let exchange = async move { exchanging.0.run_exchange(exchanging.1).await };
        self.supervisor.spawn("exchange", stop, exchange);
        let appending = (Arc::clone(books), stop.clone());
        let append = async move { appending.0.run_append(appending.1).await };
        self.supervisor.spawn("append", stop, append);
        let registry = Arc::clone(&self.registry);
        let periods = periods::run(Arc::clone(books), registry, stop.clone());
        self.supervisor.spawn("periods", stop, periods);
        let enrolment = Arc::clone(&self.enrolment).run(stop.clone());
        self.supervisor.spawn("metagraph", stop, enrolment);
        let upkeep = upkeep::run(Arc::clone(&self.calls), stop.clone());
        self.supervisor.spawn("upkeep", stop, upkeep);
        let (store, keys) = (Arc::clone(&self.store), Arc::clone(&self.keys));
        let keys = keys::run(store, keys, stop.clone());
        self.supervisor.spawn("keys", stop, keys);
        let period = Duration::from_secs(u64::from(books.length().secs()));
        let scores = scores::run(Arc::clone(&self.scorer), period, stop.clone());
        self.supervisor.spawn("scores", stop, scores);
        let judge = Arc::clone(&self.checks.judge).run(stop.clone());
        self.supervisor.spawn("findings", stop, judge);
        let seals = self.seals().run(stop.clone());
        self.supervisor.spawn("seals", stop, seals);
        let teller = health::Teller {
            health: self.health.clone(),
            instruments: Arc::clone(&self.instruments),
        };
        let drain = &self.stops.drain;
        let store = teller.run(self.store.health(), drain.clone());
        self.supervisor.spawn("store", drain, store);
        let (registry, news) = (Arc::clone(&self.registry), self.news.clone());
        let wake = readers::wake(Arc::clone(books), registry, news, stop.clone());
        self.supervisor.spawn("news", stop, wake);
        let (store, books) = (Arc::clone(&self.store), Arc::clone(books));
        let instruments = Arc::clone(&self.instruments);
        let heartbeat = heartbeat::run(store, books, instruments, stop.clone());
        self.supervisor.spawn("heartbeat", stop, heartbeat);
    }

    /// A drain stops checks first: they are nobody's who waits.
    fn run_checks(&self) {
        let Some(desk) = &self.desk else {
            return;
        };
        let planner = Planner {
            desk: Arc::clone(desk),
            store: Arc::clone(&self.store) as _,
            checks: Arc::clone(&self.checks.driver),
            bursts: self.bursts.are_planned().then(|| Arc::clone(&self.bursts)),
            mode: self.config.planner.mode,
            incarnation: self.books.incarnation(),
            length: self.books.length(),
        };
        let stop = &self.stops.checks;
        self.supervisor
            .spawn("checks", stop, planner.run(stop.clone()));
        if self.bursts.are_planned() {
            let watched = Arc::clone(&self.bursts).run(stop.clone());
            self.supervisor.spawn("bursts", stop, watched);
        }
    }

    /// Sends no more checks; those that run are cancelled. What is due stays so.
    pub fn end_checks(&self) {
        self.stops.checks.cancel();
    }

    /// Where every miner stands.
    #[must_use]
    pub const fn scorer(&self) -> &Arc<Scorer> {
        &self.scorer
    }

    fn seals(&self) -> Seals {
        Seals {
            store: Arc::clone(&self.store) as _,
            history: Arc::clone(&self.store) as _,
            keypair: Arc::clone(&self.keypair),
            network: Arc::clone(&self.registry.settings().network),
            length: self.books.length(),
        }
    }

    async fn ready(&self) {
        if *self.store.health().borrow() == Health::Full {
            // It is told once there is space.
            return;
        }
        for service in build::SERVICES {
            self.health
                .set_service_status(service, tonic_health::ServingStatus::Serving)
                .await;
        }
    }
}
