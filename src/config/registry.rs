//! `[registry]`: who may declare what.

use std::path::PathBuf;

use super::field::{Fields, Section};
use super::slot::{Flag, MaybeFile, MaybeFlag, Texts, Whole};

/// Room for any network there is; each costs a few kilobytes.
const MINERS_MAX: usize = 10_000;

/// As many hotkeys as there may be miners.
const HOTKEYS_MAX: usize = 10_000;

/// Who may declare what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Whether any miner may declare.
    pub open_registration: bool,
    /// Whether a model that a miner declares and no task names becomes a task.
    pub open_tasks: bool,
    /// The file with the metagraph: who is in it may declare.
    pub metagraph: Option<PathBuf>,
    /// The hotkeys of miners that may declare, ss58.
    pub hotkeys: Vec<String>,
    /// Whether miners are asked that open no session.
    pub unauthenticated_miners: bool,
    /// Whether miners may be on this machine and in networks that are not public; `None`: if
    /// only this machine can declare.
    pub private_endpoints: Option<bool>,
    /// The authorities that miners behind TLS are trusted by, PEM; `None`: the system's.
    pub miners_ca_file: Option<PathBuf>,
    /// The certificate that miners are shown that ask for one, PEM.
    pub miners_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub miners_key_file: Option<PathBuf>,
    /// The most miners that are held.
    pub miners_max: usize,
}

// === impl Registry ===

impl Default for Registry {
    /// Closed by default.
    fn default() -> Self {
        Self {
            open_registration: false,
            open_tasks: false,
            metagraph: None,
            hotkeys: Vec::new(),
            unauthenticated_miners: false,
            private_endpoints: None,
            miners_ca_file: None,
            miners_cert_file: None,
            miners_key_file: None,
            miners_max: MINERS_MAX,
        }
    }
}

impl Section for Registry {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "open_registration",
            "Whether any miner may declare capacity. For development: all listeners stay on \
             loopback.",
            &mut Flag(&mut self.open_registration),
        );
        fields.field(
            "open_tasks",
            "Whether a model that a miner declares and no task names becomes a task by itself. \
             For development: all listeners stay on loopback.",
            &mut Flag(&mut self.open_tasks),
        );
        fields.field(
            "metagraph",
            "The file with the chain's metagraph, .json or .csv: hotkey, uid, stake and, if \
             wanted, validator. Who is in it may declare; stakes make the share of every \
             miner, unless gateway.share is set. It is read again when it changes.",
            &mut MaybeFile(&mut self.metagraph, "/var/lib/taugate/metagraph.json"),
        );
        fields.field(
            "hotkeys",
            "The hotkeys (ss58) of miners that may declare, beside those of the metagraph.",
            &mut Texts(&mut self.hotkeys, HOTKEYS_MAX),
        );
        fields.field(
            "unauthenticated_miners",
            "Whether miners are asked that open no signed session: they do not prove who they \
             are, nor know who asks. For development: all listeners stay on loopback. Needs a \
             restart.",
            &mut Flag(&mut self.unauthenticated_miners),
        );
        fields.field(
            "private_endpoints",
            "Whether miners may be on this machine and in networks that are not public. Not \
             set: only while the peer listener is on loopback, with nothing in front of it. \
             Addresses where clouds keep a machine's secrets are never reached. Needs a restart.",
            &mut MaybeFlag(&mut self.private_endpoints),
        );
        fields.field(
            "miners_ca_file",
            "The authorities (PEM) by which miners behind https are trusted. Not set: those of \
             the system. Needs a restart; a changed file is loaded without one.",
            &mut MaybeFile(&mut self.miners_ca_file, "/etc/taugate/miners-ca.crt"),
        );
        fields.field(
            "miners_cert_file",
            "The certificate (PEM) for miners that ask for one. As miners_ca_file.",
            &mut MaybeFile(&mut self.miners_cert_file, "/etc/taugate/client.crt"),
        );
        fields.field(
            "miners_key_file",
            "The private key that goes with miners_cert_file (PEM).",
            &mut MaybeFile(&mut self.miners_key_file, "/etc/taugate/client.key"),
        );
        fields.field(
            "miners_max",
            "The most miners that are held at once; more are refused.",
            &mut Whole(&mut self.miners_max, 1..=100_000),
        );
    }
}
