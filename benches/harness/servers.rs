//! What the bench of the proxy runs in processes of their own: a miner that answers at
//! once, a gateway in front of it, and a plain tonic server that forwards the same messages.

use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message as _;
use taugate::clock::{Clock as _, SystemClock};
use taugate::config::Config;
use taugate::digest::ChoiceDigests;
use taugate::gateway::Gateway;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use taugate::proto::v1::miner_generate_response::Event as Sent;
use taugate::proto::v1::miner_service_client::MinerServiceClient;
use taugate::proto::v1::miner_service_server::{MinerService, MinerServiceServer};
use taugate::proto::v1::stream_generate_response::Event;
use taugate::proto::v1::{generate_request, miner_generate_request};
use taugate::registry::checked::{RECORD_KIND, Record};
use taugate::sidecar;
use taugate::sidecar::model::{Events, Model, ModelEvent, Models};
use taugate::sidecar::serve::MinerDoor;
use taugate::sidecar::sessions::{Sessions, Validators};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// The task of all calls.
pub(crate) const TASK: &str = "bench";
/// An answer in one piece: about a KiB.
pub(crate) const WHOLE_BYTES: usize = 1024;
/// An answer in many pieces.
pub(crate) const PIECES: usize = 200;
/// One of them.
pub(crate) const PIECE_BYTES: usize = 58;
/// A request that may be longer than this gets the answer in many pieces.
pub(crate) const WHOLE_TOKENS_MAX: u32 = 1_000;

/// A process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Miner,
    /// A sidecar's door that checks each request's session.
    Proven,
    /// A sidecar's door that opens no sessions.
    Open,
    Plain,
    Taugate,
}

// === impl Role ===

impl Role {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Miner, "miner"),
        (Self::Proven, "proven"),
        (Self::Open, "open"),
        (Self::Plain, "plain"),
        (Self::Taugate, "taugate"),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        let known = Self::ALL.iter().find(|(role, _)| *role == self);
        known.map_or("", |(_, word)| word)
    }

    pub(crate) fn named(word: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(_, known)| *known == word);
        known.map(|(role, _)| *role)
    }

    /// Serves until standard input ends, which is when the parent does.
    pub(crate) async fn run(self, miner: Option<&str>) {
        let serving = async {
            match self {
                Self::Miner => serve(MinerServiceServer::new(EagerMiner)).await,
                Self::Proven => door(true).await,
                Self::Open => door(false).await,
                Self::Plain => {
                    let to = Endpoint::from_shared(miner.expect("a miner").to_owned());
                    let to = to.expect("an address").connect_lazy();
                    serve(InferenceServiceServer::new(Plain(to))).await;
                }
                Self::Taugate => gateway(miner.expect("a miner")).await,
            }
        };
        let parent = tokio::task::spawn_blocking(|| {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        });
        tokio::select! {
            () = serving => {}
            _ = parent => {}
        }
    }
}

/// Says where this process listens.
fn say(address: SocketAddr) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "http://{address}").expect("the parent reads");
}

/// HTTP/2 on loopback, as plainly as it goes.
async fn serve<S>(service: S)
where
    S: tower::Service<http::Request<hyper::body::Incoming>, Response = http::Response<Body>>
        + Clone
        + Send
        + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    say(listener.local_addr().expect("an address"));
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket");
        let service = TowerToHyperService::new(service.clone());
        serving.spawn(async move {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            drop(connection.await);
        });
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

// === The miner ===

/// Answers at once, as much as is asked for.
#[derive(Clone, Copy, Debug)]
struct EagerMiner;

#[tonic::async_trait]
impl MinerService for EagerMiner {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        Err(Status::unimplemented("no sessions"))
    }

    type GenerateStream = Messages<v1::MinerGenerateResponse>;

    async fn generate(
        &self,
        request: Request<v1::MinerGenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let Some(miner_generate_request::Payload::Chat(chat)) = request.into_inner().payload else {
            return Err(Status::invalid_argument("no chat"));
        };
        let (pieces, bytes) = if chat.max_tokens.unwrap_or(0) > WHOLE_TOKENS_MAX {
            (PIECES, PIECE_BYTES)
        } else {
            (1, WHOLE_BYTES)
        };
        let delta = v1::Delta {
            content: "x".repeat(bytes),
            ..v1::Delta::default()
        };
        let mut digests = ChoiceDigests::new(1);
        (0..pieces).for_each(|_| digests.add(&delta));
        let completed = v1::MinerCompleted {
            choices: vec![v1::ChoiceEnd {
                choice: 0,
                finish_reason: v1::FinishReason::Stop.into(),
            }],
            digests: digests.finish(),
            claimed: None,
        };
        let deltas = std::iter::repeat_n(Sent::Delta(delta), pieces);
        let events = deltas.chain([Sent::Completed(completed)]);
        let messages = events.map(|event| Ok(v1::MinerGenerateResponse { event: Some(event) }));
        Ok(Response::new(stream::iter(messages).boxed()))
    }
}

/// What a sidecar runs, in front of a model that answers at once.
async fn door(sessions: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    say(listener.local_addr().expect("an address"));
    let door = MinerDoor::new(
        Models::from([(TASK.into(), Arc::new(EagerModel) as _)]),
        1_024,
    );
    let door = if sessions {
        let key = Arc::new(Keypair::from_secret("//Bench").expect("a key"));
        let validators = Arc::new(Validators::anyone());
        let sessions = Sessions::new(key, Arc::new(SystemClock), validators);
        door.in_sessions(Arc::new(sessions))
    } else {
        door
    };
    sidecar::serve::serve(listener, door, CancellationToken::new(), Duration::ZERO).await;
}

