//! Counts live streams and connections. A stream's count lives in its response body, because
//! a handler's future ends at headers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// What a shard has to do.
#[derive(Debug, Default)]
pub struct Live {
    streams: AtomicUsize,
    connections: AtomicUsize,
}

/// A stream that is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Live>);

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Connected(Arc<Live>, Gauge);

// === impl Live ===

impl Live {
    /// Streams that live.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// What decides which shard gets the next connection.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.streams(), self.connections.load(Ordering::Relaxed))
    }

    pub(super) fn stream(self: &Arc<Self>) -> Counted {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    /// Counts a connection of this shard and, in `all`, of its listener.
    pub(super) fn connection(self: &Arc<Self>, all: &Gauge) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        all.inc();
        Connected(Arc::clone(self), all.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.1.dec();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
