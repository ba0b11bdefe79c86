//! How the registry behaves.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::metagraph::Metagraph;
use super::share::Share;
use crate::identity::hotkey::Hotkey;

/// Who may declare, and what of it counts here.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Declarations for another network are refused.
    pub network: Arc<str>,
    /// The part of each declaration that belongs to this validator.
    pub share: Share,
    /// Whether any hotkey may declare; otherwise only those that are listed.
    pub open_registration: bool,
    /// Who is registered on the chain: these may declare, too.
    pub metagraph: Option<Arc<Metagraph>>,
    /// The hotkeys that may declare.
    pub hotkeys: BTreeSet<Hotkey>,
    /// Whether a task is made for each model that a miner declares.
    pub open_tasks: bool,
    /// Whether miners may be on this machine and in networks that are not public.
    pub private_endpoints: bool,
    /// Miners at most.
    pub miners_max: usize,
}
