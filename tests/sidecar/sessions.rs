//! Who may have a miner's work: gateways of validators that proved who they are, in sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use taugate::clock::{Clock as _, ManualClock, SharedClock, SystemClock};
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::identity::session::{Asked, Opened};
use taugate::proto::v1;
use taugate::proto::v1::miner_service_client::MinerServiceClient;
use taugate::sidecar::model::Models;
use taugate::sidecar::serve::{MinerDoor, serve};
use taugate::sidecar::sessions::{Sessions, Validators};
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const OPEN: &str = "/taugate.v1.MinerService/OpenSession";
const GENERATE: &str = "/taugate.v1.MinerService/Generate";

fn key(name: &str) -> Keypair {
    Keypair::from_secret(name).unwrap()
}

/// A miner that is called //Bob.
struct Miner {
    client: MinerServiceClient<Channel>,
    sessions: Arc<Sessions>,
    _stop: DropGuard,
    _serving: AbortOnDropHandle<()>,
}

/// A gateway's signer and the session that it opened.
struct Gateway {
    client: MinerServiceClient<Channel>,
    opened: Opened,
}

fn sessions(validators: Validators, clock: SharedClock) -> Sessions {
    Sessions::new(Arc::new(key("//Bob")), clock, Arc::new(validators))
}

fn only_alice() -> Validators {
    Validators::listed(BTreeSet::from([key("//Alice").hotkey()]))
}

// === impl Miner ===

impl Miner {
    async fn start(sessions: Sessions) -> Self {
        let sessions = Arc::new(sessions);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let model = Arc::new(SimulatedModel::new(Simulation {
            tokens_per_s: 0.0,
            prefill_tokens_per_s: 0.0,
            ..Simulation::default()
        }));
        let door = MinerDoor::new(Models::from([("m".into(), model as _)]), 8);
        let door = door.in_sessions(Arc::clone(&sessions));
        let stop = CancellationToken::new();
        let serving = serve(listener, door, stop.clone(), Duration::ZERO);
        #[expect(clippy::disallowed_methods, reason = "ends with the handle")]
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        Self {
            client: MinerServiceClient::new(channel),
            sessions,
            _stop: stop.drop_guard(),
            _serving: serving,
        }
    }

    async fn gateway(&self, name: &str) -> Result<Gateway, Status> {
        let (asked, question) = ask(name, Arc::new(SystemClock));
        let answer = self.client.clone().open_session(question).await?;
        Ok(Gateway {
            client: self.client.clone(),
            opened: asked.opened(answer.get_ref()).unwrap(),
        })
    }
}

// === impl Gateway ===

impl Gateway {
    /// A request with that number, marked as of the session.
    fn request(&self, counter: u64) -> Request<v1::MinerGenerateRequest> {
        let mut request = request();
        let bytes = request.get_ref().encode_to_vec();
        let session = (&self.opened.id, counter);
        let metadata = request.metadata_mut();
        self.opened.key.mark(metadata, session, (GENERATE, &bytes));
        request
    }

    async fn send(&self, request: Request<v1::MinerGenerateRequest>) -> Code {
        code(self.client.clone().generate(request).await)
    }
}

fn ask(name: &str, clock: SharedClock) -> (Asked, v1::OpenSessionRequest) {
    let signer = CallSigner::new(Arc::new(key(name)), clock);
    Asked::new(&signer, key("//Bob").hotkey()).unwrap()
}

