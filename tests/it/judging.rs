//! Answers for who judges outside, and findings from there, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use taugate::clock::SystemClock;
use taugate::identity::api_key::KeyStore as _;
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::identity::key_ring::{KeyGrant, NewKey};
use taugate::proto::v1;
use taugate::proto::v1::consumption_service_client::ConsumptionServiceClient;
use taugate::proto::v1::watch_plan_response::Event;
use taugate::synthetic::finding::FindingStore as _;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::keys::checking;
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TestGateway, chat};

/// Long enough for a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(30);

const TEXT: &str = "The sea was calm, and a thin line of light ran over it.";

/// Somebody with a hotkey who judges.
struct Checker {
    signer: CallSigner,
    receiver: Hotkey,
    client: ConsumptionServiceClient<Channel>,
}

// === impl Checker ===

impl Checker {
    fn new(name: &str, gateway: &TestGateway) -> Self {
        let address = gateway.gateway.addresses().peer;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let key = Arc::new(Keypair::from_secret(name).expect("a key"));
        Self {
            signer: CallSigner::new(key, Arc::new(SystemClock)),
            receiver: gateway.gateway.hotkey(),
            client: ConsumptionServiceClient::new(endpoint.connect_lazy()),
        }
    }

    fn request<M: Message>(&self, method: &str, message: M) -> Request<M> {
        let path = format!("/taugate.v1.ConsumptionService/{method}");
        let mut metadata = MetadataMap::new();
        let bytes = message.encode_to_vec();
        let signed = self
            .signer
            .sign(&mut metadata, &path, self.receiver, &bytes);
        signed.expect("random bytes");
        Request::from_parts(metadata, Extensions::default(), message)
    }

    async fn watch(&self, tasks: &[&str]) -> Result<Streaming<v1::WatchPlanResponse>, Status> {
        let tasks = tasks.iter().map(|&task| task.to_owned()).collect();
        let request = self.request("WatchPlan", v1::WatchPlanRequest { tasks });
        let answers = self.client.clone().watch_plan(request).await;
        answers.map(tonic::Response::into_inner)
    }

    async fn submit(&self, request_id: &str, quality: f64, checker: &str) -> Result<(), Status> {
        let found = v1::SubmitCheckRequest {
            request_id: request_id.to_owned(),
            quality,
            checker: checker.to_owned(),
        };
        let request = self.request("SubmitCheck", found);
        self.client.clone().submit_check(request).await.map(drop)
    }
}

async fn next(answers: &mut Streaming<v1::WatchPlanResponse>) -> v1::Answer {
    let next = tokio::time::timeout(PATIENCE, answers.message()).await;
    let next = next.expect("an answer comes").expect("it goes on");
    match next.expect("it does not end").event.expect("an event") {
        Event::Answer(answer) => answer,
        Event::Due(due) => panic!("{due:?}"),
    }
}

fn reason(refused: Result<(), Status>) -> (Code, String) {
    let status = refused.expect_err("a refusal");
    let info = status.get_details_error_info().expect("a reason");
    (status.code(), info.reason)
}

