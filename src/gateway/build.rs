//! How a gateway is put together, from the store up to the doors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::Layer as _;
use tower::retry::budget::TpsBudget;

use super::bursts::bursts;
use super::checking::Checking;
use super::checks::{Planned, desk};
use super::enrolment::{self, Enrolment};
use super::miners::{Certificates, Miners};
use super::readers::{Callers, readers};
use super::receipts::StoreReceipts;
use super::supervisor::Supervisor;
use super::{Addresses, Gateway, StartError, Stops};
use crate::admin::Admin;
use crate::admin::board::Sources;
use crate::books::{Books, BooksSettings};
use crate::call::shapes::Shapes;
use crate::call::trace::TraceSettings;
use crate::call::waiting::Waiting;
use crate::call::{CallSettings, Calls};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::config::limits::Limits;
use crate::config::routing::Policy as ConfiguredPolicy;
use crate::front_door::capacity::Capacity;
use crate::front_door::consumption::{Consumption, Reports};
use crate::front_door::gate::Gate;
use crate::front_door::inference::Inference;
use crate::front_door::listener::{Shards, bind};
use crate::front_door::settings::DoorSettings;
use crate::front_door::signed::Signed;
use crate::identity::api_key::KeyStore as _;
use crate::identity::call::{CallSigner, CallVerifier};
use crate::identity::hotkey::{DEVELOPMENT, Keypair};
use crate::identity::key_ring::KeyRing;
use crate::identity::nonce::NonceStore;
use crate::proto::PUBLIC_DESCRIPTORS;
use crate::proto::v1::capacity_service_server::CapacityServiceServer;
use crate::proto::v1::consumption_service_server::ConsumptionServiceServer;
use crate::proto::v1::inference_service_server::InferenceServiceServer;
use crate::registry::Registry;
use crate::registry::declaration::DeclarationStore;
use crate::report::readers::Readers;
use crate::routing::{Policy, Router, RouterSettings, Vitals};
use crate::scoring::Profile;
use crate::scoring::scorer::{Scorer, ScorerSettings};
use crate::store::sqlite::{SqliteSettings, SqliteStore};
use crate::synthetic::bursts::Bursts;
use crate::synthetic::measure::Measures;
use crate::telemetry::Instruments;

/// What health speaks of: the whole, and each public service.
pub(super) const SERVICES: [&str; 2] = ["", "taugate.v1.InferenceService"];

/// The longest that a question which is no inference may take: the store's own limit and some.
const HELPER: Duration = Duration::from_secs(10);

/// A gateway without its doors.
#[derive(Debug)]
pub struct Parts {
    keypair: Arc<Keypair>,
    clock: SharedClock,
    store: Arc<SqliteStore>,
    books: Arc<Books>,
    registry: Arc<Registry>,
    calls: Arc<Calls>,
    checks: Checking,
    keys: Arc<KeyRing>,
    instruments: Arc<Instruments>,
    scorer: Arc<Scorer>,
    desk: Planned,
    bursts: Arc<Bursts>,
    readers: Arc<Readers>,
    news: watch::Sender<u64>,
    stops: Stops,
}

// === impl Parts ===

