//! Certificates of the doors, and how a gateway reaches its miners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use crate::config::Config;
use crate::identity::call::CallSigner;
use crate::identity::tls::{ClientFiles, ClientTls, ServerFiles, ServerTls, Tls, TlsError};
use crate::miner_client::reach::SystemNetwork;
use crate::miner_client::{Caller, Pool, PoolSettings, Reach};

/// What a gateway shows, and whom it trusts.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    /// To clients; `None`: plain text.
    pub(super) public: Option<ServerTls>,
    /// To miners and validators that connect; `None`: plain text.
    pub(super) peer: Option<ServerTls>,
    /// Towards miners that are called.
    pub(super) miners: ClientTls,
}

/// Makes the connections to miners; each shard has its own.
#[derive(Clone, Debug)]
pub(super) struct Miners {
    caller: Arc<Caller>,
    reach: Reach,
    /// Pools that were made.
    made: Arc<AtomicU32>,
}

// === impl Certificates ===

impl Certificates {
    /// Reads the files that are configured.
    ///
    /// # Errors
    /// When one cannot be read, or they do not fit together.
    pub(super) fn load(config: &Config) -> Result<Self, TlsError> {
        let (listen, registry) = (&config.listen, &config.registry);
        let server = |client_ca| match (&listen.cert_file, &listen.key_file) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (cert.clone(), key.clone());
                Tls::load(ServerFiles {
                    cert,
                    key,
                    client_ca,
                })
                .map(Some)
            }
            (None | Some(_), _) => Ok(None),
        };
        let own = registry.miners_cert_file.clone();
        let miners = ClientFiles {
            ca: registry.miners_ca_file.clone(),
            own: own.zip(registry.miners_key_file.clone()),
        };
        Ok(Self {
            public: server(None)?,
            peer: server(listen.peer_client_ca_file.clone())?,
            miners: Tls::load(miners)?,
        })
    }

    /// Takes what the files hold whenever they change.
    pub(super) fn follow(&self, supervisor: &Supervisor, stop: &CancellationToken) {
        for tls in [&self.public, &self.peer].into_iter().flatten() {
            supervisor.spawn("tls", stop, tls.clone().follow(stop.clone()));
        }
        let miners = self.miners.clone().follow(stop.clone());
        supervisor.spawn("tls", stop, miners);
    }
}

// === impl Miners ===

impl Miners {
    /// Miners as they are configured; none is where the gateway itself listens.
    pub(super) fn new(
        config: &Config,
        signer: CallSigner,
        own: Vec<SocketAddr>,
        tls: ClientTls,
    ) -> Self {
        let registry = &config.registry;
        Self {
            caller: Arc::new(Caller::new(signer, registry.unauthenticated_miners)),
            reach: Reach {
                private: config.private_endpoints(),
                own,
                tls: Some(tls),
                network: Arc::new(SystemNetwork),
            },
            made: Arc::default(),
        }
    }

    /// Connections of one shard.
    pub(super) fn pool(&self) -> Pool {
        let (caller, reach) = (Arc::clone(&self.caller), self.reach.clone());
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Pool::numbered(number, PoolSettings::default(), caller, reach)
    }
}
