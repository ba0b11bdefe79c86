//! TLS of a listener: a certificate that can be replaced while connections live.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A listener's certificate and key.
#[derive(Clone, Debug)]
pub struct Tls {
    cert_file: Arc<PathBuf>,
    key_file: Arc<PathBuf>,
    config: Arc<ArcSwap<ServerConfig>>,
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

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

    /// Takes what the files hold whenever they change, until `stop`. What does not fit
    /// together is told once, and the old certificate stays.
    pub async fn follow(self, stop: CancellationToken) {
        let mut seen = self.stamp().await;
        let mut tick = tokio::time::interval(LOOK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let now = self.stamp().await;
            if now == seen {
                continue;
            }
            seen = now;
            match self.reload() {
                Ok(()) => tracing::info!("the certificate was replaced"),
                Err(error) => tracing::error!(%error, "the old certificate stays"),
            }
        }
    }

    /// What the files hold; `None` where one cannot be read.
    async fn stamp(&self) -> [Option<Vec<u8>>; 2] {
        let files = [&*self.cert_file, &*self.key_file];
        let [cert, key] = files.map(tokio::fs::read);
        [cert.await.ok(), key.await.ok()].map(|bytes| bytes.map(|b| Sha256::digest(b).to_vec()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &std::path::Path) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let tls = Tls::load(dir.path().join("cert.pem"), dir.path().join("key.pem")).unwrap();
        let first = tls.config.load_full();
        let mut following = Box::pin(tls.clone().follow(CancellationToken::new()));
        // Paused time passes only once the files were looked at.
        let looks = LOOK * 3;
        assert!(tokio::time::timeout(looks, &mut following).await.is_err());
        assert!(Arc::ptr_eq(&first, &tls.config.load_full()));
        write(dir.path());
        assert!(tokio::time::timeout(looks, &mut following).await.is_err());
        let second = tls.config.load_full();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(dir.path().join("cert.pem"), "broken").unwrap();
        assert!(tokio::time::timeout(looks, &mut following).await.is_err());
        assert!(Arc::ptr_eq(&second, &tls.config.load_full()));
    }
}
