//! What the turn of a period does to calls: nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taugate::clock::{Clock as _, ManualClock, SystemClock};
use taugate::gateway::Gateway;
use taugate_ledger::ids::RequestId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::first_delta;
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TestGateway, chat};

/// Units by the period that was charged.
type ByPeriod = BTreeMap<Period, u64>;

/// The period that an answer was charged to, and its units.
fn charged(heard: &Heard) -> (Period, u64) {
    let completed = heard.completed.as_ref();
    let completed = completed.unwrap_or_else(|| panic!("no whole answer: {heard:?}"));
    assert!(completed.recorded, "{completed:?}");
    let id = &heard.started.as_ref().expect("it began").request_id;
    let id: RequestId = id.parse().expect("an id");
    (id.period, completed.usage.as_ref().expect("usage").units)
}

async fn posted(gateway: &TestGateway, period: Period) -> u64 {
    let rows = gateway.gateway.book_rows(period).await.expect("it answers");
    for row in &rows {
        assert!(row.closes(), "{row:?}");
    }
    rows.iter().flat_map(|row| row.posted).map(Units::get).sum()
}

/// N10: a late answer was charged to the period in which it ended.
#[tokio::test]
async fn n10_a_late_answer_is_charged_to_the_period_of_its_admission() {
    let length = PeriodLength::from_secs(600).expect("not zero");
    let now_ms = SystemClock.unix_ms();
    let admitted = length.period_at(now_ms);
    let clock = Arc::new(ManualClock::at(now_ms));
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut config = TestGateway::config(&dir.path().join("taugate.db"));
    config.period.length = length;
    let gateway = Gateway::start(Arc::new(config), Arc::clone(&clock) as _).await;
    let gateway = TestGateway::over(gateway.expect("it starts"), dir);
    let late = vec![
        Act::Say("late".into()),
        Act::Wait,
        Act::Say("r".into()),
        Act::Complete(2),
    ];
    let miner = FakeMiner::start(late).await;
    gateway.declare("//One", &miner, 1_000_000, 8).await;
    let mut client = gateway.client().await;
    let answer = client
        .stream_generate(chat("hello"))
        .await
        .expect("it runs");
    let mut events = answer.into_inner();
    let mut heard = first_delta(&mut events).await;

    clock.set(length.end_ms(admitted));
    let turned = length.next(admitted);
    gateway
        .until("the period turns", || {
            gateway.gateway.books().table().period() == turned
        })
        .await;
    miner.go_on();
    while let Some(event) = events.message().await.expect("it ends well") {
        heard.add(event);
    }
    let (period, units) = charged(&heard);
    assert_eq!(period, admitted);
    gateway.posted().await;
    assert_eq!(posted(&gateway, admitted).await, units);
    assert_eq!(posted(&gateway, turned).await, 0);
    gateway.stop().await;
}

/// N15: a miner that declares when the next period is open already has capacity in it, too.
#[tokio::test]
async fn n15_who_declares_just_before_a_turn_is_not_spent_after_it() {
    let length = PeriodLength::from_secs(600).expect("not zero");
    let running = length.period_at(SystemClock.unix_ms());
    let clock = Arc::new(ManualClock::at(length.end_ms(running) - 5_000));
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut config = TestGateway::config(&dir.path().join("taugate.db"));
    config.period.length = length;
    let gateway = Gateway::start(Arc::new(config), Arc::clone(&clock) as _).await;
    let gateway = TestGateway::over(gateway.expect("it starts"), dir);
    let turned = length.next(running);
    let books = Arc::clone(gateway.gateway.books());
    gateway
        .until("the next period is open", || {
            books.tables().periods().contains(&turned)
        })
        .await;
    let miner = FakeMiner::start(vec![Act::Say("hello".into()), Act::Complete(2)]).await;
    gateway.declare("//One", &miner, 1_000_000, 8).await;
    clock.set(length.end_ms(running));
    gateway
        .until("the period turns", || books.table().period() == turned)
        .await;
    let heard = gateway.ask(chat("hello")).await;
    assert_eq!(charged(&heard).0, turned);
    gateway.stop().await;
}

/// How often the period turns; more may be asked for.
fn turns() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    let asked = std::env::var("TAUGATE_TURNS").ok();
    asked.map_or(3, |turns| turns.parse().expect("a number of turns"))
}

/// N15: requests at the turn of the period were refused. One comes every millisecond, or as
/// fast as this machine answers, over turns of two seconds: all are answered, streams that are
/// open across a turn are charged to their own period, and the sums are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n15_no_request_is_refused_because_the_period_turns() {
    const AT_ONCE: usize = 32;
    let gateway = TestGateway::with(|config| {
        config.period.length = PeriodLength::from_secs(2).expect("not zero");
        config.limits.wait = super::PATIENCE;
    })
    .await;
    let quick = FakeMiner::start(vec![Act::Say("Hello, world".into()), Act::Complete(3)]).await;
    gateway.declare("//One", &quick, 4_000_000_000, 1_000).await;
    let told = Arc::new(Mutex::new(ByPeriod::new()));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut every = tokio::time::interval(Duration::from_millis(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = JoinSet::new();
    let (client, books) = (gateway.client().await, gateway.gateway.books());
    let (mut period, mut turned, mut across) = (books.table().period(), 0, 0_u32);
    while turned < turns() {
        every.tick().await;
        if books.table().period() != period {
            period = books.table().period();
            turned += 1;
        }
        // Late in a period answers begin and do not end.
        let late = books.period_rest() < Duration::from_millis(200);
        let mut script = vec![Act::Say("Hello, world".into())];
        script.extend(late.then_some(Act::Pause(Duration::from_millis(400))));
        script.push(Act::Complete(3));
        quick.script(script);
        let place = Arc::clone(&room).acquire_owned().await.expect("it is open");
        let (mut client, told) = (client.clone(), Arc::clone(&told));
        let books = Arc::clone(books);
        asking.spawn(async move {
            let heard = Heard::of(client.stream_generate(chat("hello")).await).await;
            let (period, units) = charged(&heard);
            *told.lock().entry(period).or_default() += units;
            drop(place);
            period != books.table().period()
        });
    }
    while let Some(ended) = asking.join_next().await {
        across += u32::from(ended.expect("no refusal"));
    }
    assert!(across > 0, "no answer ended in another period");
    gateway.posted().await;
    let told = told.lock().clone();
    assert!(told.len() as u64 > turns(), "{told:?}");
    for (period, units) in told {
        assert_eq!(posted(&gateway, period).await, units, "{period:?}");
    }
}
