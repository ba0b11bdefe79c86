//! Calls whose own task panics. Nothing in the program can be told to; but whoever reads an
//! answer brings the waker that the call wakes, and that of a test may panic: in the middle
//! of the relay, with units held, a miner at work and a client that waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::clock::SystemClock;
use taugate::front_door::inference::{Inference, Receipts};
use taugate::identity::StoreAway;
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::miner_client::{Caller, Pool, PoolSettings, Reach};
use taugate::proto::v1;
use taugate::proto::v1::inference_service_server::InferenceService as _;
use taugate::routing::Vitals;
use taugate_ledger::engine::BoxFuture;
use taugate_ledger::ids::RequestId;
use tonic::{Request, Status};

use super::{free_slots, units};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TestGateway, chat};

const PANICS: usize = 1_000;

/// Calls at once.
const LANES: u32 = 8;

/// So few that the first ones that leak would end the test.
const SLOTS: usize = 128;

/// A waker that panics when it is woken for the last time that it was given.
#[derive(Debug)]
struct Trap(AtomicI32);

impl Wake for Trap {
    fn wake(self: Arc<Self>) {
        let left = self.0.fetch_sub(1, Ordering::SeqCst);
        assert!(left != 1, "a waker that panics");
    }
}

/// Nobody asks for receipts here.
#[derive(Debug)]
struct NoReceipts;

impl Receipts for NoReceipts {
    fn receipt<'a>(
        &'a self,
        _: RequestId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<v1::Receipt>, StoreAway>> {
        Box::pin(async { Ok(None) })
    }
}

/// Between two looks at an answer: nothing wakes who waits for it.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Reads an answer to its end by a waker that is woken for nothing.
async fn ask(inference: &Inference, trap: Arc<Trap>) -> Heard {
    let waker = Waker::from(trap);
    let mut context = Context::from_waker(&waker);
    let mut heard = Heard::default();
    let mut asking = inference.stream_generate(Request::new(chat("hi")));
    let begun = loop {
        match asking.as_mut().poll(&mut context) {
            Poll::Ready(begun) => break begun,
            Poll::Pending => breathe().await,
        }
    };
    let mut events = match begun {
        Ok(response) => response.into_inner(),
        Err(status) => {
            heard.status = Some(status);
            return heard;
        }
    };
    loop {
        match events.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(Ok(event))) => heard.add(event),
            Poll::Ready(Some(Err(status))) => {
                heard.status = Some(status);
                return heard;
            }
            Poll::Ready(None) => return heard,
            Poll::Pending => breathe().await,
        }
    }
}

fn script(rng: &mut StdRng) -> Vec<Act> {
    let say = |text: &str| Act::Say(text.repeat(5));
    let breath = || Act::Pause(Duration::from_millis(1));
    let start = vec![say("a"), breath(), say("é"), breath(), say("c")];
    let end = match rng.random_range(0..5) {
        0 => Act::Fail(tonic::Code::Unavailable, String::new()),
        1 => Act::Lie,
        _ => Act::Complete(3),
    };
    [start, vec![breath(), end]].concat()
}

/// What came of the calls of a lane.
#[derive(Debug, Default)]
struct Seen {
    /// Calls whose task panicked before they were booked.
    panics: usize,
    /// Of these, such whose client had some text.
    with_text: usize,
    /// Units of all that clients took, prompts included.
    units: u64,
}

/// Asks again and again, until so many calls of this lane panicked.
async fn lane(inference: &Inference, miner: &FakeMiner, vitals: &Vitals, seed: u32) -> Seen {
    let mut rng = StdRng::seed_from_u64(seed.into());
    let mut seen = Seen::default();
    let mut calls = 0;
    while seen.panics < PANICS / LANES as usize {
        calls += 1;
        assert!(calls < 20 * PANICS, "calls are turned away");
        miner.script(script(&mut rng));
        let trap = Arc::new(Trap(AtomicI32::new(rng.random_range(1..=4))));
        let heard = ask(inference, Arc::clone(&trap)).await;
        let panicked = trap.0.load(Ordering::SeqCst) <= 0;
        if !heard.text.is_empty() {
            seen.units += units(&heard.text) + 1;
        }
        if heard.completed.is_some() {
            // Whole and booked, whatever became of its task after that.
            assert!(heard.status.is_none(), "{heard:?}");
        } else if panicked {
            seen.panics += 1;
            seen.with_text += usize::from(!heard.text.is_empty());
            // Or the end was said already when its task panicked.
            let reason = heard.reason();
            assert!(
                reason == "INTERNAL" || reason.starts_with("MINER_"),
                "{heard:?}"
            );
        } else {
            assert!(heard.reason().starts_with("MINER_"), "{heard:?}");
        }
        // So many failures would leave the miner out.
        vitals.forget();
    }
    seen
}