fn request() -> Request<v1::MinerGenerateRequest> {
    super::request(super::chat())
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// The row of a signed call, made by hand from the protocol's words.
fn row(path: &str, receiver: Hotkey, sender: Hotkey, question: &v1::OpenSessionRequest) -> Vec<u8> {
    let digest = Sha256::digest(&question.ephemeral_key);
    let fields: [&[u8]; 7] = [
        b"taugate-auth-v1",
        path.as_bytes(),
        receiver.as_bytes(),
        sender.as_bytes(),
        &question.timestamp_ms.to_be_bytes(),
        &question.nonce,
        &digest,
    ];
    let framed = fields.map(|field| {
        let length = u32::try_from(field.len()).unwrap().to_be_bytes();
        [&length, field].concat()
    });
    framed.concat()
}

/// Case 26 and N25: a question for a session is good for its sender, receiver, method, time
/// and key, once; and whatever is refused leaves the nonce as it was.
#[tokio::test]
async fn case_26_a_session_is_opened_by_a_whole_signature_of_now_only() {
    let miner = Miner::start(sessions(only_alice(), Arc::new(SystemClock))).await;
    let (alice, bob) = (key("//Alice"), key("//Bob").hotkey());
    let (_, good) = ask("//Alice", Arc::new(SystemClock));
    let with = |change: &dyn Fn(&mut v1::OpenSessionRequest)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let signed = |path: &str, receiver: Hotkey, by: &Keypair| {
        let signature = by.sign(&row(path, receiver, alice.hotkey(), &good));
        with(&|bad| bad.signature = signature.to_vec())
    };
    let wrapped = row(OPEN, bob, alice.hotkey(), &good);
    let wrapped = alice.sign(&[b"<Bytes>", &wrapped[..], b"</Bytes>"].concat());
    let at = |by_ms: i64| {
        let mut bad = good.clone();
        bad.timestamp_ms = bad.timestamp_ms.checked_add_signed(by_ms).unwrap();
        let signature = alice.sign(&row(OPEN, bob, alice.hotkey(), &bad));
        bad.signature = signature.to_vec();
        bad
    };
    let polkadot = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5";
    let mistyped = alice.hotkey().to_string().replacen('w', "x", 1);
    let table = [
        ("absent", with(&|bad| bad.signature.clear())),
        ("0x", with(&|bad| bad.signature = b"0x".to_vec())),
        ("63 bytes", with(&|bad| bad.signature.truncate(63))),
        ("65 bytes", with(&|bad| bad.signature.push(0))),
        ("unmarked", with(&|bad| bad.signature[63] &= 0x7f)),
        ("a flipped bit", with(&|bad| bad.signature[0] ^= 1)),
        ("another method", signed(GENERATE, bob, &alice)),
        ("another receiver", signed(OPEN, alice.hotkey(), &alice)),
        ("another signer", signed(OPEN, bob, &key("//Mallory"))),
        ("<Bytes>", with(&|bad| bad.signature = wrapped.to_vec())),
        ("past", at(-60_000)),
        ("future", at(60_000)),
        ("no sender", with(&|bad| bad.gateway.clear())),
        ("wrong prefix", with(&|bad| bad.gateway = polkadot.into())),
        (
            "wrong checksum",
            with(&|bad| bad.gateway = mistyped.clone()),
        ),
        (
            "for another miner",
            with(&|bad| bad.miner = bad.gateway.clone()),
        ),
        ("a short nonce", with(&|bad| bad.nonce.truncate(15))),
        ("another nonce", with(&|bad| bad.nonce[0] ^= 1)),
        ("another key", with(&|bad| bad.ephemeral_key[0] ^= 1)),
        ("a short key", with(&|bad| bad.ephemeral_key.truncate(31))),
    ];
    let mut client = miner.client.clone();
    let mut texts = BTreeSet::new();
    for (what, bad) in table {
        let refused = client.open_session(bad).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        texts.insert(refused.message().to_owned());
    }
    assert_eq!(texts.len(), 1, "one text for everything: {texts:?}");
    let (_, stranger) = ask("//Mallory", Arc::new(SystemClock));
    let refused = client.open_session(stranger).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "not registered");
    assert!(miner.sessions.is_empty());
    // All of them had this nonce, and none has spent it.
    assert_eq!(code(client.open_session(good.clone()).await), Code::Ok);
    let replayed = code(client.open_session(good).await);
    assert_eq!(replayed, Code::Unauthenticated, "a replay");
    assert_eq!(miner.sessions.len(), 1);
}

