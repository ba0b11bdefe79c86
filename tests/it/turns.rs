//! The turn of the period under load: nobody is refused because of it, and each call is
//! settled in the period of its admission.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate_ledger::ids::RequestId;
use taugate_ledger::period::{Period, PeriodLength};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::support::miner::{Act, FakeMiner};
use crate::support::{Connection, Heard, TestGateway, chat};

/// Says how many turns; the number that is seen by default takes some seconds.
const TURNS: (&str, u64) = ("TAUGATE_TURNS", 3);

/// Says how many microseconds there are from one request to the next.
const EVERY_US: (&str, u64) = ("TAUGATE_TURNS_EVERY_US", 20_000);

/// Seconds of a period.
const LENGTH_S: u32 = 3;

/// Connections over which the requests go in turn.
const CONNECTIONS: usize = 8;

/// Calls at once. A gateway that is slower than this asks for makes the requests rarer.
const CALLS: usize = 512;

fn given((name, usual): (&str, u64)) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn id_of(heard: &Heard) -> RequestId {
    let started = heard.started.as_ref().expect("it began");
    started.request_id.parse().expect("an id")
}

/// Asks at a steady pace until so many periods have passed; what was heard, all to the end.
async fn asked(gateway: &TestGateway, turns: u64) -> Vec<Heard> {
    let mut clients: Vec<InferenceServiceClient<Connection>> = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(gateway.client().await);
    }
    let last = gateway.gateway.books().table().period().start_s() + turns * u64::from(LENGTH_S);
    let places = Arc::new(Semaphore::new(CALLS));
    let mut pace = tokio::time::interval(Duration::from_micros(given(EVERY_US)));
    // What the clock wakes late for is made up for.
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut calls, mut all) = (JoinSet::new(), Vec::new());
    let mut next = 0;
    while gateway.gateway.books().table().period() <= Period::starting_at(last) {
        pace.tick().await;
        let place = Arc::clone(&places).acquire_owned().await.expect("open");
        let mut client = clients[next % CONNECTIONS].clone();
        next += 1;
        calls.spawn(async move {
            let heard = Heard::of(client.stream_generate(chat("hi")).await).await;
            drop(place);
            heard
        });
        while let Some(ended) = calls.try_join_next() {
            all.push(ended.expect("a call"));
        }
    }
    all.extend(calls.join_all().await);
    all
}

/// Requests come at a steady pace over turns, to two miners of which one answers at once and
/// one streams across a turn now and then. No call is refused, all are whole, and each
/// receipt stands in the period in which its call was admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_over_turns_and_each_is_settled_in_its_own_period() {
    let turns = given(TURNS);
    let length = PeriodLength::from_secs(LENGTH_S).expect("not zero");
    let gateway = TestGateway::with(|config| {
        config.period.length = length;
        // Every receipt is looked at in the end.
        config.store.retention_periods = u32::try_from(turns + 3).unwrap_or(u32::MAX);
    })
    .await;
    let quick = FakeMiner::start(vec![Act::Say("word ".into()), Act::Complete(1)]).await;
    let pause = || Act::Pause(Duration::from_millis(300));
    let slow = [
        vec![Act::Say("word ".into()), pause(), Act::Say("word ".into())],
        vec![pause(), Act::Say("word ".into()), Act::Complete(5)],
    ];
    let slow = FakeMiner::start(slow.concat()).await;
    gateway.declare("//Quick", &quick, 3_600_000_000, 512).await;
    gateway.declare("//Slow", &slow, 3_600_000_000, 64).await;
    let began = Instant::now();
    let heard = asked(&gateway, turns).await;
    let took = began.elapsed().as_secs_f64();
    gateway.posted().await;
    let mut across = 0;
    for heard in &heard {
        assert!(heard.status.is_none(), "{heard:?}");
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
    let calls = heard.len();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let rate = calls as f64 / took;
    let told = format!(
        "turns: {turns} turns, {calls} calls, {rate:.0} a second, {across} across a turn: \
         none refused, each in the period of its admission\n"
    );
    let written = std::io::stdout().write_all(told.as_bytes());
    written.expect("standard output");
}
