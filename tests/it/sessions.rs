//! Sessions as the gateway opens them: with miners that prove who they are, again when one is
//! lost or ends, and never to the cost of a call.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate::clock::SystemClock;
use taugate::config::Config;
use taugate::identity::hotkey::Keypair;
use taugate::sidecar::model::Models;
use taugate::sidecar::serve::{MinerDoor, serve};
use taugate::sidecar::sessions::{Sessions, Validators};
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::miner::{Act, FakeMiner};
use crate::support::{TASK, TestGateway, chat};

/// The hotkey of a gateway without a file.
const OURS: &str = "//taugate-development";

/// A real sidecar's door.
struct Miner {
    address: SocketAddr,
    sessions: Arc<Sessions>,
    _stop: DropGuard,
}

// === impl Miner ===

impl Miner {
    /// A miner of that name that lets one validator in, with sessions that last so long.
    async fn start(name: &str, validator: &str, life: Duration) -> Self {
        let key = |name| Keypair::from_secret(name).expect("a key");
        let validators = Validators::listed(BTreeSet::from([key(validator).hotkey()]));
        let sessions = Sessions::new(
            Arc::new(key(name)),
            Arc::new(SystemClock),
            Arc::new(validators),
        );
        let sessions = Arc::new(sessions.lasting(life));
        let model = Arc::new(SimulatedModel::new(Simulation {
            tokens_per_s: 0.0,
            prefill_tokens_per_s: 0.0,
            ..Simulation::default()
        }));
        let door = MinerDoor::new(Models::from([(TASK.into(), model as _)]), 64);
        let door = door.in_sessions(Arc::clone(&sessions));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        tokio::task::spawn(serve(listener, door, stop.clone(), Duration::ZERO));
        Self {
            address,
            sessions,
            _stop: stop.drop_guard(),
        }
    }
}

fn closed(config: &mut Config) {
    config.registry.unauthenticated_miners = false;
}

/// Every attempt of all miners, by outcome.
fn attempts(gateway: &TestGateway, outcome: &str) -> u64 {
    let text = gateway.gateway.calls().instruments.text();
    let is = format!("outcome=\"{outcome}\"");
    let lines = text.lines();
    lines
        .filter(|line| line.starts_with("taugate_miner_attempts_total") && line.contains(&is))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn calls_go_to_a_miner_in_one_session_and_in_another_when_it_forgot() {
    let gateway = TestGateway::with(closed).await;
    let miner = Miner::start("//One", OURS, LONG).await;
    gateway
        .declare_at("//One", miner.address, 1_000_000, 64)
        .await;
    for _ in 0..5 {
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_some(), "{:?}", heard.status);
    }
    assert_eq!(miner.sessions.len(), 1, "one shard, one session");
    // As a restart does behind something that keeps the connection.
    miner.sessions.forget();
    let asked = (0..16).map(|_| gateway.ask(chat("again")));
    for heard in futures_util::future::join_all(asked).await {
        assert!(heard.completed.is_some(), "{:?}", heard.status);
    }
    assert_eq!(miner.sessions.len(), 1, "all of them share the new one");
    assert_eq!(attempts(&gateway, "good"), 21, "no attempt failed");
    gateway.posted().await;
}

#[tokio::test]
async fn a_session_that_ends_costs_no_call() {
    let gateway = TestGateway::with(closed).await;
    let miner = Miner::start("//One", OURS, Duration::from_millis(100)).await;
    gateway
        .declare_at("//One", miner.address, 1_000_000, 64)
        .await;
    let mut calls = 0;
    let several = tokio::time::Instant::now() + Duration::from_millis(500);
    while tokio::time::Instant::now() < several || calls < 20 {
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_some(), "{:?}", heard.status);
        calls += 1;
    }
    assert_eq!(attempts(&gateway, "good"), calls);
}

/// A miner that does not know this validator is left in peace and is not blamed: perhaps our
/// clock is wrong. Another answers.
#[tokio::test]
async fn a_miner_that_does_not_let_us_in_is_passed_over_and_not_blamed() {
    let gateway = TestGateway::with(closed).await;
    let aloof = Miner::start("//One", "//Other", LONG).await;
    let open = Miner::start("//Two", OURS, LONG).await;
    for (name, miner) in [("//One", &aloof), ("//Two", &open)] {
        gateway.declare_at(name, miner.address, 1_000_000, 64).await;
    }
    for _ in 0..10 {
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_some(), "{:?}", heard.status);
    }
    assert!(aloof.sessions.is_empty());
    assert_eq!(attempts(&gateway, "good"), 10);
    let blamed = ["lost", "stalled", "protocol"].map(|outcome| attempts(&gateway, outcome));
    assert_eq!(blamed, [0; 3]);
}

/// Case 13: what answers at a miner's address is not that miner. It gets no prompt.
#[tokio::test]
async fn case_13_another_at_a_miners_address_gets_nothing() {
    let gateway = TestGateway::with(closed).await;
    let miner = FakeMiner::start(vec![Act::Say("ok".into()), Act::Complete(1)]).await;
    // One that opens no session does not prove who it is; one that opens it with another
    // hotkey is another.
    for (name, proof) in [("//One", None), ("//Two", Some("//Impostor"))] {
        if let Some(proof) = proof {
            miner.prove(proof);
        }
        gateway.declare(name, &miner, 1_000_000, 64).await;
        let heard = gateway.ask(chat("secret")).await;
        assert_eq!(heard.reason(), "ATTEMPTS_EXHAUSTED", "{name}");
    }
    assert!(miner.seen().is_empty());
    assert_eq!(gateway.posted().await, 0);
    miner.prove("//Three");
    gateway.declare("//Three", &miner, 100_000_000, 64).await;
    let heard = gateway.ask(chat("secret")).await;
    assert_eq!(heard.text, "ok");
    let [metadata] = miner.metadata().try_into().expect("one call");
    for name in ["taugate-session-bin", "taugate-counter", "taugate-mac-bin"] {
        assert!(metadata.contains_key(name), "{name}");
    }
}
