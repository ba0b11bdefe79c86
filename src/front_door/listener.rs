//! Listeners: one acceptor hands connections to shards, each a thread with a runtime of its
//! own. hyper serves them directly, so that limits, age and drain are ours.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{Either, select};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::Inner;
use super::counted::{Connected, Live};
use super::entry::block;
use super::method::Places;
use super::passage::{self, Passage};
use super::seats::{Seat, Seats};
use super::settings::DoorSettings;
use super::slow::{Listened, silence};
use crate::identity::tls::ServerTls;
use crate::telemetry::Instruments;

/// The threads that serve connections.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    threads: Vec<JoinHandle<()>>,
    /// Open connections of all shards.
    open: Gauge,
    addresses: Arc<Seats<IpAddr>>,
    settings: Arc<ArcSwap<DoorSettings>>,
    instruments: Arc<Instruments>,
    /// Cancelled when a thread is gone that should live.
    dead: CancellationToken,
}

/// A shard's thread. Dropped before connections are asked to go, it ended too early.
struct Alive {
    leave: CancellationToken,
    dead: CancellationToken,
}

#[derive(Debug)]
struct Shard {
    connections: mpsc::Sender<Accepted>,
    live: Arc<Live>,
}

#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    tls: Option<ServerTls>,
    from: IpAddr,
    /// Counted from here on, not only once its shard looks at it.
    _counted: Connected,
    _seat: Seat<IpAddr>,
}

/// What a shard's connections share.
#[derive(Clone)]
struct Serving<S> {
    service: S,
    shard: Arc<passage::Shard>,
    settings: Arc<ArcSwap<DoorSettings>>,
    /// Cancelled when connections are asked to go.
    leave: CancellationToken,
    /// Cancelled when they must be gone.
    cut: CancellationToken,
}

/// Accepts waiting for their shard.
const HANDED_MAX: usize = 256;

// === impl Shards ===

impl Shards {
    /// Starts so many shards. `make` builds a shard's service on its own thread.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be started.
    pub fn start<S>(
        count: usize,
        settings: DoorSettings,
        instruments: &Arc<Instruments>,
        tokens: (&CancellationToken, &CancellationToken),
        make: impl Fn() -> S + Clone + Send + 'static,
    ) -> std::io::Result<Self>
    where
        S: Inner,
    {
        let open = instruments.connections(settings.listener);
        let (name, per_address) = (settings.listener, settings.connections_per_address_max);
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let places = Arc::new(Places::default());
        let dead = CancellationToken::new();
        let (mut shards, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count.max(1) {
            let (sender, receiver) = mpsc::channel(HANDED_MAX);
            let live = Arc::new(Live::default());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (make, shard_live) = (make.clone(), Arc::clone(&live));
            let (leave, cut) = (tokens.0.clone(), tokens.1.clone());
            let shard = Arc::new(passage::Shard {
                live: shard_live,
                instruments: Arc::clone(instruments),
                settings: Arc::clone(&settings),
                places: Arc::clone(&places),
            });
            let settings = Arc::clone(&settings);
            let alive = Alive {
                leave: leave.clone(),
                dead: dead.clone(),
            };
            let run = move || {
                let _alive = alive;
                runtime.block_on(async move {
                    let serving = Serving {
                        service: make(),
                        shard,
                        settings,
                        leave,
                        cut,
                    };
                    serve_all(receiver, serving).await;
                });
            };
            let name = format!("{name}-{number}");
            threads.push(std::thread::Builder::new().name(name).spawn(run)?);
            shards.push(Shard {
                connections: sender,
                live,
            });
        }
        Ok(Self {
            shards,
            threads,
            open,
            addresses: Arc::new(Seats::new(per_address)),
            settings,
            instruments: Arc::clone(instruments),
            dead,
        })
    }

    /// Cancelled when a shard's thread is gone before connections were asked to go: new ones
    /// would still be handed to it, as it has the least to do.
    #[must_use]
    pub const fn dead(&self) -> &CancellationToken {
        &self.dead
    }

    /// The listener's name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.settings.load().listener
    }

    /// Changes how connections behave, those that come from now on; those that are open stay
    /// as they are.
    pub fn change(&self, settings: DoorSettings) {
        self.addresses.limit(settings.connections_per_address_max);
        self.settings.store(Arc::new(settings));
    }

