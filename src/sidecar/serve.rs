//! `MinerService` over a model: sessions, a bound on requests at once, digests, deadlines.

mod guard;
mod health;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;

use self::guard::{Guard, Guarded};
use self::health::Wellbeing;
use super::condition::Conditions;
use super::model::{Events, ModelError, ModelEvent, Models};
use super::sessions::Sessions;
use super::slots::{Slot, Slots};
use crate::digest::ChoiceDigests;
use crate::identity::tls::ServerTls;
use crate::proto::v1;
use crate::proto::v1::miner_generate_request::Payload;
use crate::proto::v1::miner_generate_response::Event;
use crate::proto::v1::miner_service_server::{MinerService, MinerServiceServer};

/// Room for a request with pictures, bytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest that an attempt without a deadline may take.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// Choices that a request may ask for.
const CHOICES_MAX: u32 = 16;

/// Connections at once; gateways have one a shard. One more is closed at once.
const CONNECTIONS_MAX: usize = 1024;

/// The fewest streams that a connection may have: HTTP/2 clients count on them.
const STREAMS_MIN: u32 = 200;

/// Flow-control windows, bytes: requests with pictures are large.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// For a TLS hand-shake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// After a failed `accept` (no file descriptors, mostly) it is tried again this much later.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The miner protocol over models.
#[derive(Clone, Debug)]
pub struct MinerDoor {
    models: Arc<Models>,
    conditions: Arc<Conditions>,
    slots: Arc<Slots>,
    /// `None`: it admits anyone, and opens no sessions.
    guard: Option<Guard>,
}

/// Where gateways connect.
#[derive(Debug)]
pub struct Listening {
    /// What accepts them.
    pub listener: TcpListener,
    /// What they are shown; `None`: plain text.
    pub tls: Option<ServerTls>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<v1::MinerGenerateResponse, Status>> + Send>>;

/// An answer under way. Dropping it stops the model and frees the slot.
struct Answering {
    events: Events,
    first: Option<ModelEvent>,
    digests: ChoiceDigests,
    deadline: Instant,
    conditions: Arc<Conditions>,
    _slot: Slot,
}

// === impl Listening ===

impl From<TcpListener> for Listening {
    /// In plain text.
    fn from(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
        }
    }
}

// === impl MinerDoor ===

impl MinerDoor {
    /// Serves these models, with at most `concurrency` requests at once over all of them.
    #[must_use]
    pub fn new(models: Models, concurrency: usize) -> Self {
        let conditions = Arc::new(Conditions::new(models.len()));
        Self {
            models: Arc::new(models),
            slots: Arc::new(Slots::new(concurrency, Arc::clone(&conditions))),
            conditions,
            guard: None,
        }
    }

    /// Works in sessions, for those who may open one.
    #[must_use]
    pub fn in_sessions(mut self, sessions: Arc<Sessions>) -> Self {
        self.guard = Some(Guard::new(sessions));
        self
    }

    /// The sessions; `None`: it admits anyone without.
    #[must_use]
    pub fn sessions(&self) -> Option<&Arc<Sessions>> {
        self.guard.as_ref().map(Guard::sessions)
    }

    /// How many more requests it takes right now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.slots.free()
    }

    /// How it is.
    #[must_use]
    pub const fn conditions(&self) -> &Arc<Conditions> {
        &self.conditions
    }

    /// What bounds its requests at once.
    #[must_use]
    pub const fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Looks whether its models answer, again and again; never ends.
    pub async fn look_after(&self) {
        self.conditions.look_after(&self.models).await;
    }

    /// Streams that one connection may have: the bound on requests is ours, and one more
    /// than it has to be told so, not left to wait.
    fn streams_max(&self) -> u32 {
        let most = u32::try_from(self.slots.most()).unwrap_or(u32::MAX);
        most.saturating_mul(2).max(STREAMS_MIN)
    }

    async fn begin(&self, request: Request<v1::MinerGenerateRequest>) -> Result<Answering, Status> {
        let deadline = Instant::now() + timeout(request.metadata());
        let request = request.into_inner();
        let model = self.models.get(request.task.as_str());
        let model = model.ok_or_else(|| Status::not_found("this miner does not do that task"))?;
        let Some(Payload::Chat(payload)) = request.payload else {
            return Err(Status::invalid_argument("payload: only chat is done here"));
        };
        let choices = payload.choices.unwrap_or(1);
        if !(1..=CHOICES_MAX).contains(&choices) {
            return Err(Status::invalid_argument("chat.choices: 1 to 16"));
        }
        if self.conditions.is_away(&request.task) {
            // Known already: a model server that hangs would cost the gateway its patience.
            return Err(status(ModelError::Away));
        }
        let slot = self.slots.take();
        let slot = slot.ok_or_else(|| status(ModelError::Busy))?;
        let mut answering = Answering {
            events: model.chat(payload),
            first: None,
            digests: ChoiceDigests::new(choices),
            deadline,
            conditions: Arc::clone(&self.conditions),
            _slot: slot,
        };
        // No headers before the model said something: a refusal stays a plain status.
        answering.first = Some(answering.event().await?);
        Ok(answering)
    }
}

