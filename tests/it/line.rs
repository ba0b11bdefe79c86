//! Who waits in line for a free miner.

use std::time::Duration;

use taugate::proto::v1;
use taugate::proto::v1::stream_generate_response::Event;

use crate::support::miner::{Act, FakeMiner};
use crate::support::{TestGateway, chat};

/// A gateway whose one miner takes one call at a time, and where a wait is long.
async fn crowded(miner: &FakeMiner) -> TestGateway {
    let gateway = TestGateway::with(|config| {
        config.limits.wait = Duration::from_secs(60);
        config.limits.progress = Duration::from_millis(20);
    })
    .await;
    gateway.declare("//One", miner, 100_000, 1).await;
    gateway
}

#[tokio::test]
async fn who_waits_hears_that_the_call_lives_and_who_leaves_gives_the_place_back() {
    let script = vec![
        Act::Say("one".into()),
        Act::Wait,
        Act::Say("!".into()),
        Act::Complete(1),
    ];
    let miner = FakeMiner::start(script).await;
    let gateway = crowded(&miner).await;
    let mut client = gateway.client().await;
    let first = client.stream_generate(chat("hello")).await.expect("begun");
    let waiting = || gateway.gateway.calls().waiting.len();
    let mut head = client.clone();
    let head = head.stream_generate(chat("hello"));
    let head = head.await.expect("begun");
    let mut head = head.into_inner();
    let event = head.message().await.expect("no end").expect("an event");
    let Some(Event::Progress(progress)) = event.event else {
        panic!("{event:?}");
    };
    assert_eq!(progress.phase(), v1::Phase::Waiting);
    // Behind the head, so that only its own leaving frees the place.
    let behind = client.stream_generate(chat("hello")).await.expect("begun");
    gateway.until("both wait", || waiting() == 2).await;
    drop(behind);
    gateway.until("one waits", || waiting() == 1).await;
    drop(head);
    gateway.until("nobody waits", || waiting() == 0).await;
    miner.go_on();
    drop(first);
    gateway.posted().await;
}
