//! Connections to miners: one per miner in each shard's pool, opened when it is first
//! needed and closed when it was idle for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

use super::outcome::DispatchError;
use crate::registry::snapshot::Miner;

/// How connections to miners behave.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// To connect, TCP and HTTP/2 together.
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
    settings: PoolSettings,
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
    /// When it failed, and where.
    failed: Option<(Instant, http::Uri)>,
}

#[derive(Clone, Debug)]
struct Open {
    endpoint: http::Uri,
    sender: http2::SendRequest<Body>,
}

/// A connection as a tower service, for the generated client.
#[derive(Clone, Debug)]
pub(super) struct Connection(http2::SendRequest<Body>);

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
    pub fn new(settings: PoolSettings) -> Self {
        Self {
            settings,
            slots: Mutex::new(HashMap::new()),
        }
    }

    /// How the connections behave.
    #[must_use]
    pub const fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// A connection to a miner, opened now if there is none.
    ///
    /// # Errors
    /// When it cannot be opened within the limit.
    pub(super) async fn connection(&self, miner: &Miner) -> Result<Connection, DispatchError> {
        let slot = self.slot(&miner.hotkey);
        let asked = Instant::now();
        *slot.used.lock() = asked;
        let mut last = slot.connection.lock().await;
        if let Some(held) = last.open.as_ref() {
            // A miner that moved must not get calls at its old address.
            if held.endpoint == miner.endpoint && !held.sender.is_closed() {
                return Ok(Connection(held.sender.clone()));
            }
        }
        // Those who waited while an attempt failed would each wait for one more, in a row.
        let shared = last.failed.as_ref();
        if shared.is_some_and(|(at, where_to)| *at >= asked && *where_to == miner.endpoint) {
            return Err(DispatchError::Unreachable);
        }
        *last = Attempted::default();
        let connecting = connect(&miner.endpoint, &self.settings);
        let connected = tokio::time::timeout(self.settings.connect, connecting).await;
        let Ok(Ok(sender)) = connected else {
            last.failed = Some((Instant::now(), miner.endpoint.clone()));
            return Err(DispatchError::Unreachable);
        };
        last.open = Some(Open {
            endpoint: miner.endpoint.clone(),
            sender: sender.clone(),
        });
        drop(last);
        Ok(Connection(sender))
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
) -> Result<http2::SendRequest<Body>, DispatchError> {
    let plain = endpoint.scheme() == Some(&http::uri::Scheme::HTTP);
    let host = endpoint
        .host()
        .filter(|_| plain)
        .ok_or(DispatchError::Unreachable)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = endpoint.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|_| DispatchError::Unreachable)?;
    stream
        .set_nodelay(true)
        .map_err(|_| DispatchError::Unreachable)?;
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

// === impl Connection ===

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Body>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sending = self.0.send_request(request);
        async move {
            let response = sending.await?;
            Ok(response.map(Body::new))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
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
        let pool = Pool::new(PoolSettings {
            connect: Duration::from_millis(300),
            ..PoolSettings::default()
        });
        let miner = Miner {
            hotkey: "miner".into(),
            number: 0,
            endpoint: format!("http://{address}").parse().unwrap(),
        };
        let begun = Instant::now();
        let calls = std::iter::repeat_with(|| pool.connection(&miner)).take(5);
        for reached in futures_util::future::join_all(calls).await {
            assert_eq!(reached.err(), Some(DispatchError::Unreachable));
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(900), "{took:?}");
    }
}
