//! What README.md says to type works, in its order: each command is taken from the file and
//! run on the binary that was built. A command that this test does not know fails it.
//!
//! Addresses are others than in the file, so that nothing else on the machine is in the way;
//! files are made in a scratch directory.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod commands;
mod model_server;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use self::model_server::ModelServer;

const TAUGATE: &str = "cargo run --locked -- ";

/// The longest that anything may take on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// The open gateway that the file's first call speaks to, on ports of its own.
const CONFIG: &str = r#"
[listen]
public = "127.0.0.1:0"
peer = "127.0.0.1:0"
admin = "127.0.0.1:0"
[keys]
required = false
[registry]
open_registration = true
open_tasks = true
[store]
path = "first-call.db"
"#;

/// A process; it ends with the value.
struct Running(Child);

/// The reader who types the commands.
struct Reader {
    dir: tempfile::TempDir,
    gateway_process: Option<Running>,
    /// The one that the file says to stop before another is started.
    miner: Option<Running>,
    /// The public address, once a gateway runs.
    gateway: String,
    peer: String,
    admin: String,
    model_server: ModelServer,
    ran: usize,
}

#[test]
fn every_command_of_the_readme_works() {
    let mut reader = Reader::new();
    for command in commands::of(&text("README.md")) {
        reader.types(&command);
    }
    // Without grpcurl, too.
    assert!(reader.ran >= 8, "only {} commands ran", reader.ran);
}

#[test]
fn the_composed_network_works() {
    let mut reader = Reader::new();
    reader.starts_the_gateway();
    let services = commands::composed(&text("deploy/compose.yaml"));
    let mut miners = Vec::new();
    for (service, words) in &services {
        match words
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            // It runs.
            ["gateway"] => {}
            ["miner", arguments @ ..] => {
                // Others than in the file, where all share the host's network.
                let own = |word: &&&str| {
                    !word.starts_with("--listen=") && !word.starts_with("--gateway=")
                };
                let line = arguments
                    .iter()
                    .filter(own)
                    .copied()
                    .collect::<Vec<_>>()
                    .join(" ");
                assert_eq!(line.split(' ').count() + 2, arguments.len(), "{service}");
                let more = ["--gateway", &reader.peer, "--listen", "127.0.0.1:0"];
                miners.push(reader.starts(&format!("miner {line}"), &more));
            }
            words => panic!("{service} runs {words:?}, and this test does not know it"),
        }
    }
    assert_eq!((services.len(), miners.len()), (3, 2), "{services:?}");
    wait_for("both miners are there", || {
        let tasks = reader.succeeds("ask");
        let row = tasks.lines().find(|line| line.contains("llama-3-8b"))?;
        row.split_whitespace().find(|word| *word == "2").map(drop)
    });
    reader.succeeds("ask --task llama-3-8b --max-tokens 8 hello");
}

#[test]
fn the_readme_names_every_suite_and_script_that_is_there() {
    let readme = text("README.md");
    let suites = commands::suites(root());
    assert!(suites.len() >= 2, "{suites:?}");
    for suite in suites.iter().map(String::as_str).chain([".ci/run"]) {
        assert!(readme.contains(&format!("`{suite}`")), "{suite}");
    }
}

