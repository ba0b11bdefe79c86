//! P10 over real sockets: whatever is refused, by whom ever, has a code and a reason; and a
//! method that panics or hangs is refused like any other.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use taugate::front_door::listener::{Shards, bind};
use taugate::front_door::settings::DoorSettings;
use taugate::proto::v1;
use taugate::telemetry::Instruments;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::wire::{Endless, connect, frame, framed, reason, request, send, status};
use crate::support::{TestGateway, chat};

const GENERATE: &str = "/taugate.v1.InferenceService/Generate";

#[tokio::test]
async fn what_the_library_refuses_has_its_reason_too() {
    let gateway = TestGateway::with(|config| config.limits.request_bytes_max = 1024).await;
    let public = gateway.gateway.addresses().public;
    let large = framed(&chat(&"x".repeat(2000)));
    let garbage = || frame(0, None, &[0xff; 9]);
    let health = "/grpc.health.v1.Health/Check";
    let unknown = framed(&tonic_health::pb::HealthCheckRequest {
        service: "no.such.Service".into(),
    });
    let cases = [
        (
            GENERATE,
            large,
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
        ),
        (GENERATE, garbage(), Code::InvalidArgument, "INVALID_FIELD"),
        (
            GENERATE,
            Body::empty(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            GENERATE,
            frame(7, None, b""),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            GENERATE,
            frame(0, Some(99), b"ab"),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            "/taugate.v1.InferenceService/No",
            garbage(),
            Code::Unimplemented,
            "METHOD_NOT_FOUND",
        ),
        (
            "/no.such.Service/Generate",
            garbage(),
            Code::Unimplemented,
            "METHOD_NOT_FOUND",
        ),
        ("/", garbage(), Code::Unimplemented, "METHOD_NOT_FOUND"),
        (health, unknown, Code::NotFound, "SERVICE_NOT_FOUND"),
    ];
    for (path, body, code, expected) in cases {
        let request = request(public, path).body(body).expect("a request");
        let refused = status(send(public, request).await).await;
        let (found, text) = (refused.code(), reason(&refused));
        assert_eq!((found, text.as_str()), (code, expected), "{path}");
        let pushback = refused.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(pushback.expect("when to try again"), "-1", "{path}");
    }
    assert_eq!(gateway.posted().await, 0);
}

#[tokio::test]
async fn an_unknown_compression_is_refused_with_those_that_are_spoken() {
    let gateway = TestGateway::start().await;
    let public = gateway.gateway.addresses().public;
    let request = request(public, GENERATE)
        .header("grpc-encoding", "snappy")
        .body(frame(1, None, b"ab"));
    let answer = send(public, request.expect("a request")).await;
    assert_eq!(answer.headers()["grpc-accept-encoding"], "identity");
    let refused = status(answer).await;
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(reason(&refused), "ENCODING_NOT_FOUND");
}

#[tokio::test]
async fn an_unknown_task_and_receipt_are_named_in_the_details() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.client().await;
    let mut unknown = chat("hello");
    unknown.task = "n\u{f6}".repeat(1000);
    let refused = client.generate(unknown).await.expect_err("no such task");
    let resource = refused.get_details_resource_info().expect("a resource");
    assert_eq!(resource.resource_type, "task");
    assert_eq!(resource.resource_name.len(), 127, "cut between characters");
    let asked = v1::GetReceiptRequest {
        request_id: "tg-e10-1-2".into(),
    };
    let refused = client.get_receipt(asked).await.expect_err("no receipt");
    let resource = refused.get_details_resource_info().expect("a resource");
    let named = (resource.resource_type, resource.resource_name);
    assert_eq!(named, ("receipt".to_owned(), "tg-e10-1-2".to_owned()));
}