#[tonic::async_trait]
impl MinerService for MinerDoor {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let sessions = self.sessions();
        let sessions =
            sessions.ok_or_else(|| Status::unimplemented("this miner admits without a session"))?;
        Ok(Response::new(sessions.open(request.get_ref()).await?))
    }

    type GenerateStream = Responses;

    async fn generate(
        &self,
        request: Request<v1::MinerGenerateRequest>,
    ) -> Result<Response<Responses>, Status> {
        let answering = self.begin(request).await?;
        let responses = stream::try_unfold(Some(answering), |answering| async {
            match answering {
                Some(answering) => answering.step().await.map(Some),
                None => Ok(None),
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

// === impl Answering ===

impl Answering {
    async fn step(mut self) -> Result<(v1::MinerGenerateResponse, Option<Self>), Status> {
        let event = match self.first.take() {
            Some(event) => event,
            None => self.event().await?,
        };
        Ok(match event {
            ModelEvent::Delta(delta) => {
                self.digests.add(&delta);
                (response(Event::Delta(delta)), Some(self))
            }
            ModelEvent::End { choices, claimed } => {
                let completed = v1::MinerCompleted {
                    choices,
                    digests: self.digests.finish(),
                    claimed: Some(claimed),
                };
                (response(Event::Completed(completed)), None)
            }
        })
    }

    async fn event(&mut self) -> Result<ModelEvent, Status> {
        let event = tokio::time::timeout_at(self.deadline, self.events.next()).await;
        let event = event.map_err(|_| Status::deadline_exceeded("the attempt's time is over"))?;
        let event = event.unwrap_or(Err(ModelError::Broken));
        if matches!(event, Err(ModelError::Away | ModelError::Broken)) {
            self.conditions.stumbled();
        }
        event.map_err(status)
    }
}

fn response(event: Event) -> v1::MinerGenerateResponse {
    v1::MinerGenerateResponse { event: Some(event) }
}

fn status(error: ModelError) -> Status {
    let text = error.to_string();
    match error {
        ModelError::Busy => Status::resource_exhausted(text),
        ModelError::Refused => Status::invalid_argument(text),
        ModelError::Away => Status::unavailable(text),
        ModelError::Broken => Status::aborted(text),
    }
}

/// What `grpc-timeout` allows: up to eight digits and a unit.
fn timeout(metadata: &MetadataMap) -> Duration {
    let given = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok());
    let parsed = given.and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
        Some(match unit {
            "H" => Duration::from_secs(count * 3600),
            "M" => Duration::from_secs(count * 60),
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => return None,
        })
    });
    parsed.unwrap_or(DEADLINE_MAX).min(DEADLINE_MAX)
}

/// Accepts gateways until `stop`; then what runs may end within `drain`, and is cut after.
pub async fn serve(
    listening: impl Into<Listening>,
    door: MinerDoor,
    stop: CancellationToken,
    drain: Duration,
) {
    let Listening { listener, tls } = listening.into();
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tracing::warn!("cannot accept a connection");
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if connections.len() >= CONNECTIONS_MAX {
            tracing::warn!("too many connections");
            continue;
        }
        let serving = connection(stream, tls.clone(), door.clone(), stop.clone());
        let cut = cut.clone();
        connections.spawn(async move { cut.run_until_cancelled(serving).await });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait())
        .await
        .is_err()
    {
        cut.cancel();
        connections.wait().await;
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<ServerTls>,
    door: MinerDoor,
    stop: CancellationToken,
) {
    // Small frames must not wait for each other; without it they are only slower.
    if stream.set_nodelay(true).is_err() {
        tracing::debug!("cannot set TCP_NODELAY");
    }
    let Some(tls) = tls else {
        return converse(stream, door, stop).await;
    };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, door, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a connection was refused"),
        Err(_) => tracing::debug!("a connection said nothing"),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    door: MinerDoor,
    stop: CancellationToken,
) {
    let streams_max = door.streams_max();
    let health = HealthServer::new(Wellbeing::new(&door.conditions));
    let guard = door.guard.clone();
    let miner = MinerServiceServer::new(door).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let service = Guarded::new(guard, Routes::new(miner).add_service(health));
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_header_list_size(16 * 1024)
            .max_concurrent_streams(streams_max)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a gateway's connection broke");
    }
}
