//! Who may read what.

use std::collections::BTreeSet;

use super::feed::View;
use crate::identity::hotkey::Hotkey;

/// Who may read everything; a miner reads its own.
#[derive(Clone, Debug)]
pub struct Readers {
    /// This gateway's hotkey, which may.
    pub own: Hotkey,
    /// Whether everyone may: for development.
    pub open: bool,
    /// Who else may.
    pub listed: BTreeSet<Hotkey>,
}

// === impl Readers ===

impl Readers {
    /// What a hotkey may see.
    #[must_use]
    pub fn view(&self, hotkey: Hotkey) -> View {
        if self.open || hotkey == self.own || self.listed.contains(&hotkey) {
            View::All
        } else {
            View::Own(hotkey)
        }
    }
}
