//! TLS of a listener: a certificate that can be replaced while connections live.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A listener's certificate and key.
#[derive(Clone, Debug)]
pub struct Tls {
    cert_file: Arc<PathBuf>,
    key_file: Arc<PathBuf>,
    config: Arc<ArcSwap<ServerConfig>>,
}

/// Why a certificate was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM.
    #[error("cannot read {file}: {error}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not fit together.
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

// === impl Tls ===

impl Tls {
    /// Loads a certificate chain and its key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not fit together.
    pub fn load(cert_file: PathBuf, key_file: PathBuf) -> Result<Self, TlsError> {
        let config = Arc::new(ArcSwap::from_pointee(config(&cert_file, &key_file)?));
        Ok(Self {
            cert_file: Arc::new(cert_file),
            key_file: Arc::new(key_file),
            config,
        })
    }

    /// Reads the files again; new connections get what they hold now.
    ///
    /// # Errors
    /// As [`Tls::load`]; the old certificate then stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config
            .store(Arc::new(config(&self.cert_file, &self.key_file)?));
        Ok(())
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.load_full())
            .accept(stream)
            .await
    }
}

fn config(cert_file: &PathBuf, key_file: &PathBuf) -> Result<ServerConfig, TlsError> {
    let failed = |file: &PathBuf, error| TlsError::File {
        file: file.clone(),
        error,
    };
    let chain = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(cert_file, error))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| failed(key_file, error))?;
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
