//! A scripted miner on a real socket.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use taugate::clock::{Clock as _, SystemClock};
use taugate::digest::ChoiceDigests;
use taugate::identity::hotkey::Keypair;
use taugate::identity::session;
use taugate::proto::v1;
use taugate::proto::v1::miner_generate_response::Event;
use taugate::proto::v1::miner_service_server::{MinerService, MinerServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// One thing a scripted miner does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends text.
    Say(String),
    /// Waits.
    Pause(Duration),
    /// Waits until the miner is told to go on.
    Wait,
    /// Waits until the gateway leaves.
    Hang,
    /// Ends with `MinerCompleted` and the right digest, claiming so many tokens.
    Complete(u64),
    /// Ends with `MinerCompleted` and a wrong digest.
    Lie,
    /// Ends with this status.
    Fail(tonic::Code, String),
    /// Ends with OK and nothing.
    End,
    /// Drops the connection.
    Die,
}

/// A miner that does what it is told.
#[derive(Clone, Debug)]
pub(crate) struct FakeMiner {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    script: Mutex<Vec<Act>>,
    before_headers: Mutex<Vec<Act>>,
    seen: Mutex<Vec<v1::MinerGenerateRequest>>,
    metadata: Mutex<Vec<tonic::metadata::MetadataMap>>,
    proof: Mutex<Option<Keypair>>,
    arrivals: Mutex<Vec<tokio::time::Instant>>,
    connections: AtomicUsize,
    cancelled: AtomicUsize,
    running: AtomicUsize,
    /// How many waits may end.
    go_on: Semaphore,
    dead: Mutex<CancellationToken>,
    stop: CancellationToken,
}

struct Running(Arc<State>, bool);

impl FakeMiner {
    /// Starts a miner that follows `script` on each call.
    pub(crate) async fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            script: Mutex::new(script),
            before_headers: Mutex::new(Vec::new()),
            seen: Mutex::new(Vec::new()),
            metadata: Mutex::new(Vec::new()),
            proof: Mutex::new(None),
            arrivals: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            go_on: Semaphore::new(0),
            dead: Mutex::new(CancellationToken::new()),
            stop: CancellationToken::new(),
        });
        let miner = Self { address, state };
        tokio::task::spawn(miner.clone().accept(listener));
        miner
    }

    /// What a call does from now on.
    pub(crate) fn script(&self, script: Vec<Act>) {
        *self.state.script.lock() = script;
    }

    /// What a call does before its headers leave.
    pub(crate) fn before_headers(&self, script: Vec<Act>) {
        *self.state.before_headers.lock() = script;
    }

    /// Opens a session for whoever asks, and proves to be that miner; it does not look at
    /// what comes in it.
    pub(crate) fn prove(&self, name: &str) {
        *self.state.proof.lock() = Some(Keypair::from_secret(name).expect("a key"));
    }

    /// The requests that came.
    pub(crate) fn seen(&self) -> Vec<v1::MinerGenerateRequest> {
        self.state.seen.lock().clone()
    }

    /// The metadata that came with them.
    pub(crate) fn metadata(&self) -> Vec<tonic::metadata::MetadataMap> {
        self.state.metadata.lock().clone()
    }

    /// When they came.
    pub(crate) fn arrivals(&self) -> Vec<tokio::time::Instant> {
        self.state.arrivals.lock().clone()
    }

    /// Connections that were opened to it.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Calls that the gateway left before their end.
    pub(crate) fn cancelled(&self) -> usize {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Calls that run.
    pub(crate) fn running(&self) -> usize {
        self.state.running.load(Ordering::SeqCst)
    }

    /// Lets one call that waits go on.
    pub(crate) fn go_on(&self) {
        self.state.go_on.add_permits(1);
    }

    /// Drops every connection.
    pub(crate) fn die(&self) {
        std::mem::take(&mut *self.state.dead.lock()).cancel();
    }

    async fn accept(self, listener: TcpListener) {
        let stop = self.state.stop.clone();
        while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
            self.state.connections.fetch_add(1, Ordering::SeqCst);
            let service = MinerServiceServer::new(self.clone());
            let dead = self.state.dead.lock().clone();
            tokio::task::spawn(async move {
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
                dead.run_until_cancelled(serving).await;
            });
        }
    }
}

