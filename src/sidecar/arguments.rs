//! The command line of a sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::declare::Announce;
use super::declare::grpc::{GrpcGateway, NoAddress};
use super::model::{Model, ModelError};
use super::openai::{OpenAiServer, ServerError};
use super::simulated::{SimulatedModel, Simulation};
use super::{ServedTask, SidecarSettings};
use crate::clock::SharedClock;
use crate::identity::call::CallSigner;
use crate::identity::hotkey::{KeyFileError, Keypair, SecretError};

/// Serves a model to gateways as a miner.
#[derive(Args, Clone, Debug)]
pub struct MinerArgs {
    /// Where to listen for gateways
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50061")]
    pub listen: SocketAddr,
    /// Where gateways reach this miner; where it listens, if not given
    #[arg(long, value_name = "http://HOST:PORT")]
    pub endpoint: Option<String>,
    /// A gateway to declare to, at its peer address; may be repeated
    #[arg(
        long = "gateway",
        value_name = "http://HOST:PORT",
        default_value = "http://127.0.0.1:50052"
    )]
    pub gateways: Vec<String>,
    /// The hotkey's file; made if it is not there
    #[arg(long, value_name = "FILE", default_value = "taugate-miner-hotkey.json")]
    pub key: PathBuf,
    /// A public development key instead, such as //Alice; never for real work
    #[arg(long, value_name = "NAME", hide = true)]
    pub development_key: Option<String>,
    /// A task to do, with the server's name of its model if that differs; may be repeated.
    /// Without it, each model of the server is a task
    #[arg(long = "task", value_name = "TASK[=MODEL]")]
    pub tasks: Vec<String>,
    /// Units an hour to declare for each task
    #[arg(long, value_name = "UNITS", default_value_t = 1_000_000)]
    pub units_per_hour: u64,
    /// Requests at once, over all tasks
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: u32,
    /// Seconds that running answers get once it stops
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub drain_s: u64,
    /// The OpenAI-compatible server that has the models
    #[arg(
        long = "model",
        value_name = "http://HOST:PORT",
        required_unless_present = "simulate"
    )]
    pub server: Option<String>,
    /// Simulate the models instead, for demonstrations and load
    #[arg(long, conflicts_with = "server", requires = "tasks")]
    pub simulate: bool,
    /// The key that the server asks for
    #[arg(
        long,
        env = "TAUGATE_SERVER_KEY",
        hide_env_values = true,
        requires = "server"
    )]
    pub server_key: Option<String>,
    /// How simulated models behave.
    #[command(flatten)]
    pub simulation: SimulationArgs,
}

/// How simulated models behave.
#[derive(Args, Clone, Copy, Debug)]
pub struct SimulationArgs {
    /// Simulated: pace of an answer, tokens a second; 0: at once
    #[arg(long, default_value_t = 80.0)]
    pub tokens_per_s: f64,
    /// Simulated: part of the answers that break off, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    pub failure_rate: f64,
    /// Simulated: part of the answers that stand still, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    pub hang_rate: f64,
    /// Simulated: seeds texts and faults
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Why arguments make no sidecar.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// The key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The development key's name.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The model server's address.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The model server does not say what it has.
    #[error("the model server does not list its models; name them with --task")]
    Models(#[source] ModelError),
    /// A gateway's address.
    #[error("--gateway {0}: not http://host:port")]
    Gateway(String, #[source] NoAddress),
    /// Simulated models have no list.
    #[error("name at least one --task to simulate")]
    NoTask,
}

// === impl MinerArgs ===

impl MinerArgs {
    /// What they say, once the model server told what it has.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub async fn settings(self, clock: SharedClock) -> Result<SidecarSettings, ArgumentError> {
        let keypair = Arc::new(self.keypair()?);
        let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
        let tasks = self.served().await?;
        let gateways = self.gateways.into_iter().map(|address| {
            let gateway = GrpcGateway::new(&address, signer.clone());
            let gateway = gateway.map_err(|error| ArgumentError::Gateway(address, error))?;
            Ok(Arc::new(gateway) as Arc<dyn Announce>)
        });
        Ok(SidecarSettings {
            listen: self.listen,
            endpoint: self.endpoint,
            tasks,
            concurrency: self.concurrency,
            gateways: gateways.collect::<Result<_, ArgumentError>>()?,
            keypair,
            clock,
            drain: Duration::from_secs(self.drain_s),
        })
    }

    fn keypair(&self) -> Result<Keypair, ArgumentError> {
        match &self.development_key {
            Some(name) if name.starts_with("//") => return Ok(Keypair::from_secret(name)?),
            // A secret on a command line is everybody's on the machine.
            Some(_) => return Err(SecretError::Form.into()),
            None => {}
        }
        if !self.key.exists() {
            let made = Keypair::generate()?;
            made.save(&self.key)?;
            tracing::info!(hotkey = %made.hotkey(), file = %self.key.display(), "made a hotkey");
        }
        Ok(Keypair::load(&self.key)?)
    }

    async fn served(&self) -> Result<Vec<ServedTask>, ArgumentError> {
        let named = self.tasks.iter().map(|task| {
            let (task, model) = task.split_once('=').unwrap_or((task, task));
            (task.to_owned(), model.to_owned())
        });
        let mut named: Vec<(String, String)> = named.collect();
        let server = match &self.server {
            Some(base) => Some(OpenAiServer::new(base, self.server_key.as_deref())?),
            None => None,
        };
        if let Some(server) = server.as_ref().filter(|_| named.is_empty()) {
            let models = server.models().await.map_err(ArgumentError::Models)?;
            named = models
                .into_iter()
                .map(|model| (model.clone(), model))
                .collect();
        }
        if named.is_empty() {
            return Err(ArgumentError::NoTask);
        }
        let served = named.into_iter().map(|(task, model)| ServedTask {
            task: task.into(),
            model: match &server {
                Some(server) => Arc::new(server.model(&model)) as Arc<dyn Model>,
                None => Arc::new(SimulatedModel::new(self.simulation.simulation())),
            },
            units_per_hour: self.units_per_hour,
        });
        Ok(served.collect())
    }
}

// === impl SimulationArgs ===

impl SimulationArgs {
    fn simulation(self) -> Simulation {
        Simulation {
            tokens_per_s: self.tokens_per_s,
            failure_rate: self.failure_rate,
            hang_rate: self.hang_rate,
            seed: self.seed,
            ..Simulation::default()
        }
    }
}
