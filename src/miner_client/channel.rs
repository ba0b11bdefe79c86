//! Connections to miners: one per miner in each shard's pool, opened when it is first
//! needed and closed when it was idle for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tonic::body::Body;

use super::outcome::{DispatchError, MinerFault};
use super::reach::Reach;
use super::session::{Caller, Session};
use crate::registry::snapshot::Miner;

/// A miner that did not let this gateway in, or opened no session, is not asked again before
/// this time. Operators fix such things by hand.
const CLOSED: Duration = Duration::from_secs(5);

/// A session that could not be renewed and lasts is not renewed again before this time.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// How connections to miners behave.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// To connect, TCP, TLS and HTTP/2 together; and as long to open a session.
    pub connect: Duration,
    /// A connection without a call for this long is closed.
    pub idle: Duration,
    /// Flow-control window of one stream, bytes.
    pub stream_window: u32,
    /// Flow-control window of a connection, bytes. Large, because unread small frames count
    /// against a connection's budget in h2.
    pub connection_window: u32,
    /// The largest message of a miner, bytes.
    pub message_bytes_max: usize,
    /// A ping is sent after this much silence while streams live.
    pub keepalive: Duration,
    /// A ping unanswered for this long ends the connection.
    pub keepalive_timeout: Duration,
}

/// One shard's connections.
#[derive(Debug)]
pub struct Pool {
    /// Tells the shards' pools apart.
    number: u32,
    settings: PoolSettings,
    caller: Arc<Caller>,
    reach: Reach,
    /// By hotkey. Bounded by the miners that are registered: idle ones are swept.
    slots: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
}

/// The place of one miner's connection. The lock is held while connecting, so that calls
/// that come meanwhile wait for the one attempt and share it.
#[derive(Debug)]
struct Slot {
    connection: tokio::sync::Mutex<Attempted>,
    used: Mutex<Instant>,
}

/// What the last attempt to connect left.
#[derive(Debug, Default)]
struct Attempted {
    open: Option<Open>,
    failed: Option<Failed>,
}

/// An attempt to connect that failed.
#[derive(Debug)]
struct Failed {
    at: Instant,
    endpoint: http::Uri,
    error: DispatchError,
}

/// A connection, and the session on it; `None`: the miner has none.
#[derive(Clone, Debug)]
struct Open {
    endpoint: http::Uri,
    connection: Connection,
    /// When the session is to be renewed.
    renew_at: Option<Instant>,
}

/// What an attempt is sent over.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) sender: http2::SendRequest<Body>,
    pub(super) session: Option<Arc<Session>>,
}

// === impl PoolSettings ===

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            idle: Duration::from_secs(60),
            stream_window: 256 * 1024,
            connection_window: 32 * 1024 * 1024,
            message_bytes_max: 1024 * 1024,
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

// === impl Pool ===

impl Pool {
    /// An empty pool; one for each shard.
    #[must_use]
    pub fn new(settings: PoolSettings, caller: Arc<Caller>, reach: Reach) -> Self {
        Self::numbered(0, settings, caller, reach)
    }

    /// An empty pool of that number.
    #[must_use]
    pub fn numbered(
        number: u32,
        settings: PoolSettings,
        caller: Arc<Caller>,
        reach: Reach,
    ) -> Self {
        Self {
            number,
            settings,
            caller,
            reach,
            slots: Mutex::new(HashMap::new()),
        }
    }

    /// Its number among the shards' pools.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// How the connections behave.
    #[must_use]
    pub const fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// A connection to a miner, opened now if there is none, with a session that lasts a
    /// while and is not `lost`.
    ///
    /// # Errors
    /// When it cannot be opened within the limit.
    pub(super) async fn connection(
        &self,
        miner: &Miner,
        lost: Option<&Arc<Session>>,
    ) -> Result<Connection, DispatchError> {
        let slot = self.slot(&miner.hotkey);
        let asked = Instant::now();
        *slot.used.lock() = asked;
        let mut last = slot.connection.lock().await;
        let reached = match last.open.as_mut().filter(|open| open.reaches(miner)) {
            Some(open) => {
                let kept = self.keep(open, miner, lost).await;
                kept.map(|()| open.connection.clone())
            }
            None => match last.failed.as_ref().filter(|it| it.holds(miner, asked)) {
                Some(failed) => return Err(failed.error),
                None => {
                    *last = Attempted::default();
                    let opened = self.open(miner).await;
                    opened.map(|open| last.open.insert(open).connection.clone())
                }
            },
        };
        if let Err(error) = reached {
            *last = Attempted::failed(miner, error);
        }
        drop(last);
        reached
    }

    /// Connects, and opens a session.
    async fn open(&self, miner: &Miner) -> Result<Open, DispatchError> {
        let within = self.settings.connect;
        let connecting = connect(&miner.endpoint, &self.settings, &self.reach);
        let sender = tokio::time::timeout(within, connecting).await;
        let sender = sender.map_err(|_| DispatchError::Unreachable)??;
        let session = self.caller.open(&sender, miner, within).await?;
        Ok(Open {
            endpoint: miner.endpoint.clone(),
            renew_at: session.as_ref().map(|session| session.renew_at),
            connection: Connection { sender, session },
        })
    }

