//! What a miner sees of checks and of clients' requests: the same.

mod classifier;
mod traffic;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::call::StillDue;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::synthetic::driver::Driver;
use taugate::synthetic::material::Material;
use taugate::synthetic::prompt::Prompts;
use taugate::synthetic::{Check, CheckEnd, Checks};
use taugate_ledger::ids::{Origin, RequestId};
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

use self::classifier::accuracy;
use self::traffic::{Traffic, halves};
use crate::support::keys::{checking, put_check_key};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TASK, TestGateway};

fn hello() -> Vec<Act> {
    vec![Act::Say("Hello, world".into()), Act::Complete(3)]
}

/// A check of the miner of that development key.
fn check(gateway: &TestGateway, name: &str, due: StillDue) -> Check {
    let key = Keypair::from_secret(name).expect("a key");
    let hotkey = key.hotkey().to_string();
    let snapshot = gateway.gateway.registry().snapshot();
    Check {
        cell: gateway.cell(&hotkey),
        hotkey: hotkey.into(),
        task: Arc::clone(snapshot.tasks.get(TASK).expect("the task")),
        units: Units::new(300),
        burst: false,
        due,
    }
}

fn always() -> StillDue {
    StillDue::new(|_| true)
}

/// Sends checks that say what is in `texts`.
fn driver(gateway: &TestGateway, texts: Vec<String>) -> Driver {
    let store = Arc::clone(gateway.gateway.store()) as _;
    let prompts = Prompts::new(Material::corpus(texts), [7; 32], store);
    gateway.gateway.driver().with(prompts)
}

/// The calls of that origin, by number.
async fn calls_of(gateway: &TestGateway, origin: Origin) -> BTreeSet<u64> {
    let books = gateway.gateway.books();
    gateway
        .until("all is durable", || books.pending() == 0)
        .await;
    let mut calls = BTreeSet::new();
    for number in 1..=books.next_call(books.table().period()).call {
        let id = RequestId {
            period: books.table().period(),
            incarnation: books.incarnation(),
            call: number,
        };
        let stored = gateway
            .gateway
            .store()
            .receipt(id)
            .await
            .expect("it answers");
        if stored.is_some_and(|stored| stored.receipt.origin == origin) {
            calls.insert(number);
        }
    }
    calls
}

fn call_of(request: &v1::MinerGenerateRequest) -> u64 {
    let (id, attempt) = request.attempt_id.rsplit_once('-').expect("an attempt");
    assert_eq!(attempt, "1");
    id.parse::<RequestId>().expect("a request id").call
}

fn chat_of(request: &v1::MinerGenerateRequest) -> &v1::ChatPayload {
    match &request.payload {
        Some(v1::miner_generate_request::Payload::Chat(chat)) => chat,
        other => panic!("{other:?}"),
    }
}

fn length(message: &v1::ChatMessage) -> usize {
    let texts = message.parts.iter().map(|part| match &part.part {
        Some(v1::content_part::Part::Text(text)) => text.chars().count(),
        other => panic!("{other:?}"),
    });
    texts.sum()
}

/// All of a request but its name and its words.
fn form(request: &v1::MinerGenerateRequest) -> String {
    let mut chat = chat_of(request).clone();
    for message in &mut chat.messages {
        message.parts.clear();
    }
    for stop in &mut chat.stop {
        stop.clear();
    }
    if let Some(seed) = chat.sampling.as_mut().and_then(|set| set.seed.as_mut()) {
        *seed = 0;
    }
    format!("{} {chat:?}", request.task)
}

/// Headers, with the time that the miner is given as what it looks like.
fn headers(metadata: &tonic::metadata::MetadataMap) -> BTreeSet<String> {
    let all = metadata.clone().into_headers();
    all.iter()
        .map(|(name, value)| {
            let value = value.to_str().expect("text");
            if name == "grpc-timeout" {
                let digits = value.len() - 1;
                let unit = &value[digits..];
                return format!("{name}: {digits} digits, {unit}");
            }
            format!("{name}: {value}")
        })
        .collect()
}

