//! The program: started, killed, ended.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use serde_json::Value;
use taugate::clock::{Clock as _, SystemClock};
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::registry::checked::RECORD_KIND;
use taugate::sidecar::declare::Announce as _;
use taugate::sidecar::declare::grpc::GrpcGateway;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::trap::Trap;

/// The task that miners offer.
pub(crate) const TASK: &str = "tiny";

/// A directory with a configuration file, the store that it names, and what is armed.
pub(crate) struct Place(tempfile::TempDir);

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By SIGKILL.
    Killed,
    /// By itself, as it should.
    Well,
    /// By itself, with a complaint.
    Badly,
}

/// A gateway that runs.
pub(crate) struct Program {
    trap: Arc<Trap>,
    public: SocketAddr,
    peer: SocketAddr,
    id: u32,
    lines: Arc<Mutex<Vec<String>>>,
}

// === impl Place ===

impl Place {
    /// A place whose configuration has `more` beyond free ports.
    pub(crate) fn new(more: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("a scratch directory"));
        let any = "\"127.0.0.1:0\"";
        let text = format!(
            "[listen]\npublic = {any}\npeer = {any}\nadmin = {any}\n\
             [keys]\nrequired = false\n\
             [registry]\nopen_registration = true\nopen_tasks = true\nunauthenticated_miners = true\n\
             [planner]\nmode = \"off\"\n[store]\npath = {:?}\n[telemetry]\nlog = \"json\"\n\
             [drain]\ndelay_s = 0\ndeadline_s = 1\n{more}",
            place.store()
        );
        std::fs::write(place.config(), text).expect("it is written");
        place
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.path().join("taugate.db")
    }

    /// The program dies when it has come to that failpoint so often.
    pub(crate) fn arm(&self, name: &str, times: u64) {
        let new = self.0.path().join("new");
        std::fs::write(&new, format!("{name} {times}")).expect("it is written");
        std::fs::rename(&new, self.armed()).expect("it is put in place");
    }

    pub(crate) fn disarm(&self) {
        // Most moments are not armed in a file.
        drop(std::fs::remove_file(self.armed()));
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("taugate.toml")
    }

    fn armed(&self) -> PathBuf {
        self.0.path().join("failpoint")
    }
}

// === impl Program ===

impl Program {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(place: &Place, trap: &Arc<Trap>) -> Self {
        let program = std::env::var_os("TAUGATE_CRASH_PROGRAM")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_taugate").into());
        let mut child = Command::new(program)
            .args(["gateway", "--config"])
            .arg(place.config())
            .env("TAUGATE_FAILPOINT_FILE", place.armed())
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program runs");
        let id = child.id().expect("it runs");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let lines = Arc::new(Mutex::new(Vec::new()));
        trap.hold(child);
        let ready = loop {
            let line = said.next_line().await.expect("its log");
            let Some(line) = line else {
                panic!("it did not start: {:#?}", lines.lock());
            };
            let read: Value = serde_json::from_str(&line).unwrap_or_default();
            if read["fields"]["message"] == "ready" {
                break read;
            }
            lines.lock().push(line);
        };
        let written = Arc::clone(&lines);
        // Ends with the program.
        tokio::task::spawn(async move {
            while let Ok(Some(line)) = said.next_line().await {
                written.lock().push(line);
            }
        });
        let at = |name: &str| {
            let text = ready["fields"][name].as_str().expect("an address");
            text.parse().expect("an address")
        };
        Self {
            trap: Arc::clone(trap),
            public: at("public"),
            peer: at("peer"),
            id,
            lines,
        }
    }

    pub(crate) const fn public(&self) -> SocketAddr {
        self.public
    }

    pub(crate) fn trap(&self) -> &Trap {
        &self.trap
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().join("\n")
    }

    /// Asks it to end.
    pub(crate) async fn terminate(&self) {
        let id = self.id.to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self, patience: Duration) -> Ended {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let ended = self.trap.with(|child| child.try_wait()).expect("its state");
            if let Some(ended) = ended {
                return match (ended.signal(), ended.success()) {
                    (Some(9), _) => Ended::Killed,
                    (_, true) => Ended::Well,
                    (_, false) => Ended::Badly,
                };
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "it lives on: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Declares a miner at that address, by the name of a key for development.
    pub(crate) async fn declare(&self, name: &str, at: SocketAddr, units_per_hour: u64) {
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
                units_per_hour,
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
        gateway.declare(request).await.expect("it is taken");
    }
}