    /// Sees to it that the session of an open connection lasts a while, and is not the one
    /// that was lost.
    async fn keep(
        &self,
        open: &mut Open,
        miner: &Miner,
        lost: Option<&Arc<Session>>,
    ) -> Result<(), DispatchError> {
        let (Some(session), Some(renew_at)) = (&open.connection.session, open.renew_at) else {
            return Ok(());
        };
        let now = Instant::now();
        let is_lost = lost.is_some_and(|lost| Arc::ptr_eq(lost, session));
        if !is_lost && now < renew_at {
            return Ok(());
        }
        let sender = &open.connection.sender;
        match self.caller.open(sender, miner, self.settings.connect).await {
            Ok(session) => {
                open.renew_at = session.as_ref().map(|session| session.renew_at);
                open.connection.session = session;
                Ok(())
            }
            // The old one is as good as before.
            Err(_) if !is_lost && now < session.ends => {
                open.renew_at = Some(now + RENEW_AGAIN);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Closes what was idle; call it now and then.
    pub fn sweep(&self) {
        let idle = self.settings.idle;
        self.slots.lock().retain(|_, slot| {
            // A slot that a call holds right now has more than the map's reference.
            Arc::strong_count(slot) > 1 || slot.used.lock().elapsed() < idle
        });
    }

    /// How many miners have a slot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// Whether no miner has a slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slot(&self, hotkey: &Arc<str>) -> Arc<Slot> {
        let fresh = || {
            Arc::new(Slot {
                connection: tokio::sync::Mutex::default(),
                used: Mutex::new(Instant::now()),
            })
        };
        Arc::clone(
            self.slots
                .lock()
                .entry(Arc::clone(hotkey))
                .or_insert_with(fresh),
        )
    }
}

/// Opens a connection; its driver ends with the last sender.
async fn connect(
    endpoint: &http::Uri,
    settings: &PoolSettings,
    reach: &Reach,
) -> Result<http2::SendRequest<Body>, DispatchError> {
    let host = endpoint.host().ok_or(DispatchError::Unreachable)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = endpoint.port_u16().ok_or(DispatchError::Unreachable)?;
    let unreached = |_| DispatchError::Unreachable;
    let stream = reach.connect(host, port).await.map_err(unreached)?;
    stream.set_nodelay(true).map_err(unreached)?;
    if endpoint.scheme() == Some(&http::uri::Scheme::HTTPS) {
        let tls = reach.tls.as_ref().ok_or(DispatchError::Unreachable)?;
        greet(
            tls.connect(host, stream).await.map_err(unreached)?,
            settings,
        )
        .await
    } else {
        greet(stream, settings).await
    }
}

/// HTTP/2 over a connection that is open.
async fn greet(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    settings: &PoolSettings,
) -> Result<http2::SendRequest<Body>, DispatchError> {
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .keep_alive_interval(settings.keepalive)
        .keep_alive_timeout(settings.keepalive_timeout)
        .max_header_list_size(16 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| DispatchError::Unreachable)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver ends with the connection's last sender"
    )]
    tokio::spawn(driver.map(drop));
    Ok(sender)
}

// === impl Open ===

impl Open {
    /// A miner that moved must not get calls at its old address.
    fn reaches(&self, miner: &Miner) -> bool {
        self.endpoint == miner.endpoint && !self.connection.sender.is_closed()
    }
}

// === impl Attempted ===

impl Attempted {
    fn failed(miner: &Miner, error: DispatchError) -> Self {
        let failed = Failed {
            at: Instant::now(),
            endpoint: miner.endpoint.clone(),
            error,
        };
        Self {
            open: None,
            failed: Some(failed),
        }
    }
}

// === impl Failed ===

impl Failed {
    /// Whether one who asked at that time shares this failure. Those who waited while it
    /// failed would each wait for one more, in a row.
    fn holds(&self, miner: &Miner, asked: Instant) -> bool {
        let long = match self.error {
            DispatchError::Fault(MinerFault::Closed | MinerFault::Protocol) => CLOSED,
            DispatchError::Unreachable | DispatchError::Fault(_) => Duration::ZERO,
        };
        self.endpoint == miner.endpoint && self.at + long >= asked
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn calls_that_wait_for_one_attempt_share_its_failure() {
        // A listener that accepts nothing: once its queue is full, nobody hears back.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut queued = Vec::new();
        let soon = Duration::from_millis(100);
        while let Ok(stream) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        let settings = PoolSettings {
            connect: Duration::from_millis(300),
            ..PoolSettings::default()
        };
        let clock = Arc::new(crate::clock::SystemClock);
        let key = crate::identity::hotkey::Keypair::from_secret("//Alice").unwrap();
        let signer = crate::identity::call::CallSigner::new(Arc::new(key), clock);
        let pool = Pool::new(
            settings,
            Arc::new(Caller::new(signer, true)),
            Reach::anywhere(),
        );
        let miner = Miner {
            hotkey: "miner".into(),
            number: 0,
            endpoint: format!("http://{address}").parse().unwrap(),
        };
        let begun = Instant::now();
        let calls = std::iter::repeat_with(|| pool.connection(&miner, None)).take(5);
        for reached in futures_util::future::join_all(calls).await {
            assert_eq!(reached.err(), Some(DispatchError::Unreachable));
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(900), "{took:?}");
    }
}
