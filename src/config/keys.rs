//! `[keys]`: whether clients must show an API key.

use super::field::{Fields, Section};
use super::slot::Flag;

/// What is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Whether every client needs an API key.
    pub required: bool,
}

// === impl Keys ===

impl Default for Keys {
    /// Closed by default.
    fn default() -> Self {
        Self { required: true }
    }
}

impl Section for Keys {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "required",
            "Whether every client needs an API key (`taugate key create`). Without keys the \
             public listener stays on loopback.",
            &mut Flag(&mut self.required),
        );
    }
}