#[tokio::test]
async fn a_check_looks_like_a_clients_request_field_by_field() {
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 10_000_000, 64).await;
    let (own, other) = halves();
    let mut traffic = Traffic::new(1, own);
    let mut client = gateway.client().await;
    for _ in 0..100 {
        let heard = Heard::of(client.stream_generate(traffic.next()).await).await;
        assert!(heard.completed.is_some(), "{:?}", heard.status);
    }
    let driver = driver(&gateway, other);
    for _ in 0..100 {
        let end = driver.check(check(&gateway, "//One", always())).await;
        assert_eq!(end.outcome, Some(Outcome::Good));
        assert!(end.units > Units::ZERO);
    }
    let checks = calls_of(&gateway, Origin::Synthetic).await;
    assert_eq!((checks.len(), miner.seen().len()), (100, 200));
    assert_eq!(miner.connections(), 1, "a connection of their own");
    let (seen, metadata) = (miner.seen(), miner.metadata());
    let both = seen.iter().zip(&metadata);
    let (checked, asked): (Vec<_>, Vec<_>) =
        both.partition(|(request, _)| checks.contains(&call_of(request)));

    let said = |of: &[(&v1::MinerGenerateRequest, &tonic::metadata::MetadataMap)]| {
        let all = of.iter().map(|(_, metadata)| headers(metadata));
        all.collect::<BTreeSet<_>>()
    };
    assert_eq!(said(&checked), said(&asked), "headers");
    let forms: BTreeSet<_> = asked.iter().map(|(request, _)| form(request)).collect();
    let mut words = BTreeSet::new();
    for (request, _) in &checked {
        assert!(forms.contains(&form(request)), "{}", form(request));
        let lengths: Vec<_> = chat_of(request).messages.iter().map(length).collect();
        let alike = asked.iter().any(|(other, _)| {
            let others = &chat_of(other).messages;
            let near = |(one, other): (&usize, usize)| one.abs_diff(other) <= other / 32 + 25;
            let others = others.iter().map(length);
            form(other) == form(request) && lengths.iter().zip(others).all(near)
        });
        assert!(alike, "{lengths:?}");
        words.insert(format!("{:?}", chat_of(request).messages));
    }
    assert_eq!(words.len(), 100, "no two checks say the same");
}

#[tokio::test]
async fn a_check_that_is_not_due_any_more_is_not_sent_and_leaves_nothing() {
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    let due = StillDue::new(move |held| {
        hears.lock().push(held);
        false
    });
    let driver = gateway.gateway.driver();
    let end = driver.check(check(&gateway, "//One", due)).await;
    assert_eq!(end, CheckEnd::UNSENT);
    let held = told.lock().clone();
    assert!(
        held.len() == 1 && held[0] > Units::ZERO,
        "asked once: {held:?}"
    );
    assert_eq!(gateway.posted().await, 0);
    assert_eq!(miner.seen().len(), 0);
    assert_eq!(calls_of(&gateway, Origin::Synthetic).await, BTreeSet::new());
    let end = driver.check(check(&gateway, "//One", always())).await;
    assert_eq!(end.outcome, Some(Outcome::Good));
    assert_eq!(gateway.posted().await, end.units.get());
}

