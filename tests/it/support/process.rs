//! A gateway as an operator runs it: the binary, a configuration file, signals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use serde_json::Value;
use taugate::clock::{Clock as _, SystemClock};
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::registry::checked::RECORD_KIND;
use taugate::sidecar::declare::Announce as _;
use taugate::sidecar::declare::grpc::GrpcGateway;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use super::{Connection, TASK};

/// Long enough for a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a configuration file and the store that it names.
pub(crate) struct Place(tempfile::TempDir);

/// A gateway that runs.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    public: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
}

/// Shows a key with each call.
#[derive(Clone)]
pub(crate) struct Bearer(String);

/// A client with a key.
pub(crate) type KeyedClient = InferenceServiceClient<InterceptedService<Connection, Bearer>>;

/// Writes to a store what a checker would have found of an answer.
pub(crate) fn find(store: &std::path::Path, (cell, period): (u32, u64), quality: u32) {
    let raw = rusqlite::Connection::open(store).expect("the store");
    let now_ms = i64::try_from(SystemClock.unix_ms()).expect("a time");
    raw.busy_timeout(PATIENCE).expect("it waits");
    raw.execute(
        "INSERT INTO finding (period, inc, call, checker, cell, quality, units, duration_us, at_ms)
         VALUES (?1, 1, ?2, 'outside', ?2, ?3, 12, 1000000, ?4)",
        (
            i64::try_from(period).expect("a time"),
            cell,
            quality,
            now_ms,
        ),
    )
    .expect("a row");
}

// === impl Place ===

