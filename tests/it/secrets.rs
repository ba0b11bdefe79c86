//! A whole run of the real programs, with everything logged and traced that there is: no
//! secret is in what they leave behind.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use curve25519_dalek::MontgomeryPoint;
use parking_lot::Mutex;
use prost::Message as _;
use schnorrkel::{ExpansionMode, MiniSecretKey};
use sha2::{Digest as _, Sha256};
use taugate::clock::{Clock as _, SystemClock};
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::proto::v1;
use taugate::proto::v1::miner_service_client::MinerServiceClient;
use taugate::proto::v1::miner_service_server::{MinerService, MinerServiceServer};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tonic::{Code, Request, Response, Status};

use crate::defects::traces::Collector;
use crate::support::chat;
use crate::support::miner::serve;
use crate::support::process::{Place, Process};
use crate::support::{TASK, wire};

/// What must not be found, and what it is.
#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<Vec<Secret>>>);

/// What it is, and its bytes.
type Secret = (&'static str, Vec<u8>);

/// Places, and what was left in them.
type Left = Vec<(String, Vec<u8>)>;

/// A miner that tells the test what a session's secrets are; it does no work.
#[derive(Clone)]
struct Confidant {
    key: Arc<Keypair>,
    gateway: Hotkey,
    secrets: Secrets,
}

// === impl Secrets ===

impl Secrets {
    fn add(&self, what: &'static str, bytes: &[u8]) {
        self.0.lock().push((what, bytes.to_vec()));
    }

    /// A hotkey of that seed, and the file that holds it.
    fn hotkey(&self, what: &'static str, seed: u8, dir: &Path) -> (Keypair, String) {
        let seed: [u8; 32] = Sha256::digest([seed]).into();
        self.add(what, &seed);
        let mini = MiniSecretKey::from_bytes(&seed).expect("a seed");
        let expanded = mini.expand(ExpansionMode::Ed25519);
        // The nonce half is no secret that a key can be made of, but nobody's business.
        for half in expanded
            .to_bytes()
            .chunks(32)
            .chain(expanded.to_ed25519_bytes().chunks(32))
        {
            self.add(what, half);
        }
        let file = dir.join(format!("{}.json", what.replace(' ', "-")));
        let keypair = Keypair::from_seed(seed);
        keypair.save(&file).expect("a file");
        (keypair, file.display().to_string())
    }

    /// What two sides make of their ephemeral keys.
    fn session(&self, secret: [u8; 32], theirs: [u8; 32], signed: &[u8]) -> [u8; 32] {
        let shared = MontgomeryPoint(theirs).mul_clamped(secret).to_bytes();
        let key = keyed(&shared, &fields(&[signed]));
        self.add("an ephemeral key", &secret);
        self.add("a shared secret", &shared);
        self.add("a session's key", &key);
        key
    }

    fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Where secrets stand, in any of the ways in which bytes are written.
    fn found(&self, left: &Left) -> Vec<String> {
        let secrets = self.0.lock().clone();
        let mut found = Vec::new();
        for (place, haystack) in left {
            for (what, secret) in &secrets {
                let shown = written(secret).into_iter();
                let shown = shown.filter(|(_, needle)| contains(haystack, needle));
                found.extend(shown.map(|(how, _)| format!("{what} in {place}, {how}")));
            }
        }
        found
    }
}

fn written(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let list = format!("{secret:?}");
    vec![
        ("raw", secret.to_vec()),
        ("hex", hex::encode(secret).into_bytes()),
        ("upper hex", hex::encode_upper(secret).into_bytes()),
        ("base64", STANDARD_NO_PAD.encode(secret).into_bytes()),
        (
            "base64 for URLs",
            URL_SAFE_NO_PAD.encode(secret).into_bytes(),
        ),
        ("base58", bs58::encode(secret).into_vec()),
        ("a list", list.trim_matches(['[', ']']).as_bytes().to_vec()),
        (
            "a tight list",
            list.trim_matches(['[', ']']).replace(' ', "").into_bytes(),
        ),
        ("escaped", secret.escape_ascii().to_string().into_bytes()),
    ]
}

/// Quick enough for megabytes of log.
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else {
        return false;
    };
    let mut at = haystack;
    while let Some(next) = at.iter().position(|byte| byte == first) {
        at = &at[next + 1..];
        if at.starts_with(rest) {
            return true;
        }
    }
    false
}

fn keyed(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut hash = Blake2bMac::<U32>::new_from_slice(key).expect("a key");
    hash.update(message);
    hash.finalize_fixed().into()
}

fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let framed = parts.iter().map(|part| {
        let length = u32::try_from(part.len()).expect("short").to_be_bytes();
        [&length, *part].concat()
    });
    framed.collect::<Vec<_>>().concat()
}

/// What a gateway signs for a session.
fn row(question: &v1::OpenSessionRequest, miner: Hotkey, gateway: Hotkey) -> Vec<u8> {
    fields(&[
        b"taugate-auth-v1",
        b"/taugate.v1.MinerService/OpenSession",
        miner.as_bytes(),
        gateway.as_bytes(),
        &question.timestamp_ms.to_be_bytes(),
        &question.nonce,
        &Sha256::digest(&question.ephemeral_key),
    ])
}

