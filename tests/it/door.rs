//! What the doors promise: the drain, limits of those who say nothing, what is let in.

use std::time::Duration;

use taugate::identity::key_ring::{KeyGrant, NewKey};
use taugate::proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::miner::{Act, FakeMiner};
use crate::support::wire::{Endless, request, send};
use crate::support::{Heard, TestGateway, chat};

#[tokio::test]
async fn a_stream_that_outlives_the_drain_is_told_why_it_ends() {
    let miner = FakeMiner::start(vec![Act::Say("half".into()), Act::Hang]).await;
    let gateway = TestGateway::with(|config| config.drain.deadline = Duration::ZERO).await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let mut client = gateway.client().await;
    let response = client.stream_generate(chat("hello")).await;
    let mut events = response.expect("it starts").into_inner();
    let mut heard = Heard::default();
    while heard.text.is_empty() {
        let event = events.message().await.expect("no end yet");
        heard.add(event.expect("no end yet"));
    }
    let stopping = tokio::task::spawn(gateway.gateway.stop());
    heard.status = loop {
        match events.message().await {
            Ok(Some(event)) => heard.add(event),
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    assert_eq!(heard.reason(), "DRAINING");
    let stopped = stopping.await.expect("no panic");
    stopped.expect("the incarnation is closed");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_and_one_that_greeted_stays() {
    let gateway = TestGateway::with(|config| {
        config.limits.handshake = Duration::from_millis(200);
    })
    .await;
    let public = gateway.gateway.addresses().public;
    let mut silent = tokio::net::TcpStream::connect(public).await.expect("open");
    let mut half = tokio::net::TcpStream::connect(public).await.expect("open");
    half.write_all(b"PRI * HTTP/2").await.expect("sent");
    let mut greeted = gateway.client().await;
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let closed = tokio::time::timeout(Duration::from_secs(6), closed).await;
        drop(closed.expect("closed in time"));
    }
    let request = v1::ListTasksRequest::default();
    greeted.list_tasks(request).await.expect("it is served");
}

#[tokio::test]
async fn a_request_whose_body_does_not_end_is_refused_in_time_on_both_listeners() {
    let gateway = TestGateway::with(|config| {
        config.limits.handshake = Duration::from_millis(200);
    })
    .await;
    let addresses = gateway.gateway.addresses();
    let calls = [
        (addresses.public, "InferenceService/StreamGenerate"),
        (addresses.peer, "CapacityService/Declare"),
    ];
    for (address, method) in calls {
        let request = request(address, &format!("/taugate.v1.{method}"));
        let endless = tonic::body::Body::new(Endless);
        let answer = send(address, request.body(endless).expect("a request"));
        let answer = tokio::time::timeout(Duration::from_secs(6), answer).await;
        let reason = answer.expect("in time").headers()["taugate-reason"].clone();
        assert_eq!(reason, "DEADLINE", "{method}");
    }
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_and_their_places_come_back() {
    let gateway = TestGateway::with(|config| {
        config.limits.connections_max = 1;
        // Not for their silence.
        config.limits.handshake = Duration::from_secs(600);
    })
    .await;
    let public = gateway.gateway.addresses().public;
    let first = tokio::net::TcpStream::connect(public).await.expect("open");
    for _ in 0..3 {
        let mut more = tokio::net::TcpStream::connect(public).await.expect("open");
        let mut rest = Vec::new();
        let closed = more.read_to_end(&mut rest);
        let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
        drop(closed.expect("it is refused"));
    }
    drop(first);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let mut client = gateway.client().await;
        let request = v1::ListTasksRequest::default();
        if client.list_tasks(request).await.is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no place came back");
    }
}

#[tokio::test]
async fn what_is_no_grpc_call_and_a_doubled_timeout_are_refused() {
    let gateway = TestGateway::start().await;
    let public = gateway.gateway.addresses().public;
    let path = "/taugate.v1.InferenceService/ListTasks";
    let empty = || tonic::body::Body::empty();
    let get = request(public, path).method("GET").body(empty());
    let mut plain = request(public, path).body(empty()).expect("a request");
    let json = http::HeaderValue::from_static("application/json");
    plain.headers_mut().insert("content-type", json);
    let doubled = request(public, path)
        .header("grpc-timeout", "1S")
        .header("grpc-timeout", "1S")
        .body(empty());
    let cases = [
        (get.expect("a request"), "UNIMPLEMENTED"),
        (plain, "UNIMPLEMENTED"),
        (doubled.expect("a request"), "INVALID_FIELD"),
    ];
    for (request, expected) in cases {
        let answer = send(public, request).await;
        assert_eq!(answer.headers()["taugate-reason"], expected);
    }
}

#[tokio::test]
async fn keys_that_are_missing_or_wrong_are_refused_alike() {
    let gateway = TestGateway::with(|config| config.keys.required = true).await;
    let public = gateway.gateway.addresses().public;
    let wrong = NewKey::make("test", KeyGrant::default(), 0).expect("randomness");
    let wrong = format!("Bearer {}", wrong.text());
    for key in [
        None,
        Some(""),
        Some("Bearer nonsense"),
        Some(wrong.as_str()),
    ] {
        let mut request = request(public, "/taugate.v1.InferenceService/ListTasks");
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let empty = tonic::body::Body::empty();
        let answer = send(public, request.body(empty).expect("a request")).await;
        assert_eq!(answer.headers()["taugate-reason"], "UNAUTHENTICATED");
    }
}
