//! The HTTP client of a model server: what is configured is what is asked.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// A client that follows no redirect and asks no proxy: prompts go to the server that was
/// named, and to no other.
pub(super) fn client(tls: ClientConfig) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .redirect(Policy::none())
        .no_proxy()
        .build()
}

/// Trusts what the system trusts.
pub(super) fn with_tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_platform_verifier()?.with_no_client_auth())
}

/// Trusts nobody: for plain HTTP, on systems that may have no certificates.
pub(super) fn without_tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let nobody = RootCertStore::empty();
    Ok(config.with_root_certificates(nobody).with_no_client_auth())
}
