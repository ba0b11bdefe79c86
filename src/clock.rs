//! Wall time, injected, so that tests can set it. Monotonic time is tokio's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells wall time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Unix time, milliseconds.
    fn unix_ms(&self) -> u64;
}

/// A clock that is shared.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that stands where it is put.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

// === impl SystemClock ===

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the system's clock"
    )]
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that stands at `unix_ms`.
    #[must_use]
    pub const fn at(unix_ms: u64) -> Self {
        Self(AtomicU64::new(unix_ms))
    }

    /// Puts it somewhere else.
    pub fn set(&self, unix_ms: u64) {
        self.0.store(unix_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
