//! `[reports]`: who may read what was consumed.

use super::field::{Fields, Section};
use super::slot::{Flag, Texts};

/// More than any network has validators.
const READERS_MAX: usize = 1000;

/// Who may read what was consumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Whether every hotkey reads everything.
    pub open: bool,
    /// The hotkeys that read everything, ss58. This gateway's own does, too.
    pub readers: Vec<String>,
}

// === impl Reports ===

impl Section for Reports {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "open",
            "Whether every hotkey reads everything. For development: the peer listener stays on \
             loopback.",
            &mut Flag(&mut self.open),
        );
        fields.field(
            "readers",
            "The hotkeys (ss58) that read everything, beside this gateway's own. A miner reads \
             its own cells.",
            &mut Texts(&mut self.readers, READERS_MAX),
        );
    }
}