#[test]
fn what_needs_python_or_go_is_run_by_the_real_model_suite() {
    // A promise of this file about another: nothing in README.md is run by nobody.
    let suite = text("tests/real_model/run.sh");
    for part in ["grpcurl.py", "readme_python.py", "examples/python/hello.py"] {
        assert!(suite.contains(part), "{part}");
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

// === impl Reader ===

impl Reader {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("first-call.toml"), CONFIG).unwrap();
        Self {
            dir,
            gateway_process: None,
            miner: None,
            gateway: String::new(),
            peer: String::new(),
            admin: String::new(),
            model_server: ModelServer::start(),
            ran: 0,
        }
    }

    /// Runs a command, or knows who else does.
    fn types(&mut self, command: &str) {
        let words: Vec<_> = command.split_whitespace().collect();
        let own = command.strip_prefix(TAUGATE);
        match (own, words.as_slice()) {
            // This very run.
            (None, ["cargo", "test", "--locked"]) => return,
            // The real-model suite runs the Python block, in an environment like this one.
            (
                None,
                ["pip", "install", "grpcio", "grpcio-tools"] | ["PYTHONPATH=proto", "python3"],
            ) => {
                return;
            }
            (None, ["grpcurl", ..]) => {
                if !self.calls_grpcurl(command) {
                    return;
                }
            }
            (Some("gateway"), _) => self.starts_the_gateway(),
            (Some(line), ["cargo", _, _, _, "miner", ..]) => self.starts_a_miner(line),
            (Some(line), ["cargo", _, _, _, "demo", ..]) => {
                // A shorter one; tests/demo.rs looks at what it says.
                self.succeeds(&format!("{line} --minutes 0.5 --period-s 2"));
            }
            (Some(line), ["cargo", _, _, _, "ask" | "replay", ..]) => {
                let said = self.succeeds(line);
                assert!(!said.trim().is_empty(), "{command} says nothing");
            }
            (Some("status --watch"), _) => return, // It would go on; tests/terminal follows it.
            (Some(line), ["cargo", _, _, _, "status", ..]) => {
                // Of the miner that answered above.
                let said = self.succeeds(line);
                assert!(said.contains("\ntiny (chat)"), "{said}");
            }
            (Some(line), ["cargo", _, _, _, "weights", ..]) => {
                let said = self.succeeds(line);
                assert!(said.starts_with("uid,hotkey,weight\n,5"), "{said}");
            }
            (Some(line), ["cargo", _, _, _, "init", ..]) => {
                self.succeeds(line);
                assert!(self.dir.path().join("taugate.toml").exists());
            }
            (Some(line), ["cargo", _, _, _, "key", ..]) => {
                let key = self.succeeds(line);
                assert!(key.trim().starts_with("tgk_live_"), "{key} is no key");
            }
            (Some(line), ["cargo", _, _, _, "audit", ..]) => {
                // Of all that was asked above, of a gateway that runs.
                let said = self.succeeds(&line.replace("taugate.db", "first-call.db"));
                assert!(said.ends_with("everything adds up\n"), "{said}");
                assert!(!said.contains(" 0 receipts"), "{said}");
            }
            (Some(line), ["cargo", _, _, _, "gateway", ..]) if line.ends_with(" --check") => {
                assert!(self.succeeds(line).contains("[listen]"));
            }
            _ => panic!("README.md says `{command}`, and this test does not know it"),
        }
        self.ran += 1;
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env_remove("TAUGATE_CONFIG")
            .env_remove("TAUGATE_KEY")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .env("TAUGATE_GATEWAY", &self.gateway)
            .env("TAUGATE_ADMIN", &self.admin)
            .stdin(Stdio::null());
        command
    }

    /// Runs a line of taugate by the shell: it may hold quotes and a redirection.
    fn taugate(&self, line: &str) -> Output {
        let line = format!("\"$TAUGATE\" {line}");
        let mut shell = self.command("sh");
        shell.env("TAUGATE", env!("CARGO_BIN_EXE_taugate"));
        shell.arg("-c").arg(line).output().unwrap()
    }

    fn succeeds(&self, line: &str) -> String {
        let ended = self.taugate(line);
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let complained = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{line}: {said}{complained}");
        said
    }

    /// Starts a line of taugate; what it logs comes to the file that is returned.
    fn starts(&self, line: &str, more: &[&str]) -> (Running, PathBuf) {
        let name = line.split_whitespace().next().unwrap();
        let log = self.dir.path().join(format!("{name}.log"));
        let mut taugate = self.command(env!("CARGO_BIN_EXE_taugate"));
        let child = taugate
            .args(line.split_whitespace())
            .args(more)
            .env("TAUGATE_CONFIG", self.dir.path().join("first-call.toml"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn();
        (Running(child.unwrap()), log)
    }

    fn starts_the_gateway(&mut self) {
        let (gateway, log) = self.starts("gateway", &[]);
        self.gateway_process = Some(gateway);
        let ready = wait_for("the gateway is ready", || {
            let text = std::fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains(" ready "))?;
            Some(line.to_owned())
        });
        let address = |name: &str| {
            let found = ready.split_whitespace();
            let found = found.filter_map(|word| word.strip_prefix(name));
            format!("http://{}", found.take(1).collect::<String>())
        };
        (self.gateway, self.peer) = (address("public="), address("peer="));
        self.admin = address("admin=");
    }

    /// A miner, and its task is there and answers.
    fn starts_a_miner(&mut self, line: &str) {
        let server = format!("http://{}", self.model_server.address());
        let line = line.replace("http://127.0.0.1:8080", &server);
        let task = match line.split_once("--task ") {
            Some((_, task)) => task.split_whitespace().next().unwrap().to_owned(),
            None => model_server::MODEL.to_owned(),
        };
        self.miner = None;
        let more = ["--gateway", &self.peer, "--listen", "127.0.0.1:0"];
        let (miner, _) = self.starts(&line, &more);
        self.miner = Some(miner);
        wait_for("the miner's task is there", || {
            let tasks = self.taugate("ask");
            let listed = String::from_utf8_lossy(&tasks.stdout).contains(&task);
            listed.then_some(())
        });
        self.succeeds(&format!("ask --task {task} hello"));
    }

    /// Whether grpcurl is there; the real-model suite has it always.
    fn calls_grpcurl(&self, line: &str) -> bool {
        let built = root().join("peers/bin");
        #[expect(clippy::disallowed_methods, reason = "where a shell looks, too")]
        let path = std::env::var("PATH").unwrap_or_default();
        let there = built.join("grpcurl").exists()
            || path
                .split(':')
                .any(|dir| Path::new(dir).join("grpcurl").exists());
        if !there {
            return false;
        }
        let address = self.gateway.trim_start_matches("http://");
        let line = line.replace("127.0.0.1:50051", address);
        let path = format!("{}:{path}", built.display());
        let ended = self
            .command("sh")
            .env("PATH", path)
            .arg("-c")
            .arg(&line)
            .output();
        let ended = ended.unwrap();
        assert!(ended.status.success() && !ended.stdout.is_empty(), "{line}");
        true
    }
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}