/// What a miner signs for one.
fn answered(row: &[u8], answer: &v1::OpenSessionResponse) -> Vec<u8> {
    fields(&[
        b"taugate-session-v1",
        row,
        &answer.session_id,
        &answer.ephemeral_key,
        &answer.expires_ms.to_be_bytes(),
    ])
}

// === impl Confidant ===

#[tonic::async_trait]
impl MinerService for Confidant {
    async fn open_session(
        &self,
        question: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let question = question.into_inner();
        let secret: [u8; 32] = Sha256::digest(&question.nonce).into();
        let mut answer = v1::OpenSessionResponse {
            session_id: question.nonce.clone(),
            ephemeral_key: MontgomeryPoint::mul_base_clamped(secret)
                .to_bytes()
                .to_vec(),
            expires_ms: SystemClock.unix_ms() + 600_000,
            signature: Vec::new(),
        };
        let row = row(&question, self.key.hotkey(), self.gateway);
        let signed = answered(&row, &answer);
        let theirs = question.ephemeral_key.try_into().expect("32 bytes");
        self.secrets.session(secret, theirs, &signed);
        answer.signature = self.key.sign(&signed).to_vec();
        Ok(Response::new(answer))
    }

    type GenerateStream = tokio_stream::Empty<Result<v1::MinerGenerateResponse, Status>>;

    async fn generate(
        &self,
        request: Request<v1::MinerGenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let session = request.metadata().get_bin("taugate-session-bin");
        assert!(session.is_some(), "the gateway took the session for one");
        Err(Status::internal("no work is done here"))
    }
}

/// Opens a session with the real miner, as its validator; it holds.
async fn open_session(miner: SocketAddr, keys: (&Keypair, &Keypair), secrets: &Secrets) {
    let (gateway, theirs) = keys;
    let secret: [u8; 32] = Sha256::digest(b"the test's own").into();
    let mut question = v1::OpenSessionRequest {
        gateway: gateway.hotkey().to_string(),
        miner: theirs.hotkey().to_string(),
        ephemeral_key: MontgomeryPoint::mul_base_clamped(secret)
            .to_bytes()
            .to_vec(),
        timestamp_ms: SystemClock.unix_ms(),
        nonce: Sha256::digest(secret)[..16].to_vec(),
        signature: Vec::new(),
    };
    let row = row(&question, theirs.hotkey(), gateway.hotkey());
    question.signature = gateway.sign(&row).to_vec();
    let client = MinerServiceClient::connect(format!("http://{miner}")).await;
    let mut client = client.expect("the miner listens");
    let answer = client.open_session(question.clone()).await;
    let answer = answer.expect("a session").into_inner();
    let ephemeral = answer.ephemeral_key.clone().try_into().expect("32 bytes");
    let key = secrets.session(secret, ephemeral, &answered(&row, &answer));
    let mut work = Request::new(v1::MinerGenerateRequest::default());
    let path = b"/taugate.v1.MinerService/Generate";
    let hashed = fields(&[path, &0_u64.to_be_bytes(), &work.get_ref().encode_to_vec()]);
    let metadata = work.metadata_mut();
    let binary = tonic::metadata::MetadataValue::from_bytes;
    metadata.insert_bin("taugate-session-bin", binary(&answer.session_id));
    metadata.insert("taugate-counter", "0".parse().expect("ASCII"));
    metadata.insert_bin("taugate-mac-bin", binary(&keyed(&key, &hashed)));
    let done = client.generate(work).await.expect_err("no such task");
    assert_eq!(done.code(), Code::NotFound, "the session holds");
    // Faults are logged with more than what goes well.
    question.signature[0] ^= 1;
    assert!(client.open_session(question).await.is_err());
}

/// A miner's program, where it listens, and what it says.
async fn miner(key: &str, validator: Hotkey, peer: SocketAddr) -> (Child, SocketAddr, Lines) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_taugate"))
        .args([
            "miner",
            "--simulate",
            "--task",
            TASK,
            "--json-logs",
            "--drain-s=0",
        ])
        .args(["--tokens-per-s=0", "--listen=127.0.0.1:0", "--key", key])
        .args(["--validator", &validator.to_string()])
        .args(["--gateway", &format!("http://{peer}")])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut reader = BufReader::new(child.stderr.take().expect("its log")).lines();
    let lines = Lines::default();
    let listens = loop {
        let line = reader.next_line().await.expect("text").expect("it listens");
        lines.lock().push_str(&line);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = line["fields"]["address"].as_str() {
            break address.parse().expect("an address");
        }
    };
    let written = Arc::clone(&lines);
    // Ends with the child.
    tokio::task::spawn(async move {
        while let Ok(Some(line)) = reader.next_line().await {
            written.lock().push_str(&line);
        }
    });
    (child, listens, lines)
}

type Lines = Arc<Mutex<String>>;