impl Parts {
    /// Opens the store and puts everything on top of it, up to the calls.
    pub(super) async fn assemble(
        config: &Arc<Config>,
        clock: SharedClock,
        freeze: bool,
    ) -> Result<Self, StartError> {
        let length = config.period.length;
        let settings = SqliteSettings {
            grace: grace(config),
            retention_periods: config.store.retention_periods,
            scores_kept: Profile::longest_look_back().max(config.scores.effective().look_back()),
            freeze,
            ..SqliteSettings::default()
        };
        let store = SqliteStore::open(&config.store.path, settings, Arc::clone(&clock), length)?;
        let store = Arc::new(store);
        let keypair = Arc::new(keypair(config)?);
        let hotkey = keypair.hotkey();
        let readers = readers(config, hotkey)?;
        let incarnation = store.new_incarnation(&hotkey.to_string()).await?;
        let declarations = Arc::clone(&store) as Arc<dyn DeclarationStore>;
        let tasks = Arc::clone(&config.tasks);
        let registered = enrolment::settings(config, hotkey)?;
        let registry =
            Registry::open(registered, tasks, declarations, Arc::clone(&clock), length).await?;
        let books_settings = BooksSettings {
            journal_slots: config.store.journal_slots,
            ..BooksSettings::default()
        };
        let engine = Arc::clone(&store) as _;
        let books = Books::new(
            books_settings,
            incarnation,
            length,
            Arc::clone(&clock),
            engine,
        );
        let period = books.table().period();
        registry.open_period(period).await?;
        books.expect(period, &registry.wanted());
        let keys = Arc::new(KeyRing::default());
        keys.require(config.keys.required);
        keys.replace(store.keys().await?);
        let instruments = Arc::new(Instruments::new());
        let scorer = Arc::new(scorer(config, &store, &registry, &books));
        let stops = Stops::default();
        let measures = Arc::new(Measures::default());
        let calls = Arc::new(Calls {
            deliveries: Arc::clone(&measures) as _,
            ..calls(config, &books, &registry, &instruments, &stops)
        });
        let bursts = bursts(config, &calls, &store, measures);
        bursts.load().await?;
        let desk = desk(config, &calls, &bursts);
        let checks = Checking::new(&calls, &store, &clock)?;
        Ok(Self {
            checks,
            keypair,
            clock,
            store,
            books,
            registry,
            calls,
            keys,
            instruments,
            scorer,
            desk,
            bursts,
            readers: Arc::new(readers),
            news: watch::Sender::new(0),
            stops,
        })
    }
}

fn keypair(config: &Config) -> Result<Keypair, StartError> {
    Ok(match &config.gateway.hotkey_file {
        Some(file) => Keypair::load(file)?,
        None => Keypair::from_secret(DEVELOPMENT)?,
    })
}

fn scorer(
    config: &Config,
    store: &Arc<SqliteStore>,
    registry: &Arc<Registry>,
    books: &Arc<Books>,
) -> Scorer {
    let settings = ScorerSettings {
        name: config.scores.profile.into(),
        profile: config.scores.effective(),
        bursts: super::bursts::settings(config).are_planned(),
    };
    let store = Arc::clone(store) as _;
    Scorer::new(settings, store, Arc::clone(registry), Arc::clone(books))
}

fn calls(
    config: &Config,
    books: &Arc<Books>,
    registry: &Arc<Registry>,
    instruments: &Arc<Instruments>,
    stops: &Stops,
) -> Calls {
    let limits = &config.limits;
    let router = RouterSettings {
        policy: match config.routing.policy {
            ConfiguredPolicy::TwoChoices => Policy::TwoChoices,
            ConfiguredPolicy::Random => Policy::Random,
            ConfiguredPolicy::RoundRobin => Policy::RoundRobin,
        },
        period: Duration::from_secs(u64::from(config.period.length.secs())),
    };
    let vitals = Arc::new(Vitals::default());
    let seed = books.incarnation().0;
    Calls {
        books: Arc::clone(books),
        registry: Arc::clone(registry),
        router: Arc::new(Router::new(router, seed, Arc::clone(&vitals))),
        vitals,
        instruments: Arc::clone(instruments),
        deliveries: Arc::new(Measures::default()),
        settings: ArcSwap::from_pointee(call_settings(config)),
        trace: TraceSettings {
            ratio: config.telemetry.trace_ratio,
            slow: config.telemetry.trace_slow,
        },
        waiting: Waiting::new(limits.waiting_per_task_max),
        shapes: Shapes::default(),
        checks: Arc::default(),
        retries: ArcSwap::from_pointee(retries(limits)),
        capacity: ArcSwap::default(),
        running: TaskTracker::new(),
        cut: stops.cut.clone(),
        epoch: Instant::now(),
    }
}

/// How long after its end a period is waited for: until the last call that was admitted in it
/// has ended, and a while longer.
pub(super) fn grace(config: &Config) -> Duration {
    config.longest_call() + config.period.grace
}

pub(super) fn call_settings(config: &Config) -> CallSettings {
    let limits = &config.limits;
    CallSettings {
        wait: limits.wait,
        waiting_max: limits.waiting_per_task_max,
        attempts_max: limits.attempts_max as usize,
        progress_every: limits.progress,
        slow_consumer: limits.slow_consumer,
        record_wait: config.store.record_wait,
        ..CallSettings::default()
    }
}

