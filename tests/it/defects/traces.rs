//! Traces, as a collector gets them over a real socket from the program itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use futures_util::StreamExt as _;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use parking_lot::Mutex;
use taugate::clock::{SharedClock, SystemClock};
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::sidecar::declare::grpc::GrpcGateway;
use taugate::sidecar::model::{Events, Model, ModelError};
use taugate::sidecar::sessions::Validators;
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::PATIENCE;
use crate::support::{TASK, chat};

/// Keeps what it is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collector(pub(crate) Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        self.0.lock().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = TowerToHyperService::new(TraceServiceServer::new(self.clone()));
            let serving = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            connections.spawn(serving);
        }
    }
}

/// A model that cannot answer.
#[derive(Debug)]
struct Away;

impl Model for Away {
    fn chat(&self, _: v1::ChatPayload) -> Events {
        futures_util::stream::iter([Err(ModelError::Away)]).boxed()
    }
}

/// The program as a gateway, with traces; and where it listens for clients and miners.
async fn program(dir: &std::path::Path, collector: SocketAddr) -> (Child, SocketAddr, SocketAddr) {
    let file = dir.join("taugate.toml");
    let store = dir.join("taugate.db");
    let configuration = format!(
        "[listen]\npublic = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [store]\npath = {store:?}\n[telemetry]\nlog = \"json\"\ntrace_ratio = 1.0\n\
         [drain]\ndelay_s = 0\n[planner]\nmode = \"off\"\n[keys]\nrequired = false\n[registry]\nopen_registration = true\nopen_tasks = true\nunauthenticated_miners = true\n"
    );
    std::fs::write(&file, configuration).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_taugate"))
        .args(["gateway", "--config"])
        .arg(file)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
    let ready = loop {
        let line = lines.next_line().await.expect("text").expect("it is ready");
        let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
        if line["fields"]["message"] == "ready" {
            break line["fields"].clone();
        }
    };
    // Whoever logs must not be held up by a pipe that is full.
    tokio::task::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let at = |field: &str| ready[field].as_str().expect("text").parse().expect("at");
    (child, at("public"), at("peer"))
}

/// A miner's program that declares to the gateway.
async fn miner(name: &str, model: Arc<dyn Model>, peer: SocketAddr, stop: &CancellationToken) {
    let clock: SharedClock = Arc::new(SystemClock);
    let keypair = Arc::new(Keypair::from_secret(name).expect("a key"));
    let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
    let announce = GrpcGateway::new(&format!("http://{peer}"), signer).expect("an address");
    let settings = SidecarSettings {
        validators: Arc::new(Validators::anyone()),
        tls: None,
        listen: "127.0.0.1:0".parse().expect("an address"),
        endpoint: None,
        tasks: vec![ServedTask {
            task: TASK.into(),
            model,
            units_per_hour: 1_000_000,
        }],
        concurrency: 4,
        gateways: vec![Arc::new(announce)],
        keypair,
        clock,
        drain: std::time::Duration::ZERO,
    };
    let sidecar = Sidecar::bind(settings).await.expect("it listens");
    sidecar.run(stop.clone()).await;
}

type Client = InferenceServiceClient<Channel>;

/// Waits until the task has so many miners.
async fn until_miners(client: &mut Client, count: u32) {
    let waiting = async {
        loop {
            let tasks = client.list_tasks(v1::ListTasksRequest::default()).await;
            let tasks = tasks.expect("an answer").into_inner().tasks;
            if tasks
                .iter()
                .any(|task| task.id == TASK && task.miners == count)
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("declared");
}

/// Asks until a call took two attempts; the receipts of all calls by their id.
async fn ask_until_failover(client: &mut Client) -> BTreeMap<String, v1::Receipt> {
    let mut receipts = BTreeMap::new();
    let mut failed_over = false;
    for _ in 0..100 {
        let answer = client.generate(chat("hi")).await.expect("an answer");
        let request_id = answer.into_inner().request_id;
        let request = v1::GetReceiptRequest {
            request_id: request_id.clone(),
        };
        let receipt = client.get_receipt(request).await.expect("an answer");
        let receipt = receipt.into_inner().receipt.expect("a receipt");
        failed_over |= receipt.attempts.len() == 2;
        receipts.insert(request_id, receipt);
        if failed_over && receipts.len() > 2 {
            return receipts;
        }
    }
    panic!("no call failed over");
}

/// N13: request traces were off. Each request leaves one trace with every attempt in it,
/// the failed ones included.
#[tokio::test]
async fn n13_each_request_is_one_trace_with_every_attempt() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let collecting = tokio::task::spawn(collector.clone().serve(listener));
    let (mut child, public, peer) = program(dir.path(), address).await;
    let stop = CancellationToken::new();
    let good = Arc::new(SimulatedModel::new(Simulation {
        tokens_per_s: 0.0,
        prefill_tokens_per_s: 0.0,
        ..Simulation::default()
    }));
    let asking = async {
        let mut client = Client::connect(format!("http://{public}"))
            .await
            .expect("open");
        until_miners(&mut client, 2).await;
        let receipts = ask_until_failover(&mut client).await;
        // At its end the program sends what it has not sent yet.
        let id = child.id().expect("it runs").to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(told.expect("kill runs").success());
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        assert!(ended.expect("in time").expect("it ended").success());
        stop.cancel();
        receipts
    };
    let (_, _, receipts) = tokio::join!(
        miner("//Away", Arc::new(Away), peer, &stop),
        miner("//Good", good, peer, &stop),
        asking
    );
    collecting.abort();
    let spans = std::mem::take(&mut *collector.0.lock());
    let roots = spans.iter().filter(|span| span.parent_span_id.is_empty());
    assert_eq!(roots.count(), receipts.len(), "one trace a request");
    for (id, receipt) in receipts {
        check(&spans, &id, &receipt);
    }
}

fn check(spans: &[Span], id: &str, receipt: &v1::Receipt) {
    let mut roots = spans
        .iter()
        .filter(|span| text(span, "gen_ai.response.id") == Some(id));
    let root = roots.next().unwrap_or_else(|| panic!("{id} left no trace"));
    assert!(roots.next().is_none(), "{id} left two traces");
    let attempts: Vec<_> = spans
        .iter()
        .filter(|span| span.parent_span_id == root.span_id)
        .collect();
    assert_eq!(attempts.len(), receipt.attempts.len(), "{id}");
    for (span, attempt) in attempts.into_iter().zip(&receipt.attempts) {
        assert_eq!(span.trace_id, root.trace_id);
        assert_eq!(text(span, "taugate.miner"), Some(attempt.miner.as_str()));
        let (outcome, code) = if attempt.outcome() == v1::Outcome::Good {
            ("good", StatusCode::Unset)
        } else {
            ("lost", StatusCode::Error)
        };
        assert_eq!(text(span, "taugate.outcome"), Some(outcome));
        let status = span.status.as_ref().map_or(StatusCode::Unset, |s| s.code());
        assert_eq!(status, code, "{id}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(root.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano);
    }
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let attribute = span.attributes.iter().find(|found| found.key == key)?;
    let Value::StringValue(text) = attribute.value.as_ref()?.value.as_ref()? else {
        return None;
    };
    Some(text)
}
