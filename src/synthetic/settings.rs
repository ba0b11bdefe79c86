//! How checks are planned.

use super::burst::BurstSettings;
use super::draw::Draws;

/// Who sends checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// This gateway.
    #[default]
    BuiltIn,
    /// A loop of the validator's own, which reads what is due and sends pinned calls.
    External,
    /// Nobody: nothing is drawn, nothing is due.
    Off,
}

/// How checks are planned.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannerSettings {
    /// Who sends them.
    pub mode: Mode,
    /// How much of an allotment is checked.
    pub draws: Draws,
    /// Whether each cell gets a check that ends good, also where organic work covers its
    /// target: who is never checked is never judged.
    pub floor: bool,
    /// The windows in which all are asked at once. Only this gateway's own planner asks in any.
    pub bursts: BurstSettings,
    /// Makes draws and waits repeat, for tests; `None`: the system's randomness.
    pub seed: Option<u64>,
}

// === impl PlannerSettings ===

impl Default for PlannerSettings {
    fn default() -> Self {
        Self {
            mode: Mode::BuiltIn,
            draws: Draws::default(),
            floor: true,
            // A new miner waits for its first burst: whoever wants that says so.
            bursts: BurstSettings::NONE,
            seed: None,
        }
    }
}