/// Requests and checks that leave at random times, and what a learner makes of it.
/// `TAUGATE_UNLINKABLE_CALLS`: of each, a quarter of a second apart, the times among what is
/// learned from. Without it a few hundred, so quick that the times would show how busy this
/// process is, and are left out.
#[tokio::test]
async fn a_learner_hardly_tells_checks_from_requests_and_tells_fixed_ones_well() {
    let long = std::env::var("TAUGATE_UNLINKABLE_CALLS").ok();
    let (calls, each) = match &long {
        None => (400, Duration::from_millis(25)),
        Some(text) => (text.parse().expect("a number"), Duration::from_millis(250)),
    };
    let (own, other) = halves();
    let miner = FakeMiner::start(hello()).await;
    let mut key = String::new();
    let gateway = TestGateway::with(|config| {
        key = put_check_key(config.store.path.clone(), config.period.length);
    })
    .await;
    gateway.declare("//One", &miner, 1_000_000_000, 0).await;
    let mut traffic = Traffic::new(2, own);
    let client = gateway.client().await;
    // Traffic first: what checks are like is drawn from the newest requests, and of few of them
    // each would come again and again.
    const BEFORE: usize = 512;
    for _ in 0..BEFORE / 16 {
        let some = (0..16).map(|_| {
            let (mut client, request) = (client.clone(), traffic.next());
            async move { drop(Heard::of(client.stream_generate(request).await).await) }
        });
        futures_util::future::join_all(some).await;
    }
    let driver = Arc::new(driver(&gateway, other));
    let due = check(&gateway, "//One", always());
    let ask = |traffic: &mut Traffic| {
        let (mut client, request) = (client.clone(), traffic.next());
        async move { drop(Heard::of(client.stream_generate(request).await).await) }
    };
    let send = || {
        let (driver, due) = (Arc::clone(&driver), due.clone());
        async move {
            driver.check(due).await;
        }
    };
    // One stream of arrivals, each the one or the other by chance: what comes at the same moment
    // in a test's process comes in an order that no network would give it.
    let mut kinds = StdRng::seed_from_u64(4);
    let either = || match kinds.random_bool(0.5) {
        true => send().boxed(),
        false => ask(&mut traffic).boxed(),
    };
    arrivals(waits(3, 2 * calls, each / 2), either).await;
    let made = calls_of(&gateway, Origin::Synthetic).await;
    let timed = long.is_some();
    let stream = traffic::stream(&miner, (BEFORE, timed), |request| {
        made.contains(&call_of(request))
    });
    let tells = accuracy(&stream);

    // The same with checks as simple loops send them: one size, evenly spaced.
    let before = miner.seen().len();
    let fixed = || {
        let request = crate::support::chat("What is the capital of France?");
        let (mut client, request) = (client.clone(), checking(request, "//One", &key));
        async move { drop(Heard::of(client.stream_generate(request).await).await) }
    };
    let evenly = vec![each; calls / 2];
    tokio::join!(
        arrivals(waits(5, calls / 2, each), || ask(&mut traffic)),
        arrivals(evenly, fixed),
    );
    let made = calls_of(&gateway, Origin::Synthetic).await;
    let stream = traffic::stream(&miner, (before, timed), |request| {
        made.contains(&call_of(request))
    });
    let control = accuracy(&stream);
    let told = format!("about {calls} of each: {tells:?}; fixed checks: {control:?}\n");
    std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).expect("a terminal");
    // A guess is right so often by chance, three standard deviations up.
    let chance = 1.5 / f64::from(u32::try_from(tells.held_out).expect("few")).sqrt();
    assert!(tells.best() <= 0.5 + chance.max(0.05), "{tells:?}");
    assert!(control.best() >= 0.9, "{control:?}");
}

/// Times between arrivals that know nothing of each other.
fn waits(seed: u64, many: usize, mean: Duration) -> Vec<Duration> {
    let mut draws = StdRng::seed_from_u64(seed);
    let wait = |_| mean.mul_f64(-draws.random::<f64>().max(1e-9).ln());
    (0..many).map(wait).collect()
}

/// Begins something after each wait, whatever became of what began before.
async fn arrivals<F: Future<Output = ()> + Send + 'static>(
    waits: Vec<Duration>,
    mut begin: impl FnMut() -> F,
) {
    let mut running = tokio::task::JoinSet::new();
    let mut at = tokio::time::Instant::now();
    for wait in waits {
        at += wait;
        tokio::time::sleep_until(at).await;
        running.spawn(begin());
    }
    running.join_all().await;
}
