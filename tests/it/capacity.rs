//! What miners and a gateway say to each other of capacity, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use taugate::clock::{Clock as _, SystemClock};
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::proto::v1;
use taugate::proto::v1::capacity_service_client::CapacityServiceClient;
use taugate::proto::v1::watch_capacity_response::Event;
use taugate::registry::checked::RECORD_KIND;
use taugate::registry::snapshot::Availability;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::{TASK, TestGateway};

const DECLARE: &str = "/taugate.v1.CapacityService/Declare";
const WITHDRAW: &str = "/taugate.v1.CapacityService/Withdraw";
const SAY: &str = "/taugate.v1.CapacityService/SetAvailability";
const WATCH: &str = "/taugate.v1.CapacityService/WatchCapacity";

/// Somebody with a hotkey, at a gateway's peer listener.
struct Peer {
    key: Arc<Keypair>,
    signer: CallSigner,
    receiver: Hotkey,
    network: String,
    client: CapacityServiceClient<Channel>,
}

impl Peer {
    async fn new(name: &str, gateway: &TestGateway) -> Self {
        let address = gateway.gateway.addresses().peer;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("the gateway listens");
        let mut client = CapacityServiceClient::new(channel);
        // Not signed: it is how a miner learns for whom to sign.
        let about = client.get_gateway(v1::GetGatewayRequest {}).await;
        let about = about.expect("an answer").into_inner();
        let key = Arc::new(Keypair::from_secret(name).expect("a key"));
        Self {
            signer: CallSigner::new(Arc::clone(&key), Arc::new(SystemClock)),
            key,
            receiver: about.hotkey.parse().expect("a hotkey"),
            network: about.network,
            client,
        }
    }

    /// The metadata of a call to that method, for that receiver, over those bytes.
    fn signed(&self, path: &str, receiver: Hotkey, bytes: &[u8]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        let signed = self.signer.sign(&mut metadata, path, receiver, bytes);
        signed.expect("random bytes");
        metadata
    }

    fn request<M: Message>(&self, path: &str, message: M) -> Request<M> {
        let metadata = self.signed(path, self.receiver, &message.encode_to_vec());
        with(message, metadata)
    }

    fn declaration(&self, sequence: u64, tasks: &[&str]) -> v1::DeclareRequest {
        let now_ms = SystemClock.unix_ms();
        let tasks = tasks.iter().map(|task| v1::DeclaredTask {
            task: (*task).to_owned(),
            units_per_hour: 5_000,
            concurrency: 3,
            kind: v1::TaskKind::Chat.into(),
        });
        let declaration = v1::Declaration {
            network: self.network.clone(),
            hotkey: self.key.hotkey().to_string(),
            sequence,
            valid_from_ms: now_ms - 1_000,
            valid_until_ms: now_ms + 3_600_000,
            tasks: tasks.collect(),
        };
        let payload = declaration.encode_to_vec();
        v1::DeclareRequest {
            declaration: Some(v1::SignedRecord {
                signature: self.key.sign_record(RECORD_KIND, &payload).to_vec(),
                payload,
                hotkey: declaration.hotkey,
            }),
            endpoint: "http://127.0.0.1:9000".to_owned(),
        }
    }