/// N30: a miner's slot leaked when a stream raised. A thousand calls panic at every stage:
/// the client of each hears INTERNAL, has no text that is not booked, and nothing is left.
#[tokio::test]
async fn n30_a_thousand_panics_leave_nothing_behind() {
    let miner = FakeMiner::start(Vec::new()).await;
    let gateway = TestGateway::with(|config| {
        config.store.journal_slots = SLOTS;
        config.limits.wait = super::PATIENCE;
    })
    .await;
    // A place that leaked would soon stop the lanes.
    gateway.declare("//One", &miner, 100_000_000, LANES).await;
    let calls = Arc::clone(gateway.gateway.calls());
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let pool = pool(PoolSettings {
        idle: Duration::ZERO,
        ..PoolSettings::default()
    });
    let judge = Arc::clone(gateway.gateway.judge());
    let receipts = Arc::new(NoReceipts);
    let inference = Inference::new(Arc::clone(&calls), Arc::clone(&pool), receipts, judge);
    let lanes = (0..LANES).map(|seed| lane(&inference, &miner, &calls.vitals, seed));
    let seen = futures_util::future::join_all(lanes).await;
    let with_text: usize = seen.iter().map(|seen| seen.with_text).sum();
    assert!(with_text > PANICS / 10, "{with_text} panics in mid-answer");
    let expected: u64 = seen.iter().map(|seen| seen.units).sum();
    assert_eq!(gateway.posted().await, expected);
    let text = calls.instruments.text();
    let booked = text.lines().filter(|line| {
        line.starts_with("taugate_reservations_total") && line.contains(r#"cause="internal""#)
    });
    let booked = booked.map(|line| line.rsplit_once(' ').expect("a count").1);
    let booked: usize = booked
        .map(|count| count.parse::<usize>().expect("a count"))
        .sum();
    assert_eq!(booked, PANICS, "each left one receipt");
    nothing_left(&gateway, &miner).await;
    assert_eq!(free_slots(&gateway), SLOTS);
    assert_eq!(pool.len(), 1, "a connection is kept for the next call");
    pool.sweep();
    assert!(pool.is_empty(), "it was idle, and no call holds it");
    drop((inference, pool));
    gateway
        .until("no task is left over", || tasks.num_alive_tasks() <= before)
        .await;
}

fn pool(settings: PoolSettings) -> Arc<Pool> {
    let key = Keypair::from_secret("//taugate-development").expect("a key");
    let signer = CallSigner::new(Arc::new(key), Arc::new(SystemClock));
    let caller = Arc::new(Caller::new(signer, true));
    Arc::new(Pool::new(settings, caller, Reach::anywhere()))
}

async fn nothing_left(gateway: &TestGateway, miner: &FakeMiner) {
    let calls = gateway.gateway.calls();
    gateway
        .until("no call runs", || {
            calls.running.is_empty() && calls.waiting.is_empty()
        })
        .await;
    gateway
        .until("the miner is left alone", || miner.running() == 0)
        .await;
    let hotkeys = gateway.gateway.registry().snapshot();
    for offer in &hotkeys.markets[crate::support::TASK].offers {
        assert_eq!(calls.vitals.pulse(offer.cell).in_flight(), 0);
    }
}

/// A panic says nothing of itself to a client.
#[tokio::test]
async fn n30_the_client_of_a_panic_reads_no_word_of_it() {
    let miner = FakeMiner::start(vec![Act::Say("ab".into()), Act::Hang]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 2).await;
    let pool = pool(PoolSettings::default());
    let calls = Arc::clone(gateway.gateway.calls());
    let judge = Arc::clone(gateway.gateway.judge());
    let inference = Inference::new(calls, pool, Arc::new(NoReceipts), judge);
    let heard = ask(&inference, Arc::new(Trap(AtomicI32::new(1)))).await;
    let status: Status = heard.status.expect("a status");
    assert_eq!(status.code(), tonic::Code::Internal);
    assert!(!format!("{status:?}").contains("waker"), "{status:?}");
    assert_eq!((heard.text.as_str(), gateway.posted().await), ("", 0));
}
