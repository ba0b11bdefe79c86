//! What load balancers and tools see: health, the drain, reflection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::miner::{Act, FakeMiner};
use crate::support::wire::{deaf_to_leaving, get, reason};
use crate::support::{Connection, Heard, TestGateway, chat};

type Client = InferenceServiceClient<Connection>;

const INFERENCE: &str = "taugate.v1.InferenceService";

async fn health(gateway: &TestGateway) -> HealthClient<Connection> {
    let address = gateway.gateway.addresses().public;
    let origin = format!("http://{address}").parse().expect("an address");
    HealthClient::with_origin(Connection::open(address).await, origin)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

/// What a watcher hears next; `None` at the end.
async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let heard = tokio::time::timeout(Duration::from_secs(30), watch.message()).await;
    let heard = heard.expect("it says something").expect("no error");
    heard.map(|response| response.status())
}

#[tokio::test]
async fn health_says_not_serving_until_the_gateway_is_ready() {
    let gateway = TestGateway::open(|_| {}).await;
    let mut health = health(&gateway).await;
    let watch = health.watch(of(INFERENCE)).await.expect("it is watched");
    let mut watch = watch.into_inner();
    for service in ["", INFERENCE] {
        let answer = health.check(of(service)).await.expect("an answer");
        assert_eq!(answer.into_inner().status(), ServingStatus::NotServing);
    }
    assert_eq!(next(&mut watch).await, Some(ServingStatus::NotServing));
    gateway.gateway.begin().await;
    assert_eq!(next(&mut watch).await, Some(ServingStatus::Serving));
    for service in ["", INFERENCE] {
        let answer = health.check(of(service)).await.expect("an answer");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let unknown = health.check(of("taugate.v1.MinerService")).await;
    let unknown = unknown.expect_err("it is not served here");
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(reason(&unknown), "SERVICE_NOT_FOUND");
}

/// A client on a connection of its own.
async fn client_at(gateway: &TestGateway, address: SocketAddr) -> Client {
    let public = gateway.gateway.addresses().public;
    let origin = format!("http://{public}").parse().expect("an address");
    InferenceServiceClient::with_origin(Connection::open(address).await, origin)
}

#[tokio::test]
async fn while_balancers_learn_of_a_drain_all_is_served_on() {
    let miner = FakeMiner::start(vec![Act::Say("whole".into()), Act::Complete(1)]).await;
    // Longer than this test looks: the gateway is left in the middle of it.
    let gateway = TestGateway::with(|config| config.drain.delay = Duration::from_secs(600)).await;
    gateway.declare("//One", &miner, 100_000, 8).await;
    let addresses = gateway.gateway.addresses();
    let watch = health(&gateway).await.watch(of("")).await;
    let mut watch = watch.expect("it is watched").into_inner();
    assert_eq!(next(&mut watch).await, Some(ServingStatus::Serving));
    assert_eq!(get(addresses.admin, "/ready").await, 200);
    let mut before = client_at(&gateway, addresses.public).await;
    list(&mut before).await.expect("it is served");
    let stopping = tokio::task::spawn(gateway.gateway.stop());
    assert_eq!(next(&mut watch).await, Some(ServingStatus::NotServing));
    assert_eq!(get(addresses.admin, "/ready").await, 503);
    let origin = format!("http://{}", addresses.public);
    let origin = origin.parse().expect("an address");
    let after = Connection::open(addresses.public).await;
    let mut after = InferenceServiceClient::with_origin(after, origin);
    for client in [&mut before, &mut after] {
        let answer = client.generate(chat("hello")).await.expect("an answer");
        assert_eq!(answer.into_inner().choices[0].content, "whole");
    }
    stopping.abort();
}

#[tokio::test]
async fn a_drain_refuses_what_still_comes_and_lets_what_runs_end() {
    let script = vec![
        Act::Say("one ".into()),
        Act::Wait,
        Act::Say("two".into()),
        Act::Complete(2),
    ];
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::with(|config| config.drain.deadline = Duration::from_secs(60)).await;
    gateway.declare("//One", &miner, 100_000, 8).await;
    let public = gateway.gateway.addresses().public;
    let watch = health(&gateway).await.watch(of("")).await;
    let mut watch = watch.expect("it is watched").into_inner();
    let mut client = client_at(&gateway, public).await;
    let running = client.stream_generate(chat("hello")).await;
    let mut running = running.expect("begun").into_inner();
    // On a connection that is asked to go, and has not heard it yet.
    let mut deaf = client_at(&gateway, deaf_to_leaving(public).await).await;
    list(&mut deaf).await.expect("it is served");

    let calls = Arc::clone(gateway.gateway.calls());
    let stopping = tokio::task::spawn(gateway.gateway.stop());
    while next(&mut watch).await.is_some() {}
    let closed = async {
        while !calls.running.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
    closed.expect("no call is taken any more");
    for _ in 0..3 {
        let refused = deaf.stream_generate(chat("late")).await;
        let refused = refused.expect_err("it drains");
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(reason(&refused), "DRAINING");
        let pushback = refused.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(pushback.expect("at once, elsewhere"), "0");
    }
    let taken = tokio::net::TcpStream::connect(public).await;
    assert!(taken.is_err(), "a connection was taken");
    list(&mut client).await.expect_err("it was told to go");

    miner.go_on();
    let mut heard = Heard::default();
    while let Some(event) = running.message().await.expect("no error") {
        heard.add(event);
    }
    assert_eq!(heard.text, "one two");
    assert!(heard.completed.expect("whole").recorded);
    let stopped = tokio::time::timeout(Duration::from_secs(30), stopping).await;
    let stopped = stopped.expect("nothing keeps it").expect("no panic");
    stopped.expect("the incarnation is closed");
    assert_eq!(miner.seen().len(), 1, "no miner saw a refused call");
}

async fn list(client: &mut Client) -> Result<(), tonic::Status> {
    let listed = client.list_tasks(v1::ListTasksRequest {}).await;
    listed.map(drop)
}

/// The services that a version of reflection lists, and the reason for an unknown symbol.
macro_rules! reflected {
    ($version:ident, $gateway:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
        let address = $gateway.gateway.addresses().public;
        let origin = format!("http://{address}").parse().expect("an address");
        let connection = Connection::open(address).await;
        let mut client = ServerReflectionClient::with_origin(connection, origin);
        let ask = |asked: MessageRequest| {
            tokio_stream::iter([ServerReflectionRequest {
                host: String::new(),
                message_request: Some(asked),
            }])
        };
        let listing = ask(MessageRequest::ListServices(String::new()));
        let answer = client.server_reflection_info(listing).await;
        let answer = answer.expect("it answers").into_inner().message().await;
        let answer = answer.expect("no error").expect("an answer");
        let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
            panic!("{answer:?}");
        };
        let services: Vec<String> = listed.service.into_iter().map(|one| one.name).collect();

        // A service, and the details that tools show of a refusal.
        for known in [INFERENCE, "google.rpc.ErrorInfo", "google.rpc.RetryInfo"] {
            let symbol = MessageRequest::FileContainingSymbol(known.to_owned());
            let answer = client.server_reflection_info(ask(symbol)).await;
            let answer = answer.expect("it answers").into_inner().message().await;
            let answer = answer.expect(known).expect("an answer");
            let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response
            else {
                panic!("{known}: {answer:?}");
            };
            assert!(!files.file_descriptor_proto.is_empty(), "{known}");
        }

        let unknown = MessageRequest::FileContainingSymbol("no.such.Thing".to_owned());
        let answer = client.server_reflection_info(ask(unknown)).await;
        let refused = match answer {
            Ok(answer) => answer.into_inner().message().await.expect_err("unknown"),
            Err(status) => status,
        };
        (services, reason(&refused))
    }};
}

#[tokio::test]
async fn both_versions_of_reflection_list_what_is_public_and_nothing_else() {
    let gateway = TestGateway::start().await;
    let (services, refused) = reflected!(v1, gateway);
    let (older, older_refused) = reflected!(v1alpha, gateway);
    for (services, name) in [(&services, "v1"), (&older, "v1alpha")] {
        for service in [INFERENCE, "grpc.health.v1.Health"] {
            assert!(
                services.iter().any(|one| one == service),
                "{name}: {services:?}"
            );
        }
        let hidden = ["taugate.v1.CapacityService", "taugate.v1.MinerService"];
        let shown = services.iter().any(|one| hidden.contains(&one.as_str()));
        assert!(!shown, "{name}: {services:?}");
    }
    for refused in [refused, older_refused] {
        assert_eq!(refused, "SYMBOL_NOT_FOUND");
    }
}
