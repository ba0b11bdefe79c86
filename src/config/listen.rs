//! `[listen]`: where clients, miners and operators connect.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::field::{Fields, Section};
use super::slot::{Address, Flag, MaybeFile};

/// The port that gRPC's own examples use: clients try it first.
const PUBLIC_PORT: u16 = 50051;

/// The one after it, so that both are easy to remember.
const PEER_PORT: u16 = 50052;

/// OpenTelemetry's port for metrics that are fetched.
const ADMIN_PORT: u16 = 9464;

/// Where clients, miners and operators connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// For clients.
    pub public: SocketAddr,
    /// For miners and validators.
    pub peer: SocketAddr,
    /// For operators: metrics, health, console; plain HTTP.
    pub admin: SocketAddr,
    /// The certificates of `public` and `peer`, PEM, the server's own first.
    pub cert_file: Option<PathBuf>,
    /// Their private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The authorities whose certificates miners and validators must show, PEM.
    pub peer_client_ca_file: Option<PathBuf>,
    /// Something in front ends TLS, so that plain text here is meant.
    pub tls_terminated_in_front: bool,
}

// === impl Listen ===

impl Listen {
    /// Whether `public` and `peer` speak TLS themselves.
    #[must_use]
    pub const fn has_tls(&self) -> bool {
        self.cert_file.is_some() && self.key_file.is_some()
    }
}

impl Default for Listen {
    fn default() -> Self {
        // Closed by default: only this machine.
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            public: loopback(PUBLIC_PORT),
            peer: loopback(PEER_PORT),
            admin: loopback(ADMIN_PORT),
            cert_file: None,
            key_file: None,
            peer_client_ca_file: None,
            tls_terminated_in_front: false,
        }
    }
}

impl Section for Listen {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "public",
            "Where clients connect. Any other address than loopback needs keys, a hotkey and TLS.",
            &mut Address(&mut self.public),
        );
        fields.field(
            "peer",
            "Where miners and validators connect.",
            &mut Address(&mut self.peer),
        );
        fields.field(
            "admin",
            "Where metrics, health and the console are served, in plain HTTP and to whoever asks.",
            &mut Address(&mut self.admin),
        );
        fields.field(
            "cert_file",
            "Certificates of the public and the peer listener (PEM, the server's own first). \
             A changed file is loaded without a restart.",
            &mut MaybeFile(&mut self.cert_file, "/etc/taugate/tls.crt"),
        );
        fields.field(
            "key_file",
            "The private key that goes with cert_file (PEM).",
            &mut MaybeFile(&mut self.key_file, "/etc/taugate/tls.key"),
        );
        fields.field(
            "peer_client_ca_file",
            "Lets only those connect to the peer listener that show a certificate of these \
             authorities (PEM). A changed file is loaded without a restart.",
            &mut MaybeFile(&mut self.peer_client_ca_file, "/etc/taugate/peers-ca.crt"),
        );
        fields.field(
            "tls_terminated_in_front",
            "Says that a proxy in front ends TLS and that nobody else reaches these ports.",
            &mut Flag(&mut self.tls_terminated_in_front),
        );
    }
}
