//! Checks beside clients' requests: these go first.

use std::time::Duration;

use taugate::proto::v1;
use taugate_ledger::ids::Origin;
use tonic::{Code, Status};

use crate::support::keys::{checking, put_check_key};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TestGateway, chat};

fn hello() -> Vec<Act> {
    vec![Act::Say("Hello, world".into()), Act::Complete(3)]
}

/// A gateway, and a key that may check.
async fn gateway() -> (TestGateway, String) {
    let mut key = String::new();
    let gateway = TestGateway::with(|config| {
        config.limits.wait = Duration::from_secs(60);
        key = put_check_key(config.store.path.clone(), config.period.length);
    })
    .await;
    (gateway, key)
}

fn cause(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info().expect("a reason");
    format!("{} {}", info.reason, info.metadata["cause"])
}

/// Attempts by outcome, of one origin, over all miners.
async fn attempts(gateway: &TestGateway, origin: Origin) -> [u64; 7] {
    let period = gateway.gateway.books().table().period();
    let store = gateway.gateway.store();
    let tallies = store.tallies(period).await.expect("the store answers");
    let mut sums = [0; 7];
    for tally in tallies.iter().filter(|tally| tally.origin == origin) {
        for (sum, count) in sums.iter_mut().zip(tally.attempts) {
            *sum += count;
        }
    }
    sums
}

/// Good, busy, refused, cancelled, lost, stalled, protocol.
const ONE_CANCELLED: [u64; 7] = [0, 0, 0, 1, 0, 0, 0];

#[tokio::test]
async fn a_client_takes_the_place_of_a_check_in_mid_answer() {
    // The only miner takes one request at a time.
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(40)), Act::Hang]).await;
    let (gateway, key) = gateway().await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let mut checker = gateway.client().await;
    let check = checking(chat("check"), "//One", &key);
    let mut check = checker
        .stream_generate(check)
        .await
        .expect("it begins")
        .into_inner();
    while let Some(event) = check.message().await.expect("an event") {
        if matches!(
            event.event,
            Some(v1::stream_generate_response::Event::Delta(_))
        ) {
            break;
        }
    }
    miner.script(hello());
    let heard = gateway.ask(chat("a client")).await;
    assert_eq!(heard.text, "Hello, world", "{:?}", heard.status);
    gateway
        .until("the miner is rid of the check", || miner.cancelled() == 1)
        .await;
    let gone = check.message().await.expect_err("the check gave way");
    assert_eq!(gone.code(), Code::ResourceExhausted);
    assert_eq!(cause(&gone), "NO_CAPACITY displaced");
    // What the checker got of it is booked, and it counts against nobody.
    assert_eq!(gateway.posted().await, 10 + 1 + 3 + 1);
    assert_eq!(attempts(&gateway, Origin::Synthetic).await, ONE_CANCELLED);
    assert_eq!(gateway.gateway.calls().checks.displaced(), 1);
}

#[tokio::test]
async fn a_client_takes_the_place_of_a_check_that_waits_for_its_first_word() {
    let miner = FakeMiner::start(hello()).await;
    miner.before_headers(vec![Act::Hang]);
    let (gateway, key) = gateway().await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let mut checker = gateway.client().await;
    let check = checking(chat("check"), "//One", &key);
    let check = checker.stream_generate(check);
    let organic = async {
        gateway
            .until("the check runs", || miner.running() == 1)
            .await;
        miner.before_headers(Vec::new());
        gateway.ask(chat("a client")).await
    };
    let (gone, heard) = tokio::join!(check, organic);
    assert_eq!(heard.text, "Hello, world", "{:?}", heard.status);
    assert_eq!(
        cause(&gone.expect_err("it gave way")),
        "NO_CAPACITY displaced"
    );
    assert_eq!(gateway.posted().await, 3 + 1);
    assert_eq!(attempts(&gateway, Origin::Synthetic).await, ONE_CANCELLED);
}

#[tokio::test]
async fn a_miner_that_still_leaves_the_check_is_asked_again() {
    let miner = FakeMiner::start(hello()).await;
    miner.before_headers(vec![Act::Hang]);
    let (gateway, key) = gateway().await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let mut checker = gateway.client().await;
    let check = checking(chat("check"), "//One", &key);
    let check = checker.stream_generate(check);
    let organic = async {
        gateway
            .until("the check runs", || miner.running() == 1)
            .await;
        let too_many = Act::Fail(Code::ResourceExhausted, "too many".into());
        miner.before_headers(vec![too_many]);
        let asked = gateway.ask(chat("a client"));
        let leaving = async {
            gateway
                .until("it was turned away", || miner.seen().len() == 2)
                .await;
            miner.before_headers(Vec::new());
        };
        tokio::join!(asked, leaving).0
    };
    let (gone, heard) = tokio::join!(check, organic);
    assert_eq!(heard.text, "Hello, world", "{:?}", heard.status);
    gone.expect_err("it gave way");
    let tried = attempts(&gateway, Origin::Organic).await;
    assert_eq!((tried[0], tried[1]), (1, 1), "{tried:?}");
}

#[tokio::test]
async fn no_check_overtakes_a_client_that_waits() {
    let miner = FakeMiner::start(vec![Act::Wait, Act::Say("Hello".into()), Act::Complete(1)]).await;
    let (gateway, key) = gateway().await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let first = gateway.ask(chat("first"));
    let second = async {
        gateway
            .until("the first runs", || miner.running() == 1)
            .await;
        gateway.ask(chat("second")).await
    };
    let checks = async {
        let mut checker = gateway.client().await;
        gateway
            .until("the second waits", || {
                !gateway.gateway.calls().waiting.is_empty()
            })
            .await;
        miner.go_on();
        while miner.seen().len() < 2 {
            let check = checking(chat("check"), "//One", &key);
            let check = Heard::of(checker.stream_generate(check).await).await;
            assert!(check.status.is_some(), "a check went before a client");
        }
        miner.go_on();
    };
    let (first, second, ()) = tokio::join!(first, second, checks);
    assert_eq!(
        (first.text.as_str(), second.text.as_str()),
        ("Hello", "Hello")
    );
    assert_eq!(attempts(&gateway, Origin::Synthetic).await, [0; 7]);
}