/// At least ten retries a second, so that a quiet gateway can retry at all.
#[expect(clippy::cast_possible_truncation, reason = "a configured part of one")]
pub(super) fn retries(limits: &Limits) -> TpsBudget {
    TpsBudget::new(Duration::from_secs(10), 10, limits.retry_budget as f32)
}

/// Binds the listeners and starts to serve; health says NOT_SERVING until the rest runs.
pub(super) async fn open_doors(config: Arc<Config>, parts: Parts) -> Result<Gateway, StartError> {
    let (public, public_at) = listen(config.listen.public).await?;
    let (peer, peer_at) = listen(config.listen.peer).await?;
    let (admin, admin_at) = listen(config.listen.admin).await?;
    let certificates = Certificates::load(&config)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health
            .set_service_status(service, tonic_health::ServingStatus::NotServing)
            .await;
    }
    let signer = CallSigner::new(Arc::clone(&parts.keypair), Arc::clone(&parts.clock));
    let own = vec![public_at, peer_at, admin_at];
    let miners = Miners::new(&config, signer, own, certificates.miners.clone());
    let decode_max = config.limits.request_bytes_max;
    let routes = public_routes(&parts, (miners, decode_max), health_service)?;
    let supervisor = Supervisor::default();
    let settings = door_settings(&config, "public");
    let tokens = (&parts.stops.accept, &parts.stops.gone);
    let shards = Shards::start(
        shards(&config),
        settings,
        &parts.instruments,
        tokens,
        routes,
    );
    let shards = Arc::new(shards.map_err(StartError::Shard)?);
    let settings = door_settings(&config, "peer");
    let peers = Shards::start(1, settings, &parts.instruments, tokens, peer_routes(&parts));
    let peers = Arc::new(peers.map_err(StartError::Shard)?);
    let accepting = [
        (&shards, public, &certificates.public),
        (&peers, peer, &certificates.peer),
    ];
    for (door, listener, tls) in accepting {
        let (accepting, tls, stop) = (Arc::clone(door), tls.clone(), parts.stops.accept.clone());
        let accept = async move { accepting.accept(listener, tls, stop).await };
        supervisor.spawn("accept", &parts.stops.accept, accept);
        let (dead, stop) = (door.dead().clone(), parts.stops.accept.clone());
        let threads = async move {
            stop.run_until_cancelled(dead.cancelled()).await;
        };
        supervisor.spawn("shards", &parts.stops.accept, threads);
    }
    let stop = &parts.stops.control;
    certificates.follow(&supervisor, stop);
    let admin_state = Admin::new(
        &parts.instruments,
        sources(&parts),
        Arc::clone(&parts.scorer),
    );
    let admin = crate::admin::serve(admin, admin_state, stop.clone());
    supervisor.spawn("admin", stop, admin);
    let addresses = Addresses {
        public: public_at,
        peer: peer_at,
        admin: admin_at,
    };
    Ok(finish(
        config,
        parts,
        (addresses, health),
        (vec![shards, peers], supervisor),
    ))
}

/// What operators are shown of.
fn sources(parts: &Parts) -> Sources {
    Sources {
        hotkey: parts.keypair.hotkey(),
        calls: Arc::clone(&parts.calls),
        store: Arc::clone(&parts.store) as _,
        due: parts.desk.clone().map(|desk| desk as _),
        scores: Some(Arc::clone(&parts.scorer) as _),
    }
}

fn finish(
    config: Arc<Config>,
    parts: Parts,
    (addresses, health): (Addresses, HealthReporter),
    (doors, supervisor): (Vec<Arc<Shards>>, Supervisor),
) -> Gateway {
    let own = parts.keypair.hotkey();
    let enrolment = Enrolment::new(Arc::clone(&config), own, Arc::clone(&parts.registry));
    Gateway {
        config,
        addresses,
        enrolment: Arc::new(enrolment),
        keypair: parts.keypair,
        store: parts.store,
        books: parts.books,
        registry: parts.registry,
        calls: parts.calls,
        checks: parts.checks,
        keys: parts.keys,
        instruments: parts.instruments,
        scorer: parts.scorer,
        desk: parts.desk,
        bursts: parts.bursts,
        news: parts.news,
        health,
        doors,
        supervisor,
        stops: parts.stops,
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address, error };
    let listener = bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((listener, at))
}

