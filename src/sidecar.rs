//! The miner's side: serves models (simulated, or of any OpenAI-compatible server) to
//! gateways and declares what it can do.

pub mod arguments;
pub mod condition;
pub mod declare;
pub mod model;
pub mod openai;
mod prose;
pub mod report;
pub mod serve;
pub mod sessions;
pub mod simulated;
pub mod slots;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::arguments::MinerArgs;
use self::declare::{Announce, Declarer, Offer};
use self::model::{Model, Models};
use self::serve::MinerDoor;
use self::sessions::{Sessions, Validators};
use crate::clock::SharedClock;
use crate::identity::hotkey::Keypair;
use crate::identity::tls::ServerTls;
use crate::proto::v1;
use crate::task::{TaskId, TaskKind};

/// What a sidecar is.
#[derive(Debug)]
pub struct SidecarSettings {
    /// Where it listens for gateways; port 0: any that is free.
    pub listen: SocketAddr,
    /// Where gateways reach it, `http://host:port` or `https://host:port`; `None`: where
    /// it listens.
    pub endpoint: Option<String>,
    /// What it does.
    pub tasks: Vec<ServedTask>,
    /// Requests at once, over all tasks.
    pub concurrency: u32,
    /// The gateways that it declares to.
    pub gateways: Vec<Arc<dyn Announce>>,
    /// Who it is.
    pub keypair: Arc<Keypair>,
    /// Who may call it.
    pub validators: Arc<Validators>,
    /// What it shows to gateways that connect; `None`: plain text.
    pub tls: Option<ServerTls>,
    /// Tells the time of declarations.
    pub clock: SharedClock,
    /// How long running answers may go on once it stops.
    pub drain: Duration,
}

/// A task that a sidecar does.
#[derive(Clone, Debug)]
pub struct ServedTask {
    /// The task's id.
    pub task: TaskId,
    /// What does it.
    pub model: Arc<dyn Model>,
    /// Declared units an hour, over all validators.
    pub units_per_hour: u64,
}

/// A sidecar that listens already.
#[derive(Debug)]
pub struct Sidecar {
    listener: TcpListener,
    address: SocketAddr,
    settings: SidecarSettings,
}

/// Why a sidecar does not run.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Its address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// There is nothing for it to do.
    #[error("a sidecar needs at least one task")]
    NoTask,
    /// Two of its tasks have one id.
    #[error("the task {0} stands twice")]
    TaskTwice(TaskId),
}

// === impl Sidecar ===

impl Sidecar {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the address is taken or the tasks make no sense.
    pub async fn bind(settings: SidecarSettings) -> Result<Self, SidecarError> {
        if settings.tasks.is_empty() {
            return Err(SidecarError::NoTask);
        }
        for (at, served) in settings.tasks.iter().enumerate() {
            let mut before = settings.tasks.iter().take(at);
            if before.any(|other| other.task == served.task) {
                return Err(SidecarError::TaskTwice(Arc::clone(&served.task)));
            }
        }
        let address = settings.listen;
        let failed = |source| SidecarError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            settings,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`: then it withdraws, ends what runs, and is done.
    pub async fn run(self, stop: CancellationToken) {
        let models: Models = self
            .settings
            .tasks
            .iter()
            .map(|served| (Arc::clone(&served.task), Arc::clone(&served.model)))
            .collect();
        let concurrency = usize::try_from(self.settings.concurrency).unwrap_or(usize::MAX);
        let sessions = Sessions::new(
            Arc::clone(&self.settings.keypair),
            Arc::clone(&self.settings.clock),
            Arc::clone(&self.settings.validators),
        );
        let door = MinerDoor::new(models, concurrency).in_sessions(Arc::new(sessions));
        let declarer = Declarer::new(self.offer(door.clone()), Arc::clone(&self.settings.clock));
        let looking = door.clone();
        // The door stays open until gateways know: a call that is turned away costs them an
        // attempt.
        let withdrawn = CancellationToken::new();
        let stopping = async {
            stop.cancelled().await;
            looking.conditions().drain();
        };
        let declaring = async {
            let gateways = self.settings.gateways.iter();
            join_all(gateways.map(|gateway| declarer.run(gateway.as_ref(), &stop))).await;
            stop.cancelled().await;
            withdrawn.cancel();
        };
        let certificates = self.settings.tls.clone();
        let listening = serve::Listening {
            listener: self.listener,
            tls: self.settings.tls.clone(),
        };
        let serving = serve::serve(listening, door, withdrawn.clone(), self.settings.drain);
        let running = async { tokio::join!(stopping, declaring, serving) };
        tokio::select! {
            _ = running => {}
            () = looking.look_after() => {}
            () = follow(certificates, &stop) => {}
        }
    }

    fn offer(&self, door: MinerDoor) -> Offer {
        let settings = &self.settings;
        let tasks = settings.tasks.iter().map(|served| v1::DeclaredTask {
            task: served.task.to_string(),
            units_per_hour: served.units_per_hour,
            concurrency: settings.concurrency,
            kind: TaskKind::Chat.to_proto().into(),
        });
        let endpoint = settings.endpoint.clone();
        let scheme = settings.tls.as_ref().map_or("http", |_| "https");
        Offer {
            keypair: Arc::clone(&settings.keypair),
            endpoint: endpoint.unwrap_or_else(|| format!("{scheme}://{}", self.address)),
            tasks: tasks.collect(),
            door,
        }
    }
}

/// Takes certificates that change; never ends.
async fn follow(certificates: Option<ServerTls>, stop: &CancellationToken) {
    if let Some(tls) = certificates {
        tls.follow(stop.clone()).await;
    }
    std::future::pending::<()>().await;
}

/// Binds and serves until `stop`.
///
/// # Errors
/// When it cannot begin.
pub async fn run(settings: SidecarSettings, stop: CancellationToken) -> Result<(), SidecarError> {
    let sidecar = Sidecar::bind(settings).await?;
    tracing::info!(address = %sidecar.address(), "the miner listens");
    sidecar.run(stop).await;
    Ok(())
}