    /// Accepts until `stop`; hands each connection to the shard with the fewest live
    /// streams, then the fewest connections.
    pub async fn accept(
        &self,
        listener: TcpListener,
        tls: Option<ServerTls>,
        stop: CancellationToken,
    ) {
        // Out of descriptors, an accept loop without a pause spins.
        const PAUSE: Duration = Duration::from_millis(50);
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, address)) => {
                    let from = block(address.ip());
                    if let Err(error) = self.hand(stream, from, tls.clone()) {
                        self.instruments.accept_errors.inc();
                        tracing::debug!(%error, "a connection was refused");
                    }
                }
                Err(error) => {
                    self.instruments.accept_errors.inc();
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Streams that live, over all shards.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shards.iter().map(|shard| shard.live.streams()).sum()
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        usize::try_from(self.open.get()).unwrap_or(0)
    }

    /// Ends: no more connections come; waits for the threads, whose connections must have
    /// been told to go.
    pub fn join(self) {
        drop(self.shards);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
    }

    fn hand(
        &self,
        stream: tokio::net::TcpStream,
        from: IpAddr,
        tls: Option<ServerTls>,
    ) -> std::io::Result<()> {
        if self.connections() >= self.settings.load().connections_max {
            return Err(std::io::Error::other("too many connections"));
        }
        let seat = self.addresses.take(from);
        let seat = seat.ok_or_else(|| std::io::Error::other("too many of one address"))?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let idlest = self.shards.iter().min_by_key(|shard| shard.live.load());
        let Some(shard) = idlest else { return Ok(()) };
        shard
            .connections
            .try_send(Accepted {
                stream,
                tls,
                from,
                _counted: shard.live.connection(&self.open),
                _seat: seat,
            })
            .map_err(|_| std::io::Error::other("the shard takes no more"))
    }
}

// === impl Alive ===

impl Drop for Alive {
    fn drop(&mut self) {
        if !self.leave.is_cancelled() {
            self.dead.cancel();
        }
    }
}

/// Serves what is handed over, until nothing more is and all is done.
async fn serve_all<S: Inner>(mut connections: mpsc::Receiver<Accepted>, serving: Serving<S>) {
    let tasks = TaskTracker::new();
    while let Some(accepted) = connections.recv().await {
        drop(tasks.spawn(serve(accepted, serving.clone())));
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve<S: Inner>(accepted: Accepted, serving: Serving<S>) {
    let limit = serving.settings.load().handshake;
    let from = accepted.from;
    let Ok(stream) = tokio::net::TcpStream::from_std(accepted.stream) else {
        return;
    };
    match accepted.tls {
        None => drive(stream, from, serving).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(limit, tls.accept(stream)).await {
                drive(stream, from, serving).await;
            }
        }
    }
}

/// Serves a connection to its end; one that says nothing would live for ever.
async fn drive<S: Inner>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: IpAddr,
    serving: Serving<S>,
) {
    let read = Arc::new(AtomicUsize::new(0));
    let silent = silence(Arc::clone(&read), serving.settings.load().handshake);
    tokio::select! {
        () = converse(Listened::new(stream, read), from, serving) => {}
        () = silent => tracing::debug!("a silent connection is closed"),
    }
}

async fn converse<S: Inner>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: IpAddr,
    serving: Serving<S>,
) {
    let settings = **serving.settings.load();
    let service = TowerToHyperService::new(Passage::new(serving.service, serving.shard, from));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams_max)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(settings.header_bytes_max)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(1024)
        .keep_alive_interval(settings.keepalive)
        .keep_alive_timeout(settings.keepalive_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let leaving = async {
        tokio::select! {
            () = serving.leave.cancelled() => {}
            () = tokio::time::sleep(spread(settings.age)) => {}
        }
    };
    tokio::pin!(leaving);
    if let Either::Right(((), mut connection)) = select(connection, leaving).await {
        connection.as_mut().graceful_shutdown();
        // A client that takes nothing keeps bodies from being looked at, so that their own
        // ends are not enough.
        let last_call = serving.settings.load().last_call;
        let gone = tokio::time::timeout(last_call, connection);
        if let Some(Err(_)) = serving.cut.run_until_cancelled(gone).await {
            tracing::debug!("a connection that was asked to go is cut");
        }
    }
}

/// A tenth less or more: connections that came together must not all leave together.
fn spread(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

/// Binds a listener.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> DoorSettings {
        DoorSettings {
            listener: "test",
            connections_max: 1,
            connections_per_address_max: 1,
            streams_max: 100,
            handshake: Duration::from_secs(1),
            body: Duration::from_secs(1),
            helper: Duration::from_secs(1),
            header_bytes_max: 1024,
            age: Duration::from_secs(60),
            last_call: Duration::from_secs(1),
            keepalive: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn n31_a_shard_whose_thread_is_gone_is_told() {
        let (leave, cut) = (CancellationToken::new(), CancellationToken::new());
        let instruments = Arc::new(Instruments::new());
        let make = || -> tonic::service::Routes { panic!("a bug") };
        let dead = Shards::start(1, settings(), &instruments, (&leave, &cut), make).unwrap();
        dead.dead().cancelled().await;

        let make = || tonic::service::Routes::default();
        let shards = Shards::start(1, settings(), &instruments, (&leave, &cut), make).unwrap();
        let dead = shards.dead().clone();
        leave.cancel();
        shards.join();
        assert!(!dead.is_cancelled(), "it was asked to go");
    }
}
