//! API keys as an operator handles them: the binary, beside a gateway that runs.

use std::time::Duration;

use taugate::proto::v1;
use tonic::{Code, Status};

use crate::support::miner::{Act, FakeMiner};
use crate::support::process::{KeyedClient, Place, Process};
use crate::support::{Heard, chat};

const CLOSED: &str = "[keys]\nrequired = true\n[registry]\nopen_registration = true\n\
                      open_tasks = true\nunauthenticated_miners = true\n";

/// What a key that does not hold is answered, whatever is wrong with it.
fn is_refusal(status: &Status) -> bool {
    let one = (Code::Unauthenticated, "credentials are missing or wrong");
    (status.code(), status.message()) == one
}

/// Makes a key; its text.
async fn create(place: &Place, arguments: &[&str]) -> String {
    let made = place.run(&[&["key", "create"], arguments].concat()).await;
    assert!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout).expect("text");
    key.trim().to_owned()
}

fn public_id(key: &str) -> &str {
    key.split('_').nth(2).expect("a key")
}

async fn list(place: &Place) -> String {
    let listed = place.run(&["key", "list"]).await;
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).expect("text")
}

async fn tasks(client: &mut KeyedClient) -> Result<(), Status> {
    let asked = client.list_tasks(v1::ListTasksRequest {}).await;
    asked.map(drop)
}

/// Asks again until it is let in, or is not.
async fn until_let_in(client: &mut KeyedClient, expected: bool) {
    // What must hold at latest, with what a busy machine adds.
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match tasks(client).await {
            Ok(()) if expected => return,
            Err(status) if !expected => {
                assert!(is_refusal(&status), "{status:?}");
                return;
            }
            Ok(()) => {}
            Err(status) => assert!(is_refusal(&status), "{status:?}"),
        }
        let late = tokio::time::Instant::now() > limit;
        assert!(!late, "let in: {}, for 30 s", !expected);
        // Slowly enough to be no guesser.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn case_21_a_key_that_is_made_while_a_gateway_runs_counts_until_it_is_revoked() {
    let place = Place::new(CLOSED);
    let gateway = place.start().await;
    let mut keyless = gateway.client("").await;
    let missing = tasks(&mut keyless).await.expect_err("no key");
    assert!(is_refusal(&missing), "{missing:?}");

    let key = create(&place, &["my-app"]).await;
    let mut client = gateway.client(&key).await;
    until_let_in(&mut client, true).await;
    let wrong = format!("{}x{}", &key[..20], &key[21..]);
    let mut forger = gateway.client(&wrong).await;
    let refused = tasks(&mut forger).await.expect_err("a wrong key");
    assert!(is_refusal(&refused), "{refused:?}");

    let revoked = place.run(&["key", "revoke", public_id(&key)]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    // On the connection that it was good on.
    until_let_in(&mut client, false).await;
    let other = create(&place, &["another"]).await;
    let mut other = gateway.client(&other).await;
    until_let_in(&mut other, true).await;
    let unknown = place.run(&["key", "revoke", "nobody00"]).await;
    assert!(!unknown.status.success());
    gateway.stop().await;

    let gateway = place.start().await;
    let still = tasks(&mut gateway.client(&key).await).await;
    assert!(is_refusal(&still.expect_err("it was revoked")));
    gateway.stop().await;
}

#[tokio::test]
async fn a_list_of_keys_shows_when_each_was_used_and_no_secret() {
    let place = Place::new(CLOSED);
    // Before there is a store, too.
    let first = create(&place, &["first", "--task", "tiny", "--days", "3"]).await;
    let gateway = place.start().await;
    let second = create(&place, &["second", "--check"]).await;
    until_let_in(&mut gateway.client(&first).await, true).await;
    // What was not written yet is written at the end.
    gateway.stop().await;

    let listed = list(&place).await;
    let line = |key: &str| {
        let mut lines = listed.lines();
        let found = lines.find(|line| line.contains(public_id(key)));
        found.unwrap_or_else(|| panic!("{listed}")).to_owned()
    };
    let (used, unused) = (line(&first), line(&second));
    for word in ["active", "first", "tiny", "generate"] {
        assert!(used.contains(word), "{used}");
    }
    assert!(!used.contains("never"), "it was used: {used}");
    for word in ["active", "second", "all", "check", "never"] {
        assert!(unused.contains(word), "{unused}");
    }
    let revoked = place.run(&["key", "revoke", public_id(&second)]).await;
    assert!(revoked.status.success());
    assert!(list(&place).await.contains("revoked"));
    for key in [&first, &second] {
        let secret = key.rsplit('_').next().expect("a secret");
        assert!(!listed.contains(&secret[..8]), "{listed}");
        let kept = std::fs::read(place.store()).expect("the store");
        let holds = kept.windows(8).any(|part| part == &secret.as_bytes()[..8]);
        assert!(!holds, "the store holds a secret");
    }
}

#[tokio::test]
async fn a_stream_whose_key_is_revoked_goes_on_to_its_end() {
    let place = Place::new(CLOSED);
    let gateway = place.start().await;
    let key = create(&place, &["my-app"]).await;
    let miner = FakeMiner::start(vec![
        Act::Say("Grüße".into()),
        Act::Wait,
        Act::Say(", Welt!".into()),
        Act::Complete(2),
    ])
    .await;
    gateway.declare("//One", miner.address, 100_000).await;
    let mut client = gateway.client(&key).await;
    until_let_in(&mut client, true).await;
    let answer = first_answer(&gateway, &mut client).await;

    let revoked = place.run(&["key", "revoke", public_id(&key)]).await;
    assert!(revoked.status.success());
    until_let_in(&mut client, false).await;
    miner.go_on();
    let heard = Heard::of(answer).await;
    assert_eq!(heard.text, "Grüße, Welt!");
    assert!(heard.completed.expect("it is whole").recorded);
    gateway.stop().await;
}

type Answer = Result<tonic::Response<tonic::Streaming<v1::StreamGenerateResponse>>, Status>;

/// An answer that has begun: the first one after the router heard of the miner.
async fn first_answer(gateway: &Process, client: &mut KeyedClient) -> Answer {
    loop {
        let answer = client.stream_generate(chat("hello")).await;
        let early = |status: &Status| status.code() != Code::Unauthenticated;
        assert!(answer.as_ref().err().is_none_or(early), "{answer:?}");
        if answer.is_ok() {
            return answer;
        }
        assert!(gateway.said("the books are broken").is_empty());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
