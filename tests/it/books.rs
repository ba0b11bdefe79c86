//! What the metrics say of books that a gateway left behind.

use std::time::Duration;

use taugate::proto::v1;

use crate::support::chat;
use crate::support::miner::{Act, FakeMiner};
use crate::support::process::{Place, Process};
use crate::support::wire::fetch;

/// A metric without labels.
async fn metric(gateway: &Process, name: &str) -> u64 {
    let text = fetch(gateway.admin(), "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name}: {text}")).trim();
    value.parse().expect("a number")
}

/// Asks until the metric is that, or not.
async fn until(gateway: &Process, name: &str, reached: impl Fn(u64) -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    while !reached(metric(gateway, name).await) {
        let late = tokio::time::Instant::now() > limit;
        assert!(!late, "{name} is {}", metric(gateway, name).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_a_killed_gateway_held_is_in_doubt_and_what_a_clean_stop_gave_back_is_not() {
    const IN_DOUBT: &str = "taugate_in_doubt_units ";
    // So long that the test does not see it turn.
    let place = Place::new(
        "[period]\nlength_s = 86400\n[registry]\nopen_registration = true\nopen_tasks = true\nunauthenticated_miners = true\n[keys]\nrequired = false\n",
    );
    let miner = FakeMiner::start(vec![Act::Say("whole".into()), Act::Complete(1)]).await;
    let call = async |gateway: &Process| {
        gateway.declare("//One", miner.address, 100_000).await;
        let mut client = gateway.client("").await;
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        while let Err(status) = client.generate(chat("hello")).await {
            assert!(tokio::time::Instant::now() < limit, "{status:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let listed = client.list_tasks(v1::ListTasksRequest {}).await;
        listed.expect("it is served");
    };
    let gateway = place.start().await;
    call(&gateway).await;
    let text = fetch(gateway.admin(), "/metrics").await;
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("taugate_build_info{{version=\"{version}\"}} 1");
    assert!(text.contains(&build), "{text}");
    gateway.stop().await;

    // It closed: all that it did not spend is back.
    let mut gateway = place.start().await;
    call(&gateway).await;
    assert_eq!(metric(&gateway, IN_DOUBT).await, 0);
    gateway.signal("-KILL").await;
    gateway.ended().await;

    let gateway = place.start().await;
    until(&gateway, IN_DOUBT, |units| units > 0).await;
    gateway.stop().await;
}
