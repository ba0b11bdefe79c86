//! TLS of listeners and of connections: certificates that can be replaced while connections
//! live.
//!
//! Who serves shows a certificate, and may ask for one that a certificate authority of its
//! own signed. Who connects trusts the system's authorities or named ones, and shows a
//! certificate where it has one and is asked.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What a listener shows, and whom it lets in.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Certificates, PEM, the server's own first.
    pub cert: PathBuf,
    /// Their private key, PEM.
    pub key: PathBuf,
    /// Only those connect that show a certificate of these authorities, PEM; `None`: anyone.
    pub client_ca: Option<PathBuf>,
}

/// Whom a connection trusts, and what it shows.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// The authorities that are trusted, PEM; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The certificates to show, and their key, PEM; `None`: none.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// TLS of a listener.
pub type ServerTls = Tls<ServerFiles>;

/// TLS of connections that are opened.
pub type ClientTls = Tls<ClientFiles>;

/// What files say of TLS, read again when they change.
#[derive(Clone, Debug)]
pub struct Tls<F: Files> {
    files: Arc<F>,
    config: Arc<ArcSwap<F::Config>>,
}

/// Files that make a configuration of TLS.
pub trait Files: Clone + Debug + Send + Sync + 'static {
    /// What they make.
    type Config: Debug + Send + Sync + 'static;

    /// All of them.
    fn paths(&self) -> Vec<&Path>;

    /// What they say now.
    ///
    /// # Errors
    /// When one cannot be read, or they do not fit together.
    fn config(&self) -> Result<Self::Config, TlsError>;
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
    /// Nobody could be let in by these.
    #[error("the authorities cannot be used: {0}")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
}

// === impl Tls ===

impl<F: Files> Tls<F> {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not fit together.
    pub fn load(files: F) -> Result<Self, TlsError> {
        let config = Arc::new(ArcSwap::from_pointee(files.config()?));
        let files = Arc::new(files);
        Ok(Self { files, config })
    }

    /// Reads the files again; new connections get what they hold now.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was read before then stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config.store(Arc::new(self.files.config()?));
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
    async fn stamp(&self) -> Vec<Option<Vec<u8>>> {
        let mut stamps = Vec::new();
        for path in self.files.paths() {
            let bytes = tokio::fs::read(path).await.ok();
            stamps.push(bytes.map(|bytes| Sha256::digest(bytes).to_vec()));
        }
        stamps
    }
}

impl ServerTls {
    /// The server's side of a connection that was accepted.
    ///
    /// # Errors
    /// When the other side does not speak TLS, or may not connect.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        acceptor.accept(stream).await
    }
}

impl ClientTls {
    /// The client's side of a connection to a host of that name or address, which its
    /// certificate has to name.
    ///
    /// # Errors
    /// When the other side is not who it should be.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let connector = TlsConnector::from(self.config.load_full());
        connector.connect(name, stream).await
    }
}

// === impl ServerFiles ===

impl Files for ServerFiles {
    type Config = ServerConfig;

    fn paths(&self) -> Vec<&Path> {
        let ca = self.client_ca.iter();
        [&self.cert, &self.key]
            .into_iter()
            .chain(ca)
            .map(PathBuf::as_path)
            .collect()
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let builder =
            ServerConfig::builder_with_provider(crypto()).with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            Some(file) => {
                let roots = Arc::new(authorities(file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, crypto());
                builder.with_client_cert_verifier(verifier.build()?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain(&self.cert)?, key(&self.key)?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

// === impl ClientFiles ===

impl Files for ClientFiles {
    type Config = ClientConfig;

    fn paths(&self) -> Vec<&Path> {
        let own = self.own.iter().flat_map(|(cert, key)| [cert, key]);
        self.ca.iter().chain(own).map(PathBuf::as_path).collect()
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(file) => authorities(file)?,
            None => of_the_system(),
        };
        let builder = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.own {
            Some((cert, file)) => builder.with_client_auth_cert(chain(cert)?, key(file)?)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unread(file: &Path, error: rustls_pki_types::pem::Error) -> TlsError {
    let file = file.to_owned();
    TlsError::File { file, error }
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unread(file, error))
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| unread(file, error))
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in chain(file)? {
        roots.add(authority)?;
    }
    Ok(roots)
}

/// Some of a system's authorities may be odd; those that are not are trusted. Without any,
/// nobody is.
fn of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let tls = Tls::load(ServerFiles {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            client_ca: None,
        });
        let tls = tls.unwrap();
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