/// A gateway that knows one miner, and keys: one that may check, one whose answers may all be
/// shown, one whose may not.
async fn gateway(miner: &FakeMiner) -> (TestGateway, [String; 3]) {
    let gateway = TestGateway::with(|config| {
        config.reports.open = false;
        let judge = Keypair::from_secret("//Judge").expect("a key").hotkey();
        config.reports.readers = vec![judge.to_string()];
    })
    .await;
    gateway.declare("//One", miner, 1_000_000, 4).await;
    let grants = [(true, 0), (false, 1000), (false, 0)];
    let mut texts = Vec::new();
    for (check, sample_permille) in grants {
        let grant = KeyGrant {
            check,
            sample_permille,
            ..KeyGrant::default()
        };
        let key = NewKey::make("test", grant, 0).expect("a key");
        let store = gateway.gateway.store();
        store.put_key(key.stored.clone()).await.expect("it is kept");
        texts.push(key.text().to_owned());
    }
    // Taken over within a second.
    for key in &texts {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut request = Request::new(v1::ListTasksRequest {});
            let bearer = format!("Bearer {key}").parse().expect("ASCII");
            request.metadata_mut().insert("authorization", bearer);
            if gateway.client().await.list_tasks(request).await.is_ok() {
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "the key is not known"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    (gateway, texts.try_into().expect("three"))
}

async fn ask(gateway: &TestGateway, key: &str) -> String {
    let mut request = Request::new(chat("a client asks"));
    let bearer = format!("Bearer {key}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", bearer);
    let heard = Heard::of(gateway.client().await.stream_generate(request).await).await;
    heard.started.expect("an answer").request_id
}

async fn send_check(gateway: &TestGateway, key: &str) -> String {
    let request = checking(chat("a check asks"), "//One", key);
    let heard = Heard::of(gateway.client().await.stream_generate(request).await).await;
    heard.started.expect("an answer").request_id
}

#[tokio::test]
async fn a_checker_gets_checks_and_of_clients_only_what_their_keys_allow() {
    let miner = FakeMiner::start(vec![Act::Say(TEXT.into()), Act::Complete(3)]).await;
    let (gateway, [check, open, closed]) = gateway(&miner).await;
    let checker = Checker::new("//Judge", &gateway);
    // Before somebody listens, and while.
    let first = send_check(&gateway, &check).await;
    let mut answers = checker.watch(&[]).await.expect("a stream");
    let mut others = checker.watch(&["another"]).await.expect("a stream");
    ask(&gateway, &closed).await;
    let shown = ask(&gateway, &open).await;
    let last = send_check(&gateway, &check).await;
    let expected = [
        (first, v1::Origin::Synthetic, "a check asks"),
        (shown, v1::Origin::Organic, "a client asks"),
        (last, v1::Origin::Synthetic, "a check asks"),
    ];
    for (id, origin, asked) in expected {
        let answer = next(&mut answers).await;
        assert_eq!(
            (answer.request_id.as_str(), answer.origin()),
            (id.as_str(), origin)
        );
        let request = answer.request.expect("what was asked");
        assert!(format!("{request:?}").contains(asked), "{request:?}");
        let response = answer.response.expect("what was delivered");
        assert_eq!(response.choices[0].content, TEXT);
        assert_eq!(
            answer.miner,
            Keypair::from_secret("//One")
                .expect("a key")
                .hotkey()
                .to_string()
        );
        assert!(answer.first_chunk.is_some() && answer.duration.is_some());
    }
    drop(gateway.stop().await);
    // The other stream heard nothing, and why it ends.
    let end = others.message().await.expect_err("the gateway ends");
    assert_eq!(end.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_finding_is_kept_once_a_checker_and_takes_the_place_of_the_built_in_one() {
    let miner = FakeMiner::start(vec![Act::Say(TEXT.into()), Act::Complete(3)]).await;
    let (gateway, [check, ..]) = gateway(&miner).await;
    let checker = Checker::new("//Judge", &gateway);
    let id = send_check(&gateway, &check).await;
    let cell = gateway.cell(
        &Keypair::from_secret("//One")
            .expect("a key")
            .hotkey()
            .to_string(),
    );
    let kept = async || {
        let found = gateway.gateway.store().findings(cell, 0, 10).await;
        let found = found.expect("the store answers").into_iter();
        found
            .map(|found| {
                (
                    found.id.to_string(),
                    found.checker.to_string(),
                    (found.quality * 1e6).round(),
                )
            })
            .collect::<Vec<_>>()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kept().await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nothing is found");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(kept().await, [(id.clone(), "built-in".to_owned(), 1e6)]);
    for quality in [0.25, 0.25, 0.5] {
        checker.submit(&id, quality, "mine").await.expect("kept");
    }
    assert_eq!(kept().await, [(id.clone(), "mine".to_owned(), 500_000.0)]);
    checker.submit(&id, 1.0, "theirs").await.expect("kept");
    assert_eq!(kept().await.len(), 2);
}

#[tokio::test]
async fn a_finding_that_cannot_be_is_refused_by_name() {
    let miner = FakeMiner::start(vec![Act::Say(TEXT.into()), Act::Lie]).await;
    let (gateway, [_, open, _]) = gateway(&miner).await;
    let checker = Checker::new("//Judge", &gateway);
    let broken = ask(&gateway, &open).await;
    let foreign = format!("{}f", &broken[..broken.len() - 1]);
    let unknown = (Code::NotFound, "RECEIPT_NOT_FOUND".to_owned());
    let invalid = (Code::InvalidArgument, "INVALID_FIELD".to_owned());
    for (id, quality, name, expected) in [
        ("no id", 1.0, "mine", &unknown),
        (foreign.as_str(), 1.0, "mine", &unknown),
        (broken.as_str(), 1.0, "mine", &invalid),
        (broken.as_str(), f64::NAN, "mine", &invalid),
        (broken.as_str(), 1.1, "mine", &invalid),
        (broken.as_str(), 1.0, "", &invalid),
        (broken.as_str(), 1.0, "built-in", &invalid),
    ] {
        let refused = checker.submit(id, quality, name).await;
        assert_eq!(&reason(refused), expected, "{id} {quality} {name}");
    }
    let forbidden = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    let miner = Checker::new("//One", &gateway);
    assert_eq!(reason(miner.submit(&broken, 1.0, "mine").await), forbidden);
    assert_eq!(reason(miner.watch(&[]).await.map(drop)), forbidden);
}
