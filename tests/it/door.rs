//! What the doors promise: the drain, limits of those who say nothing, what is let in.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::miner::{Act, FakeMiner};
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
async fn a_drain_is_not_ready_at_once_and_takes_no_calls_once_connections_must_go() {
    let script = vec![Act::Say("half".into()), Act::Hang];
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::with(|config| {
        config.drain.delay = Duration::from_secs(1);
        config.drain.deadline = Duration::from_secs(2);
    })
    .await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let admin = gateway.gateway.addresses().admin;
    assert_eq!(get(admin, "/ready").await, 200);
    let mut holds = gateway.client().await;
    let held = holds.stream_generate(chat("hello")).await.expect("it runs");
    let calls = std::sync::Arc::clone(gateway.gateway.calls());
    let stopping = tokio::task::spawn(gateway.gateway.stop());
    let drained = tokio::time::Instant::now() + Duration::from_millis(900);
    while get(admin, "/ready").await == 200 {
        assert!(tokio::time::Instant::now() < drained, "still ready");
    }
    assert!(!calls.running.is_closed(), "calls are taken for a while");
    while !calls.running.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // On the connection that lives: the refusal, or a stream that HTTP/2 never opened.
    if let Ok(response) = holds.stream_generate(chat("late")).await {
        panic!("a call was taken: {response:?}");
    }
    drop(held);
    stopping.await.expect("no panic").expect("closed");
}

/// The code of an answer of the admin listener.
async fn get(address: std::net::SocketAddr, path: &str) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("open");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let code = answer.split(' ').nth(1).expect("a status line");
    code.parse().expect("a code")
}
