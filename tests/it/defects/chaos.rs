//! Clients that leave at any moment and miners that do anything: afterwards nothing is held,
//! nothing runs, and the books know all that anybody got.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::proto::v1;
use taugate_ledger::units::Units;
use tokio::task::JoinSet;
use tonic::{Code, Request};

use super::{free_slots, units};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TASK, TestGateway, chat};

/// Says how many calls; the number that is run by default takes some seconds.
const CALLS: (&str, usize) = ("TAUGATE_CHAOS_CALLS", 1_000);

/// Says with which seed, to repeat one.
const SEED: (&str, u64) = ("TAUGATE_CHAOS_SEED", 5);

const CLIENTS: usize = 16;
const SLOTS: usize = 64;

fn setting<T: std::str::FromStr>((name, default): (&str, T)) -> T {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a miner may do once its headers left.
fn script(rng: &mut StdRng) -> Vec<Act> {
    let say = || Act::Say("word ".into());
    let pause = || Act::Pause(Duration::from_millis(2));
    let code = Code::from_i32(rng.random_range(0..17));
    let fail = || Act::Fail(code, "\u{1b}[31m429 OK".into());
    let mut good = [say(), pause(), say(), pause(), say(), pause(), say()].to_vec();
    good.push(Act::Complete(5));
    match rng.random_range(0..14) {
        0 => vec![Act::Hang],
        1 => vec![say(), Act::Hang],
        2 => vec![fail()],
        3 => vec![say(), pause(), fail()],
        4 => vec![say(), Act::Lie],
        5 => vec![say(), Act::End],
        6 => vec![Act::End],
        7 => vec![Act::Complete(1)],
        8 => vec![pause(), Act::Die],
        9 => vec![say(), pause(), Act::Die],
        10 => vec![Act::Say("flood".into()); 3_000],
        11 => [vec![Act::Say(String::new()); 2_000], vec![Act::Complete(1)]].concat(),
        _ => good,
    }
}

/// What it may do before.
fn before_headers(rng: &mut StdRng) -> Vec<Act> {
    match rng.random_range(0..12) {
        0 => vec![Act::Hang],
        1 => vec![Act::Fail(Code::ResourceExhausted, String::new())],
        2 => vec![Act::Fail(
            Code::from_i32(rng.random_range(0..17)),
            String::new(),
        )],
        _ => Vec::new(),
    }
}

/// One client's calls; what it heard of each that began.
async fn client(
    gateway: &TestGateway,
    miners: &[FakeMiner],
    (calls, seed): (usize, u64),
) -> Vec<Heard> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut began = Vec::new();
    let mut client = gateway.client().await;
    for number in 0..calls {
        if number % 10 == 9 {
            client = gateway.client().await;
        }
        let miner = &miners[rng.random_range(0..miners.len())];
        miner.script(script(&mut rng));
        miner.before_headers(before_headers(&mut rng));
        let mut request = Request::new(chat("hi"));
        if rng.random_range(0..5) == 0 {
            request.set_timeout(Duration::from_millis(rng.random_range(1..300)));
        }
        let hurries = rng.random_range(0..2) == 0;
        let patience = if hurries {
            Duration::from_micros(rng.random_range(0..40_000))
        } else {
            super::PATIENCE
        };
        if rng.random_range(0..8) == 0 {
            // What a cancelled call without a stream was about to hear nobody knows.
            drop(tokio::time::timeout(patience, client.generate(request)).await);
            continue;
        }
        let events_max = rng.random_range(0..20);
        let mut heard = Heard::default();
        let reading = read(&mut client, request, &mut heard, events_max);
        drop(tokio::time::timeout(patience, reading).await);
        if heard.started.is_some() {
            began.push(heard);
        }
    }
    began
}

type Client = v1::inference_service_client::InferenceServiceClient<crate::support::Connection>;

/// Reads to the end, or leaves after so many events.
async fn read(
    client: &mut Client,
    request: Request<v1::GenerateRequest>,
    heard: &mut Heard,
    events_max: usize,
) {
    let Ok(response) = client.stream_generate(request).await else {
        return;
    };
    let mut events = response.into_inner();
    for _ in 0..events_max {
        match events.message().await {
            Ok(Some(event)) => heard.add(event),
            Ok(None) | Err(_) => return,
        }
    }
}