impl Place {
    /// A place whose configuration has `more` beyond free ports and one task.
    pub(crate) fn new(more: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("a scratch directory"));
        place.configure(more);
        place
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, more: &str) {
        let any = "\"127.0.0.1:0\"";
        let store = self.store();
        let text = format!(
            "[planner]\nmode = \"off\"\n[listen]\npublic = {any}\npeer = {any}\nadmin = {any}\n[gateway]\nshards = 1\n\
             [store]\npath = \"{}\"\n[telemetry]\nlog = \"json\"\n\
             [drain]\ndelay_s = 0\ndeadline_s = 5\n{more}",
            store.display()
        );
        // As an editor does: nobody reads half a file.
        let new = self.0.path().join("taugate.toml.new");
        std::fs::write(&new, text).expect("it is written");
        std::fs::rename(new, self.config()).expect("it is put in place");
    }

    /// Gives the gateway a hotkey's file.
    pub(crate) fn hotkey(&self, file: &str) {
        let text = std::fs::read_to_string(self.config()).expect("a configuration");
        let heading = "[gateway]\n";
        let all = text.replace(heading, &format!("{heading}hotkey_file = {file:?}\n"));
        std::fs::write(self.config(), all).expect("it is written");
    }

    /// Has everything logged and traced that there is.
    pub(crate) fn log_everything(&self) {
        let text = std::fs::read_to_string(self.config()).expect("a configuration");
        let log = "log = \"json\"\n";
        let all = text.replace(
            log,
            &format!("{log}filter = \"trace\"\ntrace_ratio = 1.0\n"),
        );
        std::fs::write(self.config(), all).expect("it is written");
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.path().join("taugate.toml")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.path().join("taugate.db")
    }

    /// Runs the binary with this configuration to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let ended = self.command(arguments).output();
        ended.await.expect("the binary runs")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taugate"));
        command.args(arguments).arg("--config").arg(self.config());
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        command.kill_on_drop(true);
        command
    }

    /// Starts a gateway and waits until it is ready.
    pub(crate) async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    pub(crate) async fn start_with(&self, arguments: &[&str]) -> Process {
        let arguments = [&["gateway"], arguments].concat();
        Self::started(self.command(&arguments)).await
    }

    /// As `start`, with traces to that collector.
    pub(crate) async fn start_traced(&self, collector: SocketAddr) -> Process {
        let mut command = self.command(&["gateway"]);
        let to = format!("http://{collector}");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", to);
        Self::started(command).await
    }

    async fn started(mut command: Command) -> Process {
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut reader = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        // Ends with the child.
        tokio::task::spawn(async move {
            while let Ok(Some(line)) = reader.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                written.lock().push(line);
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Process {
            child,
            lines,
            public: nowhere,
            peer: nowhere,
            admin: nowhere,
        };
        let ready = process.until_said("ready").await;
        let at = |name: &str| {
            let text = ready["fields"][name].as_str().expect("an address");
            text.parse().expect("an address")
        };
        (process.public, process.peer) = (at("public"), at("peer"));
        process.admin = at("admin");
        process
    }
}

// === impl Process ===

impl Process {
    /// Lines of the log with that message.
    pub(crate) fn said(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().clone();
        let said = lines.into_iter().filter(|line| is(line, message));
        said.collect()
    }

    /// Where clients connect.
    pub(crate) const fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where miners and validators connect.
    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Where metrics are.
    pub(crate) const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What it logs, also at its end.
    pub(crate) fn log(&self) -> Arc<Mutex<Vec<Value>>> {
        Arc::clone(&self.lines)
    }

    /// All that it logged.
    pub(crate) fn logged(&self) -> String {
        let lines = self.lines.lock();
        lines.iter().map(Value::to_string).collect()
    }

    /// Waits for a line of the log with that message.
    pub(crate) async fn until_said(&mut self, message: &str) -> Value {
        let lines = Arc::clone(&self.lines);
        let said = || lines.lock().iter().find(|line| is(line, message)).cloned();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(line) = said() {
                return line;
            }
            let ended = self.child.try_wait().expect("its state");
            let late = tokio::time::Instant::now() > deadline;
            assert!(
                ended.is_none() && !late,
                "it never said {message:?}: {ended:?}\n{:#?}",
                lines.lock()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().await;
        assert!(sent.expect("kill runs").success());
    }

    /// How it ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("it runs on: {:#?}", self.lines.lock()));
        ended.expect("its state")
    }

    /// Ends it without a word.
    pub(crate) async fn kill(&mut self) {
        self.signal("-KILL").await;
        assert!(!self.ended().await.success());
    }

    /// Ends it as an operator does.
    pub(crate) async fn stop(mut self) {
        self.signal("-TERM").await;
        let ended = self.ended().await;
        assert!(ended.success(), "{ended}: {:#?}", self.lines.lock());
    }

    /// A client with that key.
    pub(crate) async fn client(&self, key: &str) -> KeyedClient {
        let connection = Connection::open(self.public).await;
        let keyed = InterceptedService::new(connection, Bearer(key.to_owned()));
        let origin = format!("http://{}", self.public);
        InferenceServiceClient::with_origin(keyed, origin.parse().expect("an address"))
    }

    /// Declares so many units an hour for a miner at that address; what came of it.
    pub(crate) async fn declare(
        &self,
        name: &str,
        at: SocketAddr,
        units: u64,
    ) -> v1::DeclareResponse {
        let key = Arc::new(Keypair::from_secret(name).expect("a key"));
        let signer = CallSigner::new(Arc::clone(&key), Arc::new(SystemClock));
        let peer = format!("http://{}", self.peer);
        let gateway = GrpcGateway::new(&peer, signer).expect("an address");
        let network = gateway.gateway().await.expect("an answer").network;
        let now_ms = SystemClock.unix_ms();
        let declaration = v1::Declaration {
            network,
            hotkey: key.hotkey().to_string(),
            sequence: now_ms,
            valid_from_ms: now_ms - 1000,
            valid_until_ms: now_ms + 3_600_000,
            tasks: vec![v1::DeclaredTask {
                task: TASK.to_owned(),
                units_per_hour: units,
                concurrency: 64,
                kind: v1::TaskKind::Chat.into(),
            }],
        };
        let payload = declaration.encode_to_vec();
        let request = v1::DeclareRequest {
            declaration: Some(v1::SignedRecord {
                signature: key.sign_record(RECORD_KIND, &payload).to_vec(),
                payload,
                hotkey: declaration.hotkey,
            }),
            endpoint: format!("http://{at}"),
        };
        gateway.declare(request).await.expect("it is taken")
    }
}

fn is(line: &Value, message: &str) -> bool {
    line["fields"]["message"] == message || line.as_str().is_some_and(|line| line == message)
}

// === impl Bearer ===

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let bearer = format!("Bearer {}", self.0);
            let bearer = bearer.parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}