/// N25: a request counts for its session, its method and its bytes, once; in any order.
#[tokio::test]
async fn n25_a_request_is_good_once_for_its_session_number_and_bytes() {
    let miner = Miner::start(sessions(only_alice(), Arc::new(SystemClock))).await;
    let (gateway, other) = (
        miner.gateway("//Alice").await.unwrap(),
        miner.gateway("//Alice").await.unwrap(),
    );
    let refused = Code::Unauthenticated;
    assert_eq!(gateway.send(request()).await, refused, "of no session");
    assert_eq!(gateway.send(gateway.request(3)).await, Code::Ok);
    assert_eq!(gateway.send(gateway.request(3)).await, refused, "a replay");
    let mut changed = gateway.request(4);
    changed.get_mut().attempt_id.push('x');
    assert_eq!(gateway.send(changed).await, refused, "other bytes");
    let moved = |change: &dyn Fn(&mut MetadataMap)| {
        let mut request = gateway.request(4);
        change(request.metadata_mut());
        request
    };
    let renumbered = moved(&|of| drop(of.insert("taugate-counter", "5".parse().unwrap())));
    assert_eq!(gateway.send(renumbered).await, refused, "another number");
    let theirs = other.request(4);
    let session = theirs.metadata().get_bin("taugate-session-bin").unwrap();
    let stolen = moved(&|of| drop(of.insert_bin("taugate-session-bin", session.clone())));
    assert_eq!(gateway.send(stolen).await, refused, "another session");
    let halved = moved(&|of| drop(of.remove_bin("taugate-mac-bin")));
    assert_eq!(gateway.send(halved).await, refused, "without its hash");
    // What was refused has not spent its number, and the order does not matter.
    assert_eq!(gateway.send(gateway.request(4)).await, Code::Ok);
    assert_eq!(gateway.send(gateway.request(0)).await, Code::Ok);
    assert_eq!(other.send(theirs).await, Code::Ok);
    miner.sessions.forget();
    assert_eq!(gateway.send(gateway.request(9)).await, refused, "forgotten");
}

#[tokio::test]
async fn a_session_ends_and_who_is_let_in_without_one_is_let_in() {
    let over = sessions(only_alice(), Arc::new(SystemClock)).lasting(Duration::ZERO);
    let miner = Miner::start(over).await;
    let gateway = miner.gateway("//Alice").await.unwrap();
    let refused = Code::Unauthenticated;
    assert_eq!(gateway.send(gateway.request(0)).await, refused, "it ended");

    let open = sessions(Validators::anyone(), Arc::new(SystemClock));
    let miner = Miner::start(open).await;
    let gateway = miner.gateway("//Mallory").await.unwrap();
    assert_eq!(gateway.send(request()).await, Code::Ok);
    assert_eq!(gateway.send(gateway.request(0)).await, Code::Ok);
    // Who says to be of a session is.
    assert_eq!(gateway.send(gateway.request(0)).await, refused);
}

#[tokio::test]
async fn the_validators_are_those_whose_gateways_are_declared_to() {
    let learned = sessions(Validators::learned(), Arc::new(SystemClock));
    let miner = Miner::start(learned).await;
    let denied = miner.gateway("//Alice").await.map(drop).unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let alice = key("//Alice").hotkey().to_string();
    let validators = miner.sessions.validators();
    validators.learn("http://here:1", &alice);
    let gateway = miner.gateway("//Alice").await.unwrap();
    assert_eq!(gateway.send(gateway.request(0)).await, Code::Ok);
    // The gateway at that address has another hotkey now: the old one's sessions end, too.
    validators.learn("http://here:1", &key("//Mallory").hotkey().to_string());
    let refused = gateway.send(gateway.request(1)).await;
    assert_eq!(refused, Code::Unauthenticated);
}

#[tokio::test]
async fn sessions_and_nonces_are_bounded() {
    let clock = Arc::new(ManualClock::at(SystemClock.unix_ms()));
    let held = sessions(Validators::anyone(), Arc::clone(&clock) as SharedClock);
    let open = async |count: usize| {
        let mut refused = 0;
        for _ in 0..count {
            let (_, question) = ask("//Alice", Arc::clone(&clock) as SharedClock);
            let answer = held.open(&question).await;
            refused += usize::from(code(answer) == Code::ResourceExhausted);
        }
        refused
    };
    assert_eq!(open(520).await, 8, "too many at once");
    assert_eq!(held.len(), 512);
    clock.set(clock.unix_ms() + 20_000);
    assert_eq!(open(10).await, 0, "the nonces are old");
    assert_eq!(held.len(), 512, "the newest take the places of the oldest");
    let (_, question) = ask("//Bob//other", Arc::clone(&clock) as SharedClock);
    assert_eq!(code(held.open(&question).await), Code::Ok, "another's");
    assert_eq!(held.len(), 513);
}
