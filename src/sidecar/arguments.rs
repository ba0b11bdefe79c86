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
use super::sessions::Validators;
use super::simulated::{SimulatedModel, Simulation};
use super::{ServedTask, SidecarSettings};
use crate::clock::SharedClock;
use crate::identity::call::CallSigner;
use crate::identity::hotkey::{Hotkey, KeyFileError, Keypair, SecretError};
use crate::identity::tls::{ClientFiles, ClientTls, ServerFiles, ServerTls, Tls, TlsError};

/// Requests at once of a server that does not say: few enough for one on a laptop.
const CONCURRENCY: u32 = 4;

/// Requests at once of simulated models.
const CONCURRENCY_SIMULATED: u32 = 16;

/// Units a second that one request is trusted to make. Small models on one core make 20, a
/// large one under load on a good machine no less than this; too little is asked less often,
/// too much fails.
const UNITS_PER_S: u32 = 5;

/// Between two attempts to learn what a model server has.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// Serves a model to gateways as a miner.
#[derive(Args, Clone, Debug)]
pub struct MinerArgs {
    /// Where to listen for gateways
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50061")]
    pub listen: SocketAddr,
    /// Where gateways reach this miner; where it listens, if not given
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// A gateway to declare to, at its peer address; may be repeated
    #[arg(
        long = "gateway",
        value_name = "URL",
        default_value = "http://127.0.0.1:50052"
    )]
    pub gateways: Vec<String>,
    /// The hotkey (ss58) of a validator that may call; may be repeated. Without it those whose
    /// gateways this miner declares to may, as the gateways name themselves; and on loopback
    /// anyone
    #[arg(long = "validator", value_name = "HOTKEY")]
    pub validators: Vec<Hotkey>,
    /// The certificates (PEM, its own first) that this miner shows to gateways that connect, and
    /// to gateways that ask for one. A changed file counts at once
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// The private key that goes with --cert-file (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// Let only those gateways connect that show a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub client_ca_file: Option<PathBuf>,
    /// Trust gateways behind https by these authorities (PEM) in place of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
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
    /// Units an hour to declare for each task; if not given, a cautious guess: 5 a second for
    /// each request at once, or what a simulated model makes
    #[arg(long, value_name = "UNITS")]
    pub units_per_hour: Option<u64>,
    /// Requests at once, over all tasks; if not given, as many as the server says that it
    /// works on at once, or 4, or 16 when simulated
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: Option<u32>,
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
    /// Write logs as JSON
    #[arg(long)]
    pub json_logs: bool,
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
    /// Simulated: pace of reading the prompt, tokens a second; 0: at once
    #[arg(long, default_value_t = 4000.0)]
    pub prefill_tokens_per_s: f64,
    /// Simulated: pause before each answer, milliseconds
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u32,
    /// Simulated: tokens that prompt and answer may have together; 0: any number
    #[arg(long, default_value_t = 0)]
    pub context_tokens: u32,
    /// Simulated: part of the answers that break off, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = part)]
    pub failure_rate: f64,
    /// Simulated: part of the answers that stand still, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = part)]
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
    /// A certificate, key or authority.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A gateway's address.
    #[error("--gateway {0}: not http://host:port or https://host:port")]
    Gateway(String, #[source] NoAddress),
    /// Simulated models have no list, and a server's may be empty.
    #[error("there is no model: name at least one --task")]
    NoTask,
    /// Gateways cannot connect to every address of a machine.
    #[error(
        "--listen {0} is no address to connect to: say with --endpoint where gateways reach it"
    )]
    Endpoint(SocketAddr),
}

// === impl MinerArgs ===

