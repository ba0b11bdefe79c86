//! `[drain]`: how a gateway stops.

use std::time::Duration;

use super::field::{Fields, Section};
use super::slot::Seconds;

/// What balancers need to see that it is no longer ready.
const DELAY: Duration = Duration::from_secs(5);

/// Streams end in two minutes, or were not going to.
const DEADLINE: Duration = Duration::from_secs(120);

/// How a gateway stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long it still accepts after it said that it is not ready.
    pub delay: Duration,
    /// How long running streams may go on after that.
    pub deadline: Duration,
}

// === impl Drain ===

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: DELAY,
            deadline: DEADLINE,
        }
    }
}

impl Section for Drain {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "delay_s",
            "After SIGTERM it says that it is not ready and goes on accepting this long, so that \
             balancers turn away first.",
            &mut Seconds(&mut self.delay, 0..=300),
        );
        fields.field(
            "deadline_s",
            "How long running streams may go on after that; then they end with DRAINING and what \
             was delivered is booked.",
            &mut Seconds(&mut self.deadline, 0..=3600),
        );
    }
}
