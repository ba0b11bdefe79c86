//! A configuration that changes under a gateway that runs: the binary, its file, signals.

use std::path::Path;
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
        config.gateway.share = Some(share.parse().expect("a share"));
        publish.send_replace(Arc::new(config.clone()));
        gateway
            .until("the share counts", || allotment() == expected)
            .await;
    }
    gateway.stop().await;
}

/// A metagraph's file, put in place at once: hotkeys of development names, with stakes.
fn write_metagraph(path: &Path, entries: &[(&str, &str)]) {
    let mut text = "hotkey,uid,stake\n".to_owned();
    for (uid, (name, stake)) in entries.iter().enumerate() {
        let hotkey = Keypair::from_secret(name).expect("a key").hotkey();
        text.push_str(&format!("{hotkey},{uid},{stake}\n"));
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("it is written");
    std::fs::rename(new, path).expect("it is put in place");
}

/// A gateway of that hotkey, whose miners are those of the metagraph.
async fn validator(name: &str, metagraph: &Path) -> TestGateway {
    let secret = metagraph.with_file_name(format!("{}.json", &name[2..]));
    let key = Keypair::from_secret(name).expect("a key");
    key.save(&secret).expect("it is written");
    TestGateway::with(|config| {
        config.gateway.hotkey_file = Some(secret);
        config.registry.open_registration = false;
        config.registry.metagraph = Some(metagraph.to_owned());
    })
    .await
}

fn allotments(gateway: &TestGateway) -> Vec<u64> {
    let snapshot = gateway.gateway.registry().snapshot();
    let market = snapshot.markets.get(TASK);
    let offers = market.map_or(&[][..], |market| &market.offers);
    offers.iter().map(|offer| offer.allotment.get()).collect()
}

/// N26: a share that was frozen at start, or that the miner multiplied.
#[tokio::test]
async fn n26_gateways_with_one_metagraph_agree_to_the_unit_also_when_it_changes() {
    const DECLARED: u64 = 99_999;
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("metagraph.csv");
    let miner = answering().await;
    write_metagraph(
        &file,
        &[("//Alice", "1000.5"), ("//Bob", "333.25"), ("//One", "0")],
    );
    let (alice, bob) = (
        validator("//Alice", &file).await,
        validator("//Bob", &file).await,
    );
    for gateway in [&alice, &bob] {
        gateway.declare("//One", &miner, DECLARED, 4).await;
        assert_eq!(gateway.gateway.registry().uid(&key("//One")), Some(2));
    }
    // In billionths, of 1,333.75 in sum.
    let part = |stake: u128, all: u128| u64::try_from(u128::from(DECLARED) * stake / all);
    let first = (part(1_000_500, 1_333_750), part(333_250, 1_333_750));
    assert_eq!(allotments(&alice), [first.0.expect("it fits")]);
    assert_eq!(allotments(&bob), [first.1.expect("it fits")]);

    // A third validator comes, and stakes move.
    let stakes = [
        ("//Alice", "1"),
        ("//Bob", "2.000000001"),
        ("//One", "0"),
        ("//Eve", "4"),
    ];
    write_metagraph(&file, &stakes);
    let all = 7_000_000_001;
    for (gateway, stake) in [(&alice, 1_000_000_000), (&bob, 2_000_000_001)] {
        let expected = part(stake, all).expect("it fits");
        let counts = || allotments(gateway) == [expected];
        gateway.until("the new stakes count", counts).await;
    }
    // Who is gone from it gets no new work.
    write_metagraph(&file, &[("//Alice", "1"), ("//Bob", "2")]);
    for gateway in [&alice, &bob] {
        let gone = || allotments(gateway).is_empty();
        gateway.until("the miner is gone", gone).await;
    }
    alice.stop().await;
    bob.stop().await;
}

fn key(name: &str) -> taugate::identity::hotkey::Hotkey {
    Keypair::from_secret(name).expect("a key").hotkey()
}

/// N28: a service that fails, or a half of what it said, must not undo what was known.
#[tokio::test]
async fn n28_a_bad_metagraph_is_refused_whole_and_told_once() {
    const REFUSED: &str = "metagraph refused; the old one holds";
    const COUNTS: &str = "the metagraph counts now";
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("metagraph.csv");
    let own = taugate::identity::hotkey::DEVELOPMENT;
    write_metagraph(&file, &[(own, "1"), ("//Bob", "3"), ("//One", "0")]);
    let place = Place::new(&format!(
        "[keys]\nrequired = false\n[registry]\nmetagraph = {file:?}\n[tasks.tiny]\n"
    ));
    let gateway = place.start().await;
    until_said(&gateway, COUNTS, 1).await;
    let miner = answering().await;
    let declared = async || gateway.declare("//One", miner.address, 1_000).await;
    let allotment = async || declared().await.allotments[0].allotment;
    assert_eq!(allotment().await, 250);

    // Without the validator, with half a line, and not there at all.
    write_metagraph(&file, &[("//Bob", "3"), ("//One", "0")]);
    until_said(&gateway, REFUSED, 1).await;
    std::fs::write(&file, "hotkey,uid,stake\n5Grw").expect("it is written");
    until_said(&gateway, REFUSED, 2).await;
    std::fs::remove_file(&file).expect("it was there");
    until_said(&gateway, REFUSED, 3).await;
    assert_eq!(allotment().await, 250, "the old one holds");
    assert_eq!(gateway.said(COUNTS).len(), 1);

    write_metagraph(&file, &[(own, "3"), ("//Bob", "3"), ("//One", "0")]);
    until_said(&gateway, COUNTS, 2).await;
    assert_eq!(allotment().await, 500);
    assert_eq!(gateway.said(REFUSED).len(), 3, "each is told once");
    gateway.stop().await;
}
