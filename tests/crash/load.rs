//! Load that outlives the program: miners on sockets of their own, clients that come back.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use taugate::digest::ChoiceDigests;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::proto::v1::miner_generate_response::Event as FromMiner;
use taugate::proto::v1::miner_service_server::{MinerService, MinerServiceServer};
use taugate::proto::v1::stream_generate_response::Event;
use taugate_ledger::ids::RequestId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::history::History;
use crate::program::TASK;
use crate::trap::{Moment, Trap};

/// Clients with short calls.
const CLIENTS: usize = 8;

/// The words of a short call.
const ASK: &str = "hello";

/// The word by which a miner knows that a long answer is wanted.
const LONG: &str = "long";

/// Calls of a burst: together they reserve more than slices hold.
const BURST: usize = 32;

/// The word of such a call, which reserves much and needs little.
const MUCH: &str = "much";

/// How long a long answer runs.
const LONG_TIME: Duration = Duration::from_secs(9);

/// When a part of it was booked, after five seconds and a commit.
const PART_TIME: Duration = Duration::from_millis(5_600);

/// The names of the miners: keys for development.
const NAMES: [&str; 2] = ["//One", "//Two"];

/// Miners and clients.
pub(crate) struct Load {
    miners: Vec<(&'static str, SocketAddr)>,
    target: watch::Sender<Option<SocketAddr>>,
    clients: JoinSet<()>,
    history: Arc<History>,
    trap: Arc<Trap>,
    /// Aborted when this is dropped.
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Miner {
    history: Arc<History>,
    trap: Arc<Trap>,
}

struct Client {
    history: Arc<History>,
    trap: Arc<Trap>,
    asks: &'static str,
}

// === impl Load ===

impl Load {
    /// Starts miners and clients, which wait for a gateway to aim at.
    pub(crate) async fn start(history: Arc<History>, trap: Arc<Trap>) -> Self {
        let mut serving = JoinSet::new();
        let mut miners = Vec::new();
        for name in NAMES {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            miners.push((name, listener.local_addr().expect("an address")));
            let miner = Miner {
                history: Arc::clone(&history),
                trap: Arc::clone(&trap),
            };
            serving.spawn(miner.accept(listener));
        }
        let (target, _) = watch::channel(None);
        let mut clients = JoinSet::new();
        for number in 0..=CLIENTS {
            let client = Client {
                history: Arc::clone(&history),
                trap: Arc::clone(&trap),
                asks: if number == 0 { LONG } else { ASK },
            };
            clients.spawn(client.run(target.subscribe()));
        }
        Self {
            miners,
            target,
            clients,
            history,
            trap,
            _serving: serving,
        }
    }

    pub(crate) fn miners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.miners.iter().copied()
    }

    /// Clients call this gateway from now on.
    pub(crate) fn aim(&self, gateway: SocketAddr) {
        self.target.send_replace(Some(gateway));
    }

    /// There is no gateway now.
    pub(crate) fn aim_nowhere(&self) {
        self.target.send_replace(None);
    }

    /// Many clients call once, at once.
    pub(crate) fn burst(&mut self, gateway: SocketAddr) {
        for _ in 0..BURST {
            let client = Client {
                history: Arc::clone(&self.history),
                trap: Arc::clone(&self.trap),
                asks: MUCH,
            };
            self.clients.spawn(async move {
                let origin = format!("http://{gateway}");
                if let Ok(mut gateway) = InferenceServiceClient::connect(origin).await {
                    // It may be killed meanwhile, and so may refuse.
                    client.call(&mut gateway).await.ok();
                }
            });
        }
    }

    /// Lets clients end what they are at.
    pub(crate) async fn stop(mut self) {
        drop(self.target);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client did not panic");
        }
    }
}

// === impl Client ===

impl Client {
    async fn run(self, mut target: watch::Receiver<Option<SocketAddr>>) {
        loop {
            let Ok(at) = target.wait_for(Option::is_some).await.map(|at| *at) else {
                return;
            };
            let gateway = at.expect("there is one");
            // Ends when the gateway does; then the next one is called.
            self.call_until_lost(gateway, &target).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            if target.has_changed().is_err() {
                return;
            }
        }
    }

    async fn call_until_lost(
        &self,
        gateway: SocketAddr,
        target: &watch::Receiver<Option<SocketAddr>>,
    ) {
        let origin = format!("http://{gateway}");
        let Ok(mut client) = InferenceServiceClient::connect(origin).await else {
            return;
        };
        while target.has_changed().is_ok() {
            if let Err(status) = self.call(&mut client).await {
                self.history.failed(&status);
                return;
            }
        }
    }