    async fn declare(&self, sequence: u64) -> Result<v1::DeclareResponse, Status> {
        let declaration = self.declaration(sequence, &[TASK, "no-such-task"]);
        let request = self.request(DECLARE, declaration);
        let answer = self.client.clone().declare(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Sends a declaration with that metadata; the status.
    async fn refused(&self, message: v1::DeclareRequest, metadata: MetadataMap) -> Status {
        let answer = self.client.clone().declare(with(message, metadata)).await;
        answer.expect_err("it was taken")
    }

    /// Opens a stream of changes.
    fn say(&self) -> (mpsc::Sender<v1::SetAvailabilityRequest>, Said) {
        let (sender, receiver) = mpsc::channel(64);
        let metadata = self.signed(SAY, self.receiver, &[]);
        let request = with(ReceiverStream::new(receiver), metadata);
        let mut client = self.client.clone();
        let said = tokio::spawn(async move {
            let answer = client.set_availability(request).await;
            answer.map(|answer| answer.into_inner().counter)
        });
        (sender, said)
    }
}

type Said = tokio::task::JoinHandle<Result<u64, Status>>;

fn with<M>(message: M, metadata: MetadataMap) -> Request<M> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata;
    request
}

fn word(counter: u64, availability: v1::Availability) -> v1::SetAvailabilityRequest {
    v1::SetAvailabilityRequest {
        counter,
        availability: availability.into(),
        ..v1::SetAvailabilityRequest::default()
    }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.expect("a reason").reason
}

/// A gateway with one task and no room for others.
async fn closed() -> TestGateway {
    TestGateway::with(|config| {
        let mut task = taugate::task::Task::open_chat(TASK.into());
        task.weight = 1.0;
        config.tasks = Arc::new([task].into_iter().collect());
        config.registry.open_tasks = false;
    })
    .await
}

async fn availability(gateway: &TestGateway, hotkey: Hotkey, expected: Availability) {
    let name = hotkey.to_string();
    let what = format!("the miner is {expected:?}");
    gateway
        .until(&what, || {
            let snapshot = gateway.gateway.registry().snapshot();
            let mut offers = snapshot.markets[TASK].offers.iter();
            let offer = offers.find(|offer| *offer.miner.hotkey == *name);
            offer.is_some_and(|offer| offer.availability == expected)
        })
        .await;
}

#[tokio::test]
async fn a_miner_learns_what_of_its_declaration_counts() {
    let gateway = closed().await;
    let peer = Peer::new("//One", &gateway).await;
    let answer = peer.declare(7).await.expect("it is taken");
    let expected = |task: &str, allotment, left_out: &str| v1::Allotment {
        task: task.to_owned(),
        declared: 5_000,
        allotment,
        posted: 0,
        left_out: left_out.to_owned(),
    };
    let counts = expected(TASK, 5_000, "");
    let unknown = expected("no-such-task", 0, "unknown_task");
    assert_eq!(answer.allotments, [counts, unknown]);
    let stale = peer.declare(6).await.expect_err("it is older");
    assert_eq!(
        (stale.code(), reason(&stale).as_str()),
        (Code::InvalidArgument, "STALE")
    );
    let request = peer.request(WITHDRAW, v1::WithdrawRequest { sequence: 7 });
    let withdrawn = peer.client.clone().withdraw(request).await;
    withdrawn.expect("it is taken back");
    let snapshot = gateway.gateway.registry().snapshot();
    assert!(snapshot.markets[TASK].offers.is_empty());
}

/// Metadata that is wrong in one thing each, for a declaration of these bytes.
fn tricks(peer: &Peer, bytes: &[u8]) -> Vec<(&'static str, MetadataMap)> {
    let good = || peer.signed(DECLARE, peer.receiver, bytes);
    let wrapped = [b"<Bytes>", bytes, b"</Bytes>"].concat();
    let changed = |change: &dyn Fn(&mut MetadataMap)| {
        let mut metadata = good();
        change(&mut metadata);
        metadata
    };
    let bin = |name: &'static str, value: &'static [u8]| {
        changed(&|metadata| {
            metadata.insert_bin(name, tonic::metadata::MetadataValue::from_bytes(value));
        })
    };
    let old_ms = (SystemClock.unix_ms() - 60_000).to_string();
    vec![
        ("nothing", MetadataMap::new()),
        (
            "another receiver",
            peer.signed(DECLARE, peer.key.hotkey(), bytes),
        ),
        (
            "another method",
            peer.signed(WITHDRAW, peer.receiver, bytes),
        ),
        ("other bytes", peer.signed(DECLARE, peer.receiver, b"")),
        (
            "wrapped bytes",
            peer.signed(DECLARE, peer.receiver, &wrapped),
        ),
        ("no signature", bin("taugate-signature-bin", &[])),
        ("63 bytes", bin("taugate-signature-bin", &[0; 63])),
        ("another nonce", bin("taugate-nonce-bin", &[0; 16])),
        (
            "another time",
            changed(&|metadata| {
                metadata.insert("taugate-timestamp-ms", old_ms.parse().expect("digits"));
            }),
        ),
        (
            "another sender",
            changed(&|metadata| {
                let bob = Keypair::from_secret("//Bob").expect("a key").hotkey();
                let bob = bob.to_string().parse().expect("an address");
                metadata.insert("taugate-hotkey", bob);
            }),
        ),
    ]
}

#[tokio::test]
async fn case_26_a_call_counts_for_its_sender_receiver_method_time_and_bytes_once() {
    // N25 too: at another miner or method, the nonce before the check, no signature.
    let gateway = closed().await;
    let peer = Peer::new("//One", &gateway).await;
    let message = peer.declaration(1, &[TASK]);
    let bytes = message.encode_to_vec();
    let good = || peer.signed(DECLARE, peer.receiver, &bytes);
    for (what, metadata) in tricks(&peer, &bytes) {
        let status = peer.refused(message.clone(), metadata).await;
        let expected = (Code::Unauthenticated, "credentials are missing or wrong");
        assert_eq!((status.code(), status.message()), expected, "{what}");
    }
    let snapshot = gateway.gateway.registry().snapshot();
    assert!(
        snapshot.markets[TASK].offers.is_empty(),
        "something changed"
    );

    let metadata = good();
    let request = with(message.clone(), metadata.clone());
    let taken = peer.client.clone().declare(request).await;
    taken.expect("what is right is taken");
    let replayed = peer.refused(message.clone(), metadata).await;
    assert_eq!(replayed.code(), Code::Unauthenticated);
    let mut moved = message;
    moved.endpoint = "http://127.0.0.1:9666".to_owned();
    let redirected = peer.refused(moved, good()).await;
    assert_eq!(
        redirected.code(),
        Code::Unauthenticated,
        "the endpoint is covered"
    );
}

#[tokio::test]
async fn a_hotkey_declares_for_itself_and_only_when_it_is_listed() {
    let gateway = TestGateway::with(|config| {
        config.registry.open_registration = false;
        let one = Keypair::from_secret("//One").expect("a key").hotkey();
        config.registry.hotkeys = vec![one.to_string()];
    })
    .await;
    let listed = Peer::new("//One", &gateway).await;
    listed.declare(1).await.expect("a listed hotkey declares");
    let stranger = Peer::new("//Two", &gateway).await;
    let status = stranger.declare(1).await.expect_err("a stranger declared");
    let found = (status.code(), reason(&status));
    assert_eq!(found, (Code::PermissionDenied, "NOT_REGISTERED".to_owned()));
    // Another's declaration, in a call of one's own.
    let request = listed.request(DECLARE, stranger.declaration(2, &[TASK]));
    let status = listed.client.clone().declare(request).await;
    let status = status.expect_err("it is another's");
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn case_11_a_flood_of_declarations_is_told_when_to_come_back() {
    let gateway = closed().await;
    let peer = Peer::new("//One", &gateway).await;
    let mut refused = None;
    for sequence in 1..100 {
        if let Err(status) = peer.declare(sequence).await {
            refused = Some(status);
            break;
        }
    }
    let status = refused.expect("a hundred declarations were taken");
    let found = (status.code(), reason(&status));
    assert_eq!(found, (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    let retry = status.get_details_retry_info().expect("a time");
    assert!(retry.retry_delay.is_some_and(|wait| wait > Duration::ZERO));
}

#[tokio::test]
async fn case_11_of_two_streams_of_one_hotkey_the_newest_lives() {
    let gateway = closed().await;
    let peer = Peer::new("//One", &gateway).await;
    peer.declare(1).await.expect("it is taken");
    let hotkey = peer.key.hotkey();
    let (first, ended) = peer.say();
    let busy = word(1, v1::Availability::Busy);
    first.send(busy).await.expect("the stream is open");
    availability(&gateway, hotkey, Availability::Busy).await;

    let (second, done) = peer.say();
    let status = ended.await.expect("no panic").expect_err("it lives");
    let found = (status.code(), reason(&status));
    assert_eq!(found, (Code::Aborted, "SESSION_SUPERSEDED".to_owned()));
    drop(first);
    for (counter, said) in [(1, v1::Availability::Free), (2, v1::Availability::Draining)] {
        second.send(word(counter, said)).await.expect("it is open");
    }
    availability(&gateway, hotkey, Availability::Draining).await;
    let last = v1::SetAvailabilityRequest {
        last: true,
        ..word(3, v1::Availability::Busy)
    };
    second.send(last).await.expect("it is open");
    assert_eq!(done.await.expect("no panic").expect("an answer"), 3);
    availability(&gateway, hotkey, Availability::Busy).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_off_takes_its_busy_back() {
    let gateway = closed().await;
    let peer = Peer::new("//One", &gateway).await;
    peer.declare(1).await.expect("it is taken");
    let (sender, said) = peer.say();
    let busy = word(1, v1::Availability::Busy);
    sender.send(busy).await.expect("the stream is open");
    availability(&gateway, peer.key.hotkey(), Availability::Busy).await;
    said.abort();
    availability(&gateway, peer.key.hotkey(), Availability::Free).await;

    let (sender, said) = peer.say();
    let unsaid = word(2, v1::Availability::Unspecified);
    sender.send(unsaid).await.expect("the stream is open");
    let status = said.await.expect("no panic").expect_err("nothing was said");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_miner_watches_its_own_cells() {
    let gateway = closed().await;
    let (one, two) = (
        Peer::new("//One", &gateway).await,
        Peer::new("//Two", &gateway).await,
    );
    one.declare(1).await.expect("it is taken");
    two.declare(1).await.expect("it is taken");
    let request = one.request(WATCH, v1::WatchCapacityRequest::default());
    let events = one.client.clone().watch_capacity(request).await;
    let mut events = events.expect("a stream").into_inner();
    let mut next = async || {
        let event = events.message().await.expect("no error");
        event.expect("it goes on").event.expect("an event")
    };
    let Event::Entry(entry) = next().await else {
        panic!("the entries come first");
    };
    assert_eq!(entry.miner, one.key.hotkey().to_string());
    assert_eq!(
        (entry.declared, entry.allotment, entry.posted),
        (5_000, 5_000, 0)
    );
    assert!(
        matches!(next().await, Event::SnapshotEnd(_)),
        "another's cell came"
    );

    let (sender, _said) = one.say();
    let busy = word(1, v1::Availability::Busy);
    sender.send(busy).await.expect("the stream is open");
    let Event::Entry(entry) = next().await else {
        panic!("a change is an entry");
    };
    assert_eq!(entry.availability(), v1::Availability::Busy);
}