/// Answers at once, as much as is asked for.
#[derive(Clone, Copy, Debug)]
struct EagerModel;

impl Model for EagerModel {
    fn chat(&self, chat: v1::ChatPayload) -> Events {
        let (pieces, bytes) = if chat.max_tokens.unwrap_or(0) > WHOLE_TOKENS_MAX {
            (PIECES, PIECE_BYTES)
        } else {
            (1, WHOLE_BYTES)
        };
        let delta = v1::Delta {
            content: "x".repeat(bytes),
            ..v1::Delta::default()
        };
        let deltas = std::iter::repeat_n(ModelEvent::Delta(delta), pieces);
        let end = ModelEvent::End {
            choices: vec![v1::ChoiceEnd {
                choice: 0,
                finish_reason: v1::FinishReason::Stop.into(),
            }],
            claimed: v1::ClaimedTokens::default(),
        };
        stream::iter(deltas.chain([end]).map(Ok)).boxed()
    }
}

// === Plain forwarding ===

/// Forwards, and does nothing else: no choice, no books, no digest, no bounds.
#[derive(Clone, Debug)]
struct Plain(Channel);

impl Plain {
    async fn forward(
        &self,
        request: v1::GenerateRequest,
    ) -> Result<tonic::Streaming<v1::MinerGenerateResponse>, Status> {
        let Some(generate_request::Payload::Chat(chat)) = request.payload else {
            return Err(Status::invalid_argument("no chat"));
        };
        let request = v1::MinerGenerateRequest {
            attempt_id: String::new(),
            task: request.task,
            payload: Some(miner_generate_request::Payload::Chat(chat)),
        };
        let mut miner = MinerServiceClient::new(self.0.clone());
        Ok(miner.generate(request).await?.into_inner())
    }
}

#[tonic::async_trait]
impl InferenceService for Plain {
    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        let mut messages = self.forward(request.into_inner()).await?;
        let mut choice = v1::Choice::default();
        while let Some(message) = messages.message().await? {
            if let Some(Sent::Delta(delta)) = message.event {
                choice.content.push_str(&delta.content);
            }
        }
        Ok(Response::new(v1::GenerateResponse {
            choices: vec![choice],
            ..v1::GenerateResponse::default()
        }))
    }

    type StreamGenerateStream = Messages<v1::StreamGenerateResponse>;

    async fn stream_generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::StreamGenerateStream>, Status> {
        let messages = self.forward(request.into_inner()).await?;
        let forwarded = messages.map(|message| {
            let event = message?.event.map(|event| match event {
                Sent::Delta(delta) => Event::Delta(delta),
                Sent::Completed(completed) => Event::Completed(v1::Completed {
                    choices: completed.choices,
                    ..v1::Completed::default()
                }),
            });
            Ok(v1::StreamGenerateResponse { event })
        });
        Ok(Response::new(forwarded.boxed()))
    }

    async fn list_tasks(
        &self,
        _: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        Err(Status::unimplemented("only calls"))
    }

    async fn get_receipt(
        &self,
        _: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        Err(Status::unimplemented("only calls"))
    }
}

// === The gateway ===

/// A gateway as it runs in production, one shard, with a store on disk.
async fn gateway(miner: &str) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut config = Config::development();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (
        config.listen.public,
        config.listen.peer,
        config.listen.admin,
    ) = (any, any, any);
    config.store.path = dir.path().join("taugate.db");
    config.gateway.shards = Some(1);
    config.telemetry.trace_ratio = Config::default().telemetry.trace_ratio;
    let gateway = Gateway::start(Arc::new(config), Arc::new(SystemClock)).await;
    let gateway = gateway.expect("the gateway starts");
    declare(&gateway, miner).await;
    say(gateway.addresses().public);
    std::future::pending::<()>().await;
}

async fn declare(gateway: &Gateway, miner: &str) {
    let key = Keypair::from_secret("//Bench").expect("a key");
    let now_ms = SystemClock.unix_ms();
    let declaration = v1::Declaration {
        network: gateway.registry().settings().network.to_string(),
        hotkey: key.hotkey().to_string(),
        sequence: now_ms,
        valid_from_ms: now_ms - 1000,
        valid_until_ms: now_ms + 3_600_000,
        tasks: vec![v1::DeclaredTask {
            task: TASK.to_owned(),
            units_per_hour: 1 << 40,
            concurrency: 1_024,
            kind: v1::TaskKind::Chat.into(),
        }],
    };
    let payload = declaration.encode_to_vec();
    let signature = key.sign_record(RECORD_KIND, &payload);
    let record = Record {
        hotkey: key.hotkey(),
        payload: &payload,
        signature: &signature,
    };
    let declared = gateway.registry().declare(record, miner).await;
    declared.expect("the declaration is taken");
    let known = || {
        let snapshot = gateway.registry().snapshot();
        let offer = snapshot.markets.get(TASK)?.offers.first()?.cell;
        let table = gateway.books().table();
        let ready = !table.left(offer).is_zero() && gateway.calls().router.knows(TASK, offer);
        ready.then_some(())
    };
    while known().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
