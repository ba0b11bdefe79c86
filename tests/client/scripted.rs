//! A gateway that answers as it is told, on a real socket.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use taugate::proto::v1::stream_generate_response::Event;
use tokio::net::TcpListener;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What a call gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// This code, reason and pushback.
    Refuse(Code, &'static str, Option<i64>),
    /// All of it.
    Whole(&'static str),
    /// A beginning, then `MINER_LOST`.
    Lost(&'static str),
    /// A beginning, then a clean end without `Completed`.
    Cut(&'static str),
    /// A beginning, then nothing.
    Hang(&'static str),
}

/// A scripted gateway; it ends with the test's runtime.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedGateway {
    at: SocketAddr,
    script: Arc<Vec<Reply>>,
    calls: Arc<AtomicUsize>,
}

impl ScriptedGateway {
    pub(crate) async fn start(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let gateway = Self {
            at: listener.local_addr().expect("an address"),
            script: Arc::new(script),
            calls: Arc::default(),
        };
        tokio::task::spawn(gateway.clone().accept(listener));
        gateway
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Calls that came.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let service = InferenceServiceServer::new(self.clone());
            tokio::task::spawn(async move {
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
                drop(serving.await);
            });
        }
    }

    fn reply<T>(&self, request: &Request<T>) -> Reply {
        let key = request.metadata().get("authorization");
        assert_eq!(key.expect("a key"), "Bearer a-key");
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        *self.script.get(number).expect("one call too many")
    }
}

fn refusal(code: Code, reason: &str, pushback: Option<i64>) -> Status {
    let details = ErrorDetails::with_error_info(reason, "taugate", []);
    let mut metadata = MetadataMap::new();
    if let Some(pushback) = pushback {
        metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(pushback));
    }
    Status::with_error_details_and_metadata(code, "a refusal", details, metadata)
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::StreamGenerateResponse, Status>> + Send>>;

fn events(events: Vec<Event>) -> impl Stream<Item = Result<v1::StreamGenerateResponse, Status>> {
    stream::iter(events).map(|event| Ok(v1::StreamGenerateResponse { event: Some(event) }))
}

fn beginning(text: &str) -> Vec<Event> {
    let delta = v1::Delta {
        content: text.to_owned(),
        ..v1::Delta::default()
    };
    vec![Event::Started(v1::Started::default()), Event::Delta(delta)]
}

#[tonic::async_trait]
impl InferenceService for ScriptedGateway {
    type StreamGenerateStream = Events;

    async fn stream_generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Events>, Status> {
        let events: Events = match self.reply(&request) {
            Reply::Refuse(code, reason, pushback) => return Err(refusal(code, reason, pushback)),
            Reply::Whole(text) => {
                let mut all = beginning(text);
                all.push(Event::Completed(v1::Completed::default()));
                events(all).boxed()
            }
            Reply::Lost(text) => {
                let lost = refusal(Code::Unavailable, "MINER_LOST", Some(-1));
                events(beginning(text))
                    .chain(stream::iter([Err(lost)]))
                    .boxed()
            }
            Reply::Cut(text) => events(beginning(text)).boxed(),
            Reply::Hang(text) => events(beginning(text)).chain(stream::pending()).boxed(),
        };
        Ok(Response::new(events))
    }

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        match self.reply(&request) {
            Reply::Refuse(code, reason, pushback) => Err(refusal(code, reason, pushback)),
            Reply::Whole(text) => {
                let choice = v1::Choice {
                    content: text.to_owned(),
                    ..v1::Choice::default()
                };
                Ok(Response::new(v1::GenerateResponse {
                    choices: vec![choice],
                    ..v1::GenerateResponse::default()
                }))
            }
            Reply::Lost(_) | Reply::Cut(_) | Reply::Hang(_) => panic!("only streams break off"),
        }
    }

    async fn list_tasks(
        &self,
        _: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_receipt(
        &self,
        _: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}