/// One shard a core, unless configured.
fn shards(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.gateway.shards.unwrap_or(cores)
}

pub(super) fn door_settings(config: &Config, listener: &'static str) -> DoorSettings {
    DoorSettings {
        listener,
        connections_max: config.limits.connections_max,
        connections_per_address_max: config.limits.connections_per_address_max,
        streams_max: config.limits.streams_per_connection_max,
        handshake: config.limits.handshake,
        // A body of the largest size, on a slow line.
        body: config.limits.handshake * 2,
        helper: HELPER,
        header_bytes_max: config.limits.header_bytes_max,
        age: config.limits.connection_age,
        last_call: config.longest_call() + config.limits.slow_consumer * 2,
        keepalive: config.limits.keepalive,
        keepalive_timeout: config.limits.keepalive_timeout,
    }
}

/// Makes a shard's public service: the gate in front, so that nothing runs for a request
/// that is not let in; behind it inference, health and reflection.
fn public_routes<H>(
    parts: &Parts,
    (miners, decode_max): (Miners, usize),
    health: tonic_health::pb::health_server::HealthServer<H>,
) -> Result<impl Fn() -> crate::front_door::gate::Gated<Routes> + Clone + Send + 'static, StartError>
where
    H: tonic_health::pb::health_server::Health,
{
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // No service has these in its messages; tools look them up to show a refusal.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let (reflection, older) = (descriptors().build_v1()?, descriptors().build_v1alpha()?);
    let gate = Gate::new(Arc::clone(&parts.keys), Arc::clone(&parts.clock));
    let (calls, store) = (Arc::clone(&parts.calls), Arc::clone(&parts.store));
    let checks = parts.checks.clone();
    Ok(move || {
        // Each shard has its own connections to miners.
        let pool = Arc::new(miners.pool());
        checks.lanes.open(&calls, &pool);
        let receipts = Arc::new(StoreReceipts(Arc::clone(&store)));
        let judge = Arc::clone(&checks.judge);
        let inference = Inference::new(Arc::clone(&calls), pool, receipts, judge);
        let inference =
            InferenceServiceServer::new(inference).max_decoding_message_size(decode_max);
        let routes = Routes::new(inference)
            .add_service(health.clone())
            .add_service(reflection.clone())
            .add_service(older.clone());
        gate.layer(routes)
    })
}

/// Makes the peer service: signatures in front, capacity and reports behind.
fn peer_routes(
    parts: &Parts,
) -> impl Fn() -> crate::front_door::signed::SignedService<Routes> + Clone + Send + 'static {
    let nonces = Arc::clone(&parts.store) as Arc<dyn NonceStore>;
    let signed = Signed::new(CallVerifier::new(
        parts.keypair.hotkey(),
        Arc::clone(&parts.clock),
        nonces,
        Arc::new(Callers {
            registry: Arc::clone(&parts.registry),
            readers: Arc::clone(&parts.readers),
        }),
    ));
    let consumption = Consumption::new(Reports {
        store: Arc::clone(&parts.store) as _,
        books: Arc::clone(&parts.books),
        readers: Arc::clone(&parts.readers),
        due: parts.desk.clone().map(|desk| desk as _),
        scorer: Arc::clone(&parts.scorer),
        judge: Arc::clone(&parts.checks.judge),
        findings: Arc::clone(&parts.store) as _,
        news: parts.news.clone(),
        stop: parts.stops.accept.clone(),
    });
    let capacity = Capacity::new(
        parts.keypair.hotkey(),
        Arc::clone(&parts.books),
        Arc::clone(&parts.registry),
        parts.stops.accept.clone(),
    );
    move || {
        let routes = Routes::new(CapacityServiceServer::new(capacity.clone()));
        let reports = ConsumptionServiceServer::new(consumption.clone());
        signed.layer(routes.add_service(reports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;

    #[test]
    fn no_call_is_cut_with_its_old_connection_not_even_of_a_task_that_a_miner_opened() {
        let config = Config::development();
        assert_eq!(config.tasks.len(), 0);
        let opened = Task::open_chat("model".into()).limits.total;
        let longest = door_settings(&config, "public").last_call;
        assert!(longest > opened, "{longest:?} for calls of {opened:?}");
    }
}