impl MinerArgs {
    /// What they say, once the model server told what it has.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub async fn settings(self, clock: SharedClock) -> Result<SidecarSettings, ArgumentError> {
        if self.listen.ip().is_unspecified() && self.endpoint.is_none() {
            return Err(ArgumentError::Endpoint(self.listen));
        }
        let keypair = Arc::new(self.keypair()?);
        let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
        let server = match &self.server {
            Some(base) => Some(OpenAiServer::new(base, self.server_key.as_deref())?),
            None => None,
        };
        let (tls, gateways) = (self.tls()?, self.gateways(&signer)?);
        let named = self.named(server.as_ref()).await?;
        let concurrency = self.concurrency(server.as_ref()).await;
        Ok(SidecarSettings {
            tasks: self.served(named, server.as_ref(), concurrency),
            listen: self.listen,
            validators: Arc::new(self.validators()),
            tls,
            endpoint: self.endpoint,
            concurrency,
            gateways,
            keypair,
            clock,
            drain: Duration::from_secs(self.drain_s),
        })
    }

    /// What gateways are shown that connect.
    fn tls(&self) -> Result<Option<ServerTls>, TlsError> {
        let files = self.cert_file.clone().zip(self.key_file.clone());
        let files = files.map(|(cert, key)| ServerFiles {
            cert,
            key,
            client_ca: self.client_ca_file.clone(),
        });
        files.map(Tls::load).transpose()
    }

    fn gateways(&self, signer: &CallSigner) -> Result<Vec<Arc<dyn Announce>>, ArgumentError> {
        let tls: ClientTls = Tls::load(ClientFiles {
            ca: self.ca_file.clone(),
            own: self.cert_file.clone().zip(self.key_file.clone()),
        })?;
        let gateways = self.gateways.iter().map(|address| {
            let gateway = GrpcGateway::trusting(address, signer.clone(), tls.clone());
            let gateway =
                gateway.map_err(|error| ArgumentError::Gateway(address.clone(), error))?;
            Ok(Arc::new(gateway) as Arc<dyn Announce>)
        });
        gateways.collect()
    }

    fn validators(&self) -> Validators {
        if !self.validators.is_empty() {
            Validators::listed(self.validators.iter().copied().collect())
        } else if self.listen.ip().is_loopback() {
            tracing::info!("DEVELOPMENT: whoever is on this machine can use the model");
            Validators::anyone()
        } else {
            Validators::learned()
        }
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

    /// Tasks and the models that do them.
    async fn named(
        &self,
        server: Option<&OpenAiServer>,
    ) -> Result<Vec<(String, String)>, ArgumentError> {
        let named = self.tasks.iter().map(|task| {
            let (task, model) = task.split_once('=').unwrap_or((task, task));
            (task.to_owned(), model.to_owned())
        });
        let mut named: Vec<(String, String)> = named.collect();
        if let Some(server) = server.filter(|_| named.is_empty()) {
            let models = listed(server).await.map_err(ArgumentError::Models)?;
            let models = models.into_iter().map(|model| (model.clone(), model));
            named = models.collect();
        }
        if named.is_empty() {
            return Err(ArgumentError::NoTask);
        }
        Ok(named)
    }

    async fn concurrency(&self, server: Option<&OpenAiServer>) -> u32 {
        match (self.concurrency, server) {
            (Some(given), _) => given,
            (None, Some(server)) => server.slots().await.unwrap_or(CONCURRENCY),
            (None, None) => CONCURRENCY_SIMULATED,
        }
    }

    fn served(
        &self,
        named: Vec<(String, String)>,
        server: Option<&OpenAiServer>,
        concurrency: u32,
    ) -> Vec<ServedTask> {
        let guess = self.units_per_s(server.is_some()) * f64::from(concurrency) * 3600.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a guess; what is out of range becomes the nearest that is not"
        )]
        let guess = guess as u64;
        let units_per_hour = self.units_per_hour.unwrap_or(guess);
        tracing::info!(
            concurrency,
            units_per_hour,
            "what is declared for each task"
        );
        let served = named.into_iter().map(|(task, model)| ServedTask {
            task: task.into(),
            model: match server {
                Some(server) => Arc::new(server.model(&model)) as Arc<dyn Model>,
                None => Arc::new(SimulatedModel::new(self.simulation.simulation())),
            },
            units_per_hour,
        });
        served.collect()
    }

    /// A simulated token is a unit, more or less. One without a pace is as fast as the
    /// machine: a thousand a second is nothing to it.
    fn units_per_s(&self, has_server: bool) -> f64 {
        match self.simulation.tokens_per_s {
            _ if has_server => f64::from(UNITS_PER_S),
            pace if pace > 0.0 => pace,
            _ => 1000.0,
        }
    }
}

/// A part of a whole, as an argument.
fn part(text: &str) -> Result<f64, String> {
    let part = text.parse::<f64>().ok();
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// The models of a server, which may be starting still.
async fn listed(server: &OpenAiServer) -> Result<Vec<String>, ModelError> {
    loop {
        match server.models().await {
            Err(error @ (ModelError::Away | ModelError::Busy)) => {
                tracing::warn!(server = server.base(), %error, "waiting for the model server");
                tokio::time::sleep(LIST_AGAIN).await;
            }
            listed => return listed,
        }
    }
}

// === impl SimulationArgs ===

impl SimulationArgs {
    fn simulation(self) -> Simulation {
        Simulation {
            tokens_per_s: self.tokens_per_s,
            prefill_tokens_per_s: self.prefill_tokens_per_s,
            delay: Duration::from_millis(self.delay_ms.into()),
            context_tokens: self.context_tokens,
            failure_rate: self.failure_rate,
            hang_rate: self.hang_rate,
            seed: self.seed,
            ..Simulation::default()
        }
    }
}
