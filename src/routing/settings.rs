//! How routing behaves.

use std::time::Duration;

/// How miners are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Two sampled by what they have left, the cheaper one taken.
    #[default]
    TwoChoices,
    /// Any, with equal chances, whatever its size and load; as Vision 3.0 did. To compare with.
    Random,
    /// One after the other. To compare with.
    RoundRobin,
}

/// How miners are chosen among.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterSettings {
    /// How.
    pub policy: Policy,
    /// How long an allotment has to last.
    pub period: Duration,
}

// === impl RouterSettings ===

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            policy: Policy::TwoChoices,
            period: Duration::from_secs(3600),
        }
    }
}

// === impl Policy ===

impl Policy {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TwoChoices => "two_choices",
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
        }
    }
}