/// Serves a miner of one's own; where, and what to end it with.
pub(crate) async fn serve<S: MinerService>(
    service: MinerServiceServer<S>,
) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn(serving);
        }
    });
    (address, serving)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<v1::MinerGenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl MinerService for FakeMiner {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let expires_ms = SystemClock.unix_ms() + 600_000;
        let prove = |key| session::answer(key, request.get_ref(), expires_ms).expect("an answer");
        let proof = self.state.proof.lock().as_ref().map(prove);
        let (_, _, answer) = proof.ok_or_else(|| Status::unimplemented("no sessions"))?;
        Ok(Response::new(answer))
    }

    type GenerateStream = Messages;

    async fn generate(
        &self,
        request: Request<v1::MinerGenerateRequest>,
    ) -> Result<Response<Messages>, Status> {
        let arrived = tokio::time::Instant::now();
        {
            // Together, so that the places in all three are of one request.
            let mut seen = self.state.seen.lock();
            self.state.metadata.lock().push(request.metadata().clone());
            self.state.arrivals.lock().push(arrived);
            seen.push(request.into_inner());
        }
        self.state.running.fetch_add(1, Ordering::SeqCst);
        let mut running = Running(Arc::clone(&self.state), false);
        let before = self.state.before_headers.lock().clone();
        for act in before {
            match act {
                Act::Pause(pause) => tokio::time::sleep(pause).await,
                Act::Hang => std::future::pending::<()>().await,
                Act::Fail(code, text) => {
                    running.1 = true;
                    return Err(Status::new(code, text));
                }
                Act::Say(_) | Act::Wait | Act::Complete(_) | Act::Lie | Act::End | Act::Die => {
                    panic!("cannot come before headers")
                }
            }
        }
        let (sender, receiver) = mpsc::channel(64);
        let script = self.state.script.lock().clone();
        tokio::task::spawn(perform(self.clone(), script, sender, running));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Sender = mpsc::Sender<Result<v1::MinerGenerateResponse, Status>>;

async fn perform(miner: FakeMiner, script: Vec<Act>, sender: Sender, mut running: Running) {
    let mut digests = ChoiceDigests::new(1);
    for act in script {
        let sent = match act {
            Act::Say(content) => {
                let delta = v1::Delta {
                    content,
                    ..v1::Delta::default()
                };
                digests.add(&delta);
                send(&sender, Event::Delta(delta)).await
            }
            Act::Pause(pause) => {
                tokio::select! {
                    () = tokio::time::sleep(pause) => true,
                    () = sender.closed() => false,
                }
            }
            Act::Wait => tokio::select! {
                go_on = miner.state.go_on.acquire() => {
                    go_on.expect("it stays open").forget();
                    true
                }
                () = sender.closed() => false,
            },
            Act::Hang => {
                sender.closed().await;
                false
            }
            Act::Complete(tokens) => {
                running.1 = true;
                send(
                    &sender,
                    Event::Completed(completed(digests.clone(), tokens)),
                )
                .await
            }
            Act::Lie => {
                running.1 = true;
                let mut lie = completed(digests.clone(), 1);
                lie.digests[0].sha256[0] ^= 1;
                send(&sender, Event::Completed(lie)).await
            }
            Act::Fail(code, text) => {
                running.1 = true;
                sender.send(Err(Status::new(code, text))).await.is_ok()
            }
            Act::End => {
                running.1 = true;
                return;
            }
            Act::Die => {
                running.1 = true;
                miner.die();
                return;
            }
        };
        if !sent {
            return;
        }
    }
}

async fn send(sender: &Sender, event: Event) -> bool {
    sender
        .send(Ok(v1::MinerGenerateResponse { event: Some(event) }))
        .await
        .is_ok()
}

fn completed(digests: ChoiceDigests, tokens: u64) -> v1::MinerCompleted {
    v1::MinerCompleted {
        choices: vec![v1::ChoiceEnd {
            choice: 0,
            finish_reason: v1::FinishReason::Stop.into(),
        }],
        digests: digests.finish(),
        claimed: Some(v1::ClaimedTokens {
            completion: Some(tokens),
            ..Default::default()
        }),
    }
}
