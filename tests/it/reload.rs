//! A configuration that changes under a gateway that runs: the binary, its file, signals.

use std::sync::Arc;
use std::time::Duration;

use taugate::clock::SystemClock;
use taugate::gateway::Gateway;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use crate::support::miner::{Act, FakeMiner};
use crate::support::process::{KeyedClient, Place, Process};
use crate::support::{Heard, TASK, TestGateway, chat};

const OPEN: &str =
    "[registry]\nopen_registration = true\nunauthenticated_miners = true\n[tasks.tiny]\n";

/// Waits until the log holds so many lines with that message.
async fn until_said(gateway: &Process, message: &str, times: usize) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while gateway.said(message).len() < times {
        let late = tokio::time::Instant::now() > limit;
        assert!(
            !late,
            "not said {times} times: {message}\n{}",
            gateway.logged()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_counts(gateway: &Process, times: usize) {
    until_said(gateway, "the changed configuration counts now", times).await;
}

async fn is_let_in(gateway: &Process) -> bool {
    let mut keyless = gateway.client("").await;
    keyless.list_tasks(v1::ListTasksRequest {}).await.is_ok()
}

/// How a call ends: with `Completed`, or with a reason.
async fn ask(client: &mut KeyedClient) -> Result<(), String> {
    let heard = Heard::of(client.stream_generate(chat("hello")).await).await;
    match heard.completed {
        Some(completed) => {
            assert!(completed.recorded);
            Ok(())
        }
        None => Err(heard.reason()),
    }
}

/// Asks until it ends so.
async fn until_asked(client: &mut KeyedClient, expected: &Result<(), String>) -> u32 {
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    for asked in 1.. {
        let ended = ask(client).await;
        if ended == *expected {
            return asked;
        }
        let late = tokio::time::Instant::now() > limit;
        assert!(!late, "{ended:?}, never {expected:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("it was asked for ever");
}

async fn answering() -> FakeMiner {
    FakeMiner::start(vec![Act::Say("Hello, world".into()), Act::Complete(3)]).await
}

#[tokio::test]
async fn n28_a_bad_file_is_refused_whole_and_the_next_good_one_counts() {
    let place = Place::new(&format!("[keys]\nrequired = true\n{OPEN}"));
    let gateway = place.start().await;
    assert!(!is_let_in(&gateway).await);

    // What is good in it does not count either.
    place.configure(&format!(
        "[keys]\nrequired = false\n{OPEN}weight = 0.25\ncapp = 1\n"
    ));
    until_said(&gateway, "configuration refused; the old one holds", 2).await;
    let faults: Vec<String> = gateway
        .said("configuration refused; the old one holds")
        .iter()
        .map(|line| line["fields"]["fault"].to_string())
        .collect();
    assert!(
        faults.iter().any(|fault| fault.contains("tasks.tiny.capp")),
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|fault| fault.contains("weight")),
        "{faults:?}"
    );
    assert!(!is_let_in(&gateway).await);

    place.configure(&format!("[keys]\nrequired = false\n{OPEN}"));
    until_counts(&gateway, 1).await;
    assert!(is_let_in(&gateway).await);
    place.configure(&format!("[keys]\nrequired = true\n{OPEN}"));
    until_counts(&gateway, 2).await;
    assert!(!is_let_in(&gateway).await);
    gateway.stop().await;
}

#[tokio::test]
async fn a_cap_that_is_lowered_stops_new_work_and_one_that_is_raised_counts_at_once() {
    let with_cap = |cap: u64| format!("[keys]\nrequired = false\n{OPEN}cap = {cap}\n");
    let place = Place::new(&with_cap(1_000));
    let gateway = place.start().await;
    let miner = answering().await;
    let declared = gateway.declare("//One", miner.address, 10_000).await;
    assert_eq!(declared.allotments[0].allotment, 1_000);
    let mut client = gateway.client("").await;
    until_asked(&mut client, &Ok(())).await;

    place.configure(&with_cap(20));
    until_counts(&gateway, 1).await;
    // What was granted before may still be spent; far less than the old cap.
    let asked = until_asked(&mut client, &Err("NO_CAPACITY".into())).await;
    assert!(asked < 100, "{asked} calls of 4 units: the old cap holds");

    place.configure(&with_cap(100_000));
    until_counts(&gateway, 2).await;
    until_asked(&mut client, &Ok(())).await;
    let again = gateway.declare("//One", miner.address, 20_000).await;
    assert_eq!(again.allotments[0].allotment, 20_000);
    gateway.stop().await;
}

#[tokio::test]
async fn who_is_no_longer_listed_gets_no_work_until_it_is_listed_again() {
    let hotkey = |name: &str| Keypair::from_secret(name).expect("a key").hotkey();
    let listing = |name: &str| {
        format!(
            "[keys]\nrequired = false\n[registry]\nunauthenticated_miners = true\nhotkeys = [\"{}\"]\n[tasks.tiny]\n",
            hotkey(name)
        )
    };
    let place = Place::new(&listing("//One"));
    let gateway = place.start().await;
    let miner = answering().await;
    gateway.declare("//One", miner.address, 10_000).await;
    let mut client = gateway.client("").await;
    until_asked(&mut client, &Ok(())).await;

    place.configure(&listing("//Two"));
    until_counts(&gateway, 1).await;
    until_asked(&mut client, &Err("NO_MINER".into())).await;
    // The other one is heard now.
    gateway.declare("//Two", miner.address, 10_000).await;
    until_asked(&mut client, &Ok(())).await;

    // It need not declare again.
    place.configure(&listing("//One"));
    until_counts(&gateway, 2).await;
    until_asked(&mut client, &Ok(())).await;
    gateway.stop().await;
}

#[tokio::test]
async fn limits_count_from_the_next_connection_on_and_a_hangup_is_heeded() {
    let limited = |most: u32| {
        format!("[keys]\nrequired = false\n[limits]\nconnections_per_address_max = {most}\n{OPEN}")
    };
    let place = Place::new(&limited(2));
    let mut gateway = place.start().await;
    let mut client = gateway.client("").await;
    let asked = client.list_tasks(v1::ListTasksRequest {}).await;
    asked.expect("there is room");

    place.configure(&limited(1));
    gateway.signal("-HUP").await;
    gateway
        .until_said("SIGHUP: reading the configuration again")
        .await;
    until_counts(&gateway, 1).await;
    let mut refused = tokio::net::TcpStream::connect(gateway.public())
        .await
        .expect("the system accepts");
    let ended = refused.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "the door took it");
    // Who is in stays in.
    let asked = client.list_tasks(v1::ListTasksRequest {}).await;
    asked.expect("it is open still");
    gateway.stop().await;
}

#[tokio::test]
async fn a_smaller_share_counts_in_the_running_period_and_a_larger_one_at_once() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut config = TestGateway::config(&dir.path().join("taugate.db"));
    let gateway = Gateway::start(Arc::new(config.clone()), Arc::new(SystemClock)).await;
    let gateway = TestGateway::over(gateway.expect("it starts"), dir);
    let (publish, changes) = watch::channel(Arc::new(config.clone()));
    gateway.gateway.follow(changes);
    let miner = answering().await;
    gateway.declare("//One", &miner, 3_000, 4).await;
    let allotment = || {
        let snapshot = gateway.gateway.registry().snapshot();
        snapshot.markets[TASK].offers[0].allotment.get()
    };
    assert_eq!(allotment(), 3_000);
    for (share, expected) in [("1/3", 1_000), ("2/3", 2_000)] {
        config.gateway.share = share.parse().expect("a share");
        publish.send_replace(Arc::new(config.clone()));
        gateway
            .until("the share counts", || allotment() == expected)
            .await;
    }
    gateway.stop().await;
}
