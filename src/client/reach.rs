//! How a command reaches its gateway: the arguments that all of them share.

use std::path::PathBuf;

use clap::Args;

use super::{Client, ConnectError};

/// The gateway that is meant, and how to be let in.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// The gateway, http://HOST:PORT or https://HOST:PORT
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        env = "TAUGATE_GATEWAY"
    )]
    pub gateway: String,
    /// The API key
    #[arg(long, env = "TAUGATE_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Over https, trust these certificates (PEM) in place of the system's
    #[arg(long, value_name = "FILE", env = "TAUGATE_CA")]
    pub ca: Option<PathBuf>,
}

// === impl Reach ===

impl Reach {
    /// Connects.
    ///
    /// # Errors
    /// When the arguments are malformed, or nobody answers.
    pub async fn connect(&self) -> Result<Client, ConnectError> {
        let trusted = match &self.ca {
            Some(file) => Some(std::fs::read(file).map_err(|source| {
                let file = file.clone();
                ConnectError::Ca { file, source }
            })?),
            None => None,
        };
        Client::connect_trusting(&self.gateway, self.key.as_deref(), trusted.as_deref()).await
    }
}