/// Makes a client's key; its text.
async fn client_key(place: &Place, secrets: &Secrets) -> String {
    let made = place.run(&["key", "create", "app"]).await;
    assert!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout).expect("text");
    let key = key.trim().to_owned();
    secrets.add("a client's key", key.as_bytes());
    let secret = key.rsplit('_').next().expect("a secret part");
    secrets.add("a client's secret", secret.as_bytes());
    key
}

/// A run with work, faults and refusals: what is left of it, and the id of a call.
async fn run(place: &Place, secrets: &Secrets, dir: &Path) -> (Left, String, Hotkey) {
    let (validator, validator_file) = secrets.hotkey("the validator's seed", 1, dir);
    let (theirs, miner_file) = secrets.hotkey("the miner's seed", 2, dir);
    place.hotkey(&validator_file);
    place.log_everything();
    let key = client_key(place, secrets).await;
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let collects = listener.local_addr().expect("an address");
    let collecting = tokio::task::spawn(collector.clone().serve(listener));
    let gateway = place.start_traced(collects).await;
    let hotkey = validator.hotkey();
    let (mut sidecar, listens, lines) = miner(&miner_file, hotkey, gateway.peer()).await;

    let mut refusals = Vec::new();
    let id = until_answered(&gateway, &key, &mut refusals).await;
    open_session(listens, (&validator, &theirs), secrets).await;
    let confidant = Confidant {
        key: Arc::new(Keypair::from_secret("//Confidant").expect("a key")),
        gateway: hotkey,
        secrets: secrets.clone(),
    };
    let (at, serving) = serve(MinerServiceServer::new(confidant)).await;
    gateway.declare("//Confidant", at, 1_000_000_000).await;
    // Its calls fail, and go to the other.
    let known = secrets.count();
    while secrets.count() == known {
        until_answered(&gateway, &key, &mut refusals).await;
    }
    for wrong in [format!("{key}x"), key.to_uppercase(), String::new()] {
        let refused = gateway.client(&wrong).await.generate(chat("hello")).await;
        refusals.push(refused.expect_err("no key"));
    }
    let mut pages = String::new();
    for page in ["/metrics", "/v1/status", "/v1/scores"] {
        pages.push_str(&wire::fetch(gateway.admin(), page).await);
    }
    let logged = gateway.log();
    gateway.stop().await;
    sidecar.kill().await.expect("it ends");
    collecting.abort();
    serving.abort();
    let spans = collector.0.lock().clone();
    let traces = spans.iter().flat_map(prost::Message::encode_to_vec);
    let logged: String = logged.lock().iter().map(ToString::to_string).collect();
    let left = vec![
        ("the gateway's log".to_owned(), logged.into_bytes()),
        (
            "the miner's log".to_owned(),
            lines.lock().clone().into_bytes(),
        ),
        ("traces".to_owned(), traces.collect()),
        ("refusals".to_owned(), format!("{refusals:?}").into_bytes()),
        ("pages".to_owned(), pages.into_bytes()),
    ];
    (left, id, theirs.hotkey())
}

/// Asks until an answer comes; its id.
async fn until_answered(gateway: &Process, key: &str, refusals: &mut Vec<Status>) -> String {
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut client = gateway.client(key).await;
    loop {
        match client.generate(chat("hello")).await {
            Ok(answer) => return answer.into_inner().request_id,
            Err(status) => refusals.push(status),
        }
        assert!(tokio::time::Instant::now() < patience, "{refusals:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The store and what stands beside it.
fn files(place: &Place) -> Left {
    let store = place.store();
    let dir = store.parent().expect("a directory").read_dir();
    let paths = dir.expect("it is there").flatten();
    let paths = paths
        .map(|entry| entry.path())
        .filter(|path| path.is_file());
    let name = |path: &Path| path.file_name().expect("a name").display().to_string();
    paths
        .map(|path| (name(&path), std::fs::read(&path).expect("a file")))
        .collect()
}

/// N34: symmetric keys stood in clear in a database. Here no secret of a run (the seeds and
/// keys of both hotkeys, a client's key, what sessions are made of) is in logs, traces, pages,
/// refusals or the store, in none of the ways in which bytes are written.
#[tokio::test]
async fn n34_a_whole_run_leaves_no_secret_behind() {
    let (secrets, dir) = (
        Secrets::default(),
        tempfile::tempdir().expect("a directory"),
    );
    let place = Place::new(
        "[keys]\nrequired = true\n[registry]\nopen_registration = true\nopen_tasks = true\n",
    );
    let (mut left, id, miner) = run(&place, &secrets, dir.path()).await;
    left.extend(files(&place));
    let found = secrets.found(&left);
    assert!(found.is_empty(), "{found:#?}");

    // The search finds what is there: names that are no secret.
    let told = Secrets::default();
    told.add("an id", id.as_bytes());
    told.add("a hotkey", miner.to_string().as_bytes());
    let told = told.found(&left);
    for expected in [
        "an id in traces, raw",
        "an id in the gateway's log, raw",
        "a hotkey in the gateway's log, raw",
        "a hotkey in pages, raw",
        "a hotkey in taugate.db, raw",
    ] {
        let is = told.iter().any(|told| told == expected);
        assert!(is, "{expected}: {told:#?}");
    }
}