    async fn call(&self, client: &mut InferenceServiceClient<Channel>) -> Result<(), Status> {
        let mut events = client.stream_generate(chat(self.asks)).await?.into_inner();
        let mut id: Option<RequestId> = None;
        while let Some(event) = events.message().await? {
            match event.event.expect("an event") {
                Event::Progress(_) => {}
                Event::Started(started) => {
                    let new = started.request_id.parse().expect("a request id");
                    self.history.begin(new);
                    id = Some(new);
                }
                Event::Delta(delta) => {
                    let code_points = delta.content.chars().count();
                    let code_points = u64::try_from(code_points).expect("a count");
                    self.history.got(id.expect("started"), code_points);
                    self.trap.come(Moment::Chunk);
                }
                Event::Completed(completed) => {
                    let units = completed.usage.expect("usage").units;
                    let id = id.expect("started");
                    self.history.completed(id, units, completed.recorded);
                    self.trap.come(Moment::Final);
                }
            }
        }
        Ok(())
    }
}

/// A chat of one message.
fn chat(text: &str) -> v1::GenerateRequest {
    let part = v1::content_part::Part::Text(text.to_owned());
    let message = v1::ChatMessage {
        role: v1::Role::User.into(),
        parts: vec![v1::ContentPart { part: Some(part) }],
        ..v1::ChatMessage::default()
    };
    let chat = v1::ChatPayload {
        messages: vec![message],
        max_tokens: Some(if text == ASK { 200 } else { 4_000 }),
        ..v1::ChatPayload::default()
    };
    v1::GenerateRequest {
        task: TASK.to_owned(),
        payload: Some(v1::generate_request::Payload::Chat(chat)),
        ..v1::GenerateRequest::default()
    }
}

// === impl Miner ===

impl Miner {
    async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = MinerServiceServer::new(self.clone());
            connections.spawn(async move {
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
                // A gateway that was killed leaves no good end.
                drop(serving.await);
            });
        }
    }

    async fn answer(
        self,
        id: RequestId,
        long: bool,
        sender: mpsc::Sender<Result<v1::MinerGenerateResponse, Status>>,
    ) {
        let begun = Instant::now();
        let mut digests = ChoiceDigests::new(1);
        let pieces = 1 + rand::random::<u64>() % 24;
        let mut piece = 0;
        loop {
            let over = if long {
                begun.elapsed() > LONG_TIME
            } else {
                piece == pieces
            };
            if over {
                break;
            }
            piece += 1;
            let content = "tok ".repeat(1 + rand::random::<u8>() as usize % 6) + "é";
            self.history
                .sent(id, u64::try_from(content.chars().count()).expect("a count"));
            let delta = v1::Delta {
                content,
                ..v1::Delta::default()
            };
            digests.add(&delta);
            if send(&sender, FromMiner::Delta(delta)).await.is_err() {
                return;
            }
            if long && begun.elapsed() > PART_TIME {
                self.trap.come(Moment::Part);
            }
            let pause = if long { 40 } else { rand::random::<u64>() % 4 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let completed = v1::MinerCompleted {
            choices: vec![v1::ChoiceEnd {
                choice: 0,
                finish_reason: v1::FinishReason::Stop.into(),
            }],
            digests: digests.finish(),
            claimed: None,
        };
        // Who left does not hear it.
        send(&sender, FromMiner::Completed(completed)).await.ok();
    }
}

async fn send(
    sender: &mpsc::Sender<Result<v1::MinerGenerateResponse, Status>>,
    event: FromMiner,
) -> Result<(), ()> {
    let message = v1::MinerGenerateResponse { event: Some(event) };
    sender.send(Ok(message)).await.map_err(drop)
}

type Messages = Pin<Box<dyn Stream<Item = Result<v1::MinerGenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl MinerService for Miner {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        Err(Status::unimplemented("no sessions"))
    }

    type GenerateStream = Messages;

    async fn generate(
        &self,
        request: Request<v1::MinerGenerateRequest>,
    ) -> Result<Response<Messages>, Status> {
        self.trap.come(Moment::Dispatched);
        let request = request.into_inner();
        let (id, _) = request.attempt_id.rsplit_once('-').expect("an attempt");
        let id = id.parse().expect("a request id");
        let long = format!("{:?}", request.payload).contains(LONG);
        let (sender, receiver) = mpsc::channel(64);
        tokio::task::spawn(self.clone().answer(id, long, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
