//! Bursts over sockets: who is new gets clients' requests once it has shown what it declares.

use std::sync::Arc;
use std::time::Duration;

use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::registry::snapshot::Offer;
use taugate::synthetic::Mode;
use taugate::task::Task;
use taugate_ledger::period::PeriodLength;
use tonic_types::StatusExt as _;

use crate::support::miner::{Act, FakeMiner};
use crate::support::{TASK, TestGateway, chat};

/// Units an hour: two hundred a second.
const DECLARED: u64 = 720_000;

/// A gateway with a burst in each of its ten seconds.
async fn with_bursts() -> TestGateway {
    TestGateway::with(|config| {
        config.period.length = PeriodLength::from_secs(10).expect("not zero");
        config.planner.mode = Mode::BuiltIn;
        config.planner.bursts.per_period = 1;
        // What miners read is not charged, so that what they show is what they write.
        let task = Task {
            prompt_factor: 0.0,
            ..Task::open_chat(TASK.into())
        };
        config.tasks = Arc::new(std::iter::once(task).collect());
    })
    .await
}

/// A miner that writes fifty units in that time.
async fn miner(takes: Duration) -> FakeMiner {
    let words = "and so on. ".repeat(20)[..200].to_owned();
    FakeMiner::start(vec![Act::Pause(takes), Act::Say(words), Act::Complete(50)]).await
}

fn hotkey(name: &str) -> String {
    let key = Keypair::from_secret(name).expect("a key");
    key.hotkey().to_string()
}

fn offer(gateway: &TestGateway, name: &str) -> Offer {
    let (snapshot, hotkey) = (gateway.gateway.registry().snapshot(), hotkey(name));
    let mut offers = snapshot.markets[TASK].offers.iter();
    let offer = offers.find(|offer| *offer.miner.hotkey == *hotkey);
    offer.expect("an offer").clone()
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    while !reached() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: never");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// N17 over sockets: one that declares four times what it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n17_clients_reach_who_has_shown_its_capacity_and_not_who_only_declared_it() {
    let gateway = with_bursts().await;
    let slow = miner(Duration::from_millis(2000)).await;
    gateway.declare("//Slow", &slow, DECLARED, 2).await;
    let refused = gateway.ask(chat("hello")).await;
    assert_eq!(refused.reason(), "NO_CAPACITY");
    let details = refused.status.expect("a refusal").get_error_details();
    let info = details.error_info().expect("a reason");
    assert_eq!(info.metadata["cause"], "unproven");
    let quick = miner(Duration::from_millis(50)).await;
    gateway.declare("//Quick", &quick, DECLARED, 4).await;
    until("the quick one passes", || offer(&gateway, "//Quick").proven).await;
    until("the slow one was asked", || {
        !offer(&gateway, "//Slow").verified.is_zero()
    })
    .await;
    let (slow_offer, quick_offer) = (offer(&gateway, "//Slow"), offer(&gateway, "//Quick"));
    assert!(!slow_offer.proven, "{slow_offer:?}");
    assert!(
        quick_offer.verified.get() >= quick_offer.allotment.get() / 2,
        "{quick_offer:?}"
    );
    assert!(
        slow_offer.verified.get() < slow_offer.allotment.get() / 2,
        "{slow_offer:?}"
    );
    for _ in 0..5 {
        let heard = gateway.ask(chat("hello")).await;
        let started = heard
            .started
            .unwrap_or_else(|| panic!("{:?}", heard.status));
        assert_eq!(started.miner, hotkey("//Quick"));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn who_asks_for_proven_miners_gets_none_where_nobody_has_proven_anything() {
    let gateway = TestGateway::start().await;
    let quick = miner(Duration::from_millis(5)).await;
    gateway.declare("//Quick", &quick, DECLARED, 4).await;
    let asked = v1::GenerateRequest {
        proven_only: Some(true),
        ..chat("hello")
    };
    assert_eq!(gateway.ask(asked).await.reason(), "NO_CAPACITY");
    // Everyone else is answered at once.
    assert!(gateway.ask(chat("hello")).await.started.is_some());
    gateway.stop().await;
}