/// N30, with cancels: a thousand calls, of which most are left at a random moment, over
/// miners that reset, hang, flood and end wrongly at random. Afterwards no unit is held, no
/// call runs or waits, no journal slot, no place at a miner and no connection is taken, and
/// each receipt has at least what its client got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n30_cancels_and_misbehaviour_at_random_leave_nothing_behind() {
    let (calls, seed): (usize, u64) = (setting(CALLS), setting(SEED));
    let gateway = std::sync::Arc::new(rough().await);
    let mut miners = Vec::new();
    for name in ["//A", "//B", "//C", "//D", "//E", "//F"] {
        let miner = FakeMiner::start(Vec::new()).await;
        gateway.declare(name, &miner, 10_000_000, 8).await;
        miners.push(miner);
    }
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (gateway, miners) = (std::sync::Arc::clone(&gateway), miners.clone());
        let order = (calls / CLIENTS, seed ^ (number as u64) << 32);
        clients.spawn(async move { client(&gateway, &miners, order).await });
    }
    let mut began = Vec::new();
    while let Some(ended) = clients.join_next().await {
        began.extend(ended.expect("no panic"));
    }
    let whole = began
        .iter()
        .filter(|heard| heard.completed.is_some())
        .count();
    assert!(
        whole > 0 && whole < began.len(),
        "{whole} of {}",
        began.len()
    );
    nothing_left(&gateway, &miners).await;
    let posted = gateway.posted().await;
    let mut received = 0;
    for heard in began {
        received += check(&gateway, &heard).await;
    }
    assert!(received <= posted, "{received} of {posted}, seed {seed}");
    assert_eq!(free_slots(&gateway), SLOTS, "seed {seed}");
}

/// A gateway with short limits and few journal slots.
async fn rough() -> TestGateway {
    let mut task = taugate::task::Task::open_chat(TASK.into());
    task.weight = 1.0;
    task.limits.first_chunk = Duration::from_millis(200);
    task.limits.between_chunks = Duration::from_millis(200);
    TestGateway::with(|config| {
        config.tasks = std::sync::Arc::new([task].into_iter().collect());
        config.limits.wait = Duration::from_millis(100);
        config.store.journal_slots = SLOTS;
        config.gateway.shards = Some(2);
    })
    .await
}

async fn nothing_left(gateway: &TestGateway, miners: &[FakeMiner]) {
    let calls = gateway.gateway.calls();
    gateway
        .until("no call runs or waits", || {
            calls.running.is_empty() && calls.waiting.is_empty()
        })
        .await;
    let instruments = &calls.instruments;
    gateway
        .until("no stream and no connection is open", || {
            instruments.inflight_streams.get() == 0 && instruments.connections("public").get() == 0
        })
        .await;
    gateway
        .until("the miners are left alone", || {
            miners.iter().all(|miner| miner.running() == 0)
        })
        .await;
    let snapshot = gateway.gateway.registry().snapshot();
    for offer in &snapshot.markets[TASK].offers {
        assert_eq!(calls.vitals.pulse(offer.cell).in_flight(), 0);
    }
}

/// What a client got stands in its receipt; the units of it.
async fn check(gateway: &TestGateway, heard: &Heard) -> u64 {
    let id = heard.started.as_ref().expect("started").request_id.clone();
    let stored = gateway.gateway.store().receipt(id.parse().expect("an id"));
    let stored = stored.await.expect("the store answers");
    let receipt = stored.expect("every call has a receipt").receipt;
    let got = if heard.text.is_empty() {
        0
    } else {
        units(&heard.text) + receipt.prompt_units.get()
    };
    assert!(Units::new(got) <= receipt.units, "{heard:?}: {receipt:?}");
    if let Some(completed) = &heard.completed {
        let usage = completed.usage.as_ref().expect("usage");
        assert_eq!(usage.units, receipt.units.get(), "{receipt:?}");
    }
    got
}