#[tokio::test]
async fn a_panic_is_refused_and_the_connection_and_the_gateway_go_on() {
    let door = Door::open(|settings| settings.helper = Duration::from_secs(60)).await;
    let mut sender = connect(door.address).await;
    for (path, headers) in [("/panic/at-once", false), ("/panic/later", true)] {
        let body = Body::empty();
        let request = request(door.address, path).body(body).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let streamed = Status::from_header_map(answer.headers()).is_none();
        assert_eq!(streamed, headers, "{path}");
        let refused = status(answer).await;
        let found = (refused.code(), reason(&refused));
        assert_eq!(found, (Code::Internal, "INTERNAL".to_owned()), "{path}");
    }
    let fine = request(door.address, "/fine").body(Body::empty());
    let answer = sender.send_request(fine.expect("a request")).await;
    assert_eq!(status(answer.expect("an answer")).await.code(), Code::Ok);
    door.close().await;
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_ended() {
    let short = Duration::from_millis(100);
    let door = Door::open(|settings| (settings.helper, settings.age) = (short, short)).await;
    for path in [
        "/taugate.v1.InferenceService/ListTasks",
        "/taugate.v1.InferenceService/GetReceipt",
        "/taugate.v1.CapacityService/Declare",
        "/grpc.health.v1.Health/Watch",
        "/taugate.v1.CapacityService/WatchCapacity",
    ] {
        let body = Body::empty();
        let request = request(door.address, path).body(body).expect("a request");
        let ended = async { status(send(door.address, request).await).await };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        let ended = ended.unwrap_or_else(|_| panic!("{path} does not end"));
        let found = (ended.code(), reason(&ended));
        let expected = (Code::DeadlineExceeded, "DEADLINE".to_owned());
        assert_eq!(found, expected, "{path}");
    }
    door.close().await;
}

#[tokio::test]
async fn a_clients_own_deadline_bounds_a_question_too() {
    let door = Door::open(|settings| settings.helper = Duration::from_secs(60)).await;
    let path = "/taugate.v1.InferenceService/GetReceipt";
    let request = request(door.address, path)
        .header("grpc-timeout", "100m")
        .body(Body::empty());
    let request = request.expect("a request");
    let ended = async { status(send(door.address, request).await).await };
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert_eq!(reason(&ended.expect("in time")), "DEADLINE");
    door.close().await;
}

/// A door with methods that go wrong behind it.
struct Door {
    address: SocketAddr,
    shards: Arc<Shards>,
    stop: CancellationToken,
    accepting: tokio::task::JoinHandle<()>,
}

impl Door {
    async fn open(change: impl FnOnce(&mut DoorSettings)) -> Self {
        let minute = Duration::from_secs(60);
        let mut settings = DoorSettings {
            listener: "test",
            connections_max: 100,
            connections_per_address_max: 100,
            streams_max: 100,
            handshake: minute,
            body: minute,
            helper: minute,
            header_bytes_max: 16 * 1024,
            age: minute,
            last_call: minute,
            keepalive: minute,
            keepalive_timeout: minute,
        };
        change(&mut settings);
        let stop = CancellationToken::new();
        let shards = Shards::start(
            1,
            settings,
            &Arc::new(Instruments::new()),
            (&stop, &stop),
            || tower::service_fn(method),
        );
        let shards = Arc::new(shards.expect("threads"));
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = bind(any).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (door, ending) = (Arc::clone(&shards), stop.clone());
        let accepting =
            tokio::task::spawn(async move { door.accept(listener, None, ending).await });
        Self {
            address,
            shards,
            stop,
            accepting,
        }
    }

    async fn close(self) {
        self.stop.cancel();
        self.accepting.await.expect("no panic");
        let shards = Arc::try_unwrap(self.shards).expect("the only one");
        let joined = tokio::task::spawn_blocking(move || shards.join());
        joined.await.expect("no panic");
    }
}

/// Panics, hangs, or answers, by its path.
async fn method(request: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path();
    let body = match path {
        "/panic/at-once" => panic!("at once, as the test wants it"),
        "/panic/later" => Body::new(Panics),
        "/fine" => Body::empty(),
        _ if path.ends_with("Watch") || path.ends_with("WatchCapacity") => Body::new(Endless),
        _ => std::future::pending().await,
    };
    let mut response = http::Response::new(body);
    if path == "/fine" {
        let ok = http::HeaderValue::from_static("0");
        response.headers_mut().insert("grpc-status", ok);
    }
    Ok(response)
}

/// A body that panics.
struct Panics;

impl http_body::Body for Panics {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        panic!("later, as the test wants it")
    }
}
