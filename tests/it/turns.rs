//! The turn of the period under load: nobody is refused because of it, and each call is
//! settled in the period of its admission.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::ids::RequestId;
use taugate_ledger::period::PeriodLength;
use tokio::task::JoinSet;

use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TestGateway, chat};

/// Says how many turns; the number that is seen by default takes some seconds.
const TURNS: (&str, usize) = ("TAUGATE_TURNS", 3);

/// Seconds of a period.
const LENGTH_S: u32 = 3;

/// Clients, each with one call after the other.
const CLIENTS: usize = 6;

/// Asks until enough periods were seen; what it heard, all of it to the end.
async fn client(gateway: Arc<TestGateway>, turns: usize) -> Vec<Heard> {
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    while seen.len() <= turns {
        let heard = gateway.ask(chat("hi")).await;
        assert!(heard.status.is_none(), "{heard:?}");
        let id: RequestId = id_of(&heard);
        seen.insert(id.period);
        all.push(heard);
    }
    all
}

fn id_of(heard: &Heard) -> RequestId {
    let started = heard.started.as_ref().expect("it began");
    started.request_id.parse().expect("an id")
}

/// Clients ask without a break over turns, of two miners of which one answers at once and
/// one streams across a turn now and then. No call is refused, all are whole, and each
/// receipt stands in the period in which its call was admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_over_turns_and_each_is_settled_in_its_own_period() {
    let given = std::env::var(TURNS.0).ok();
    let turns = given.and_then(|text| text.parse().ok()).unwrap_or(TURNS.1);
    let length = PeriodLength::from_secs(LENGTH_S).expect("not zero");
    let gateway = TestGateway::with(|config| config.period.length = length).await;
    let quick = FakeMiner::start(vec![Act::Say("word ".into()), Act::Complete(1)]).await;
    let pause = || Act::Pause(Duration::from_millis(300));
    let slow = [
        vec![Act::Say("word ".into()), pause(), Act::Say("word ".into())],
        vec![pause(), Act::Say("word ".into()), Act::Complete(5)],
    ];
    let slow = FakeMiner::start(slow.concat()).await;
    gateway.declare("//Quick", &quick, 3_600_000_000, 64).await;
    gateway.declare("//Slow", &slow, 3_600_000_000, 64).await;
    let gateway = Arc::new(gateway);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(Arc::clone(&gateway), turns));
    }
    let heard: Vec<Heard> = clients.join_all().await.into_iter().flatten().collect();
    gateway.posted().await;
    let mut across = 0;
    for heard in &heard {
        let completed = heard.completed.as_ref().expect("it is whole");
        assert!(completed.recorded, "{heard:?}");
        let id = id_of(heard);
        let stored = gateway.gateway.store().receipt(id).await;
        let receipt = stored.expect("an answer").expect("a receipt").receipt;
        let admitted = id.period.start_s() * 1000..length.end_ms(id.period);
        assert!(admitted.contains(&receipt.admitted_ms), "{receipt:?}");
        let took_ms = receipt
            .attempts
            .iter()
            .map(|attempt| attempt.duration_us / 1000);
        across += usize::from(receipt.admitted_ms + took_ms.sum::<u64>() > admitted.end);
    }
    assert!(across > 0, "no call ran across a turn");
}
