//! What is held, spent and booked.

use std::time::Duration;

use taugate::proto::v1;
use tokio::task::JoinSet;

use super::{first_delta, outcomes, payload, units, with_task};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{TestGateway, chat};

/// N1: limits were checked before a stream and charged after it. Five hundred calls come
/// while none has ended: the ten that fit are dispatched, and none beside them.
///
/// N2: exhausted miners were filled in. The one with too little left gets nothing.
#[tokio::test]
async fn n1_n2_of_five_hundred_calls_at_once_only_those_that_fit_are_dispatched() {
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(240)), Act::Hang]).await;
    let exhausted = FakeMiner::start(vec![Act::Say("x".into()), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    // A call holds 80 units for its answer and 1 for its prompt.
    gateway.declare("//One", &miner, 815, 1000).await;
    gateway.declare("//Spent", &exhausted, 80, 1000).await;
    let mut asking = JoinSet::new();
    for _ in 0..5 {
        let client = gateway.client().await;
        for _ in 0..100 {
            let mut client = client.clone();
            asking.spawn(async move { client.stream_generate(chat("hi")).await });
        }
    }
    let mut held = Vec::new();
    while let Some(ended) = asking.join_next().await {
        match ended.expect("no panic") {
            Ok(response) => held.push(response),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
            }
        }
    }
    assert_eq!((held.len(), miner.seen().len()), (10, 10));
    assert!(exhausted.seen().is_empty(), "it had too little left");
    let table = gateway.gateway.books().table();
    let reserved: u64 = table.touched().map(|cell| table.reserved(cell).get()).sum();
    assert_eq!(reserved, 810, "nothing was posted yet");
    drop((held, asking));
    // Of each that was dispatched, at most what was delivered.
    assert!(gateway.posted().await <= 10 * 61);
}

/// N3: a stream that failed in the middle booked nothing although text was delivered.
#[tokio::test]
async fn n3_what_was_delivered_before_a_failure_is_posted() {
    let miner = FakeMiner::start(Vec::new()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let mut expected = 0;
    let fails = Act::Fail(tonic::Code::Unavailable, String::new());
    for end in [fails, Act::End, Act::Lie, Act::Die] {
        let name = format!("{end:?}");
        // The pause lets the first part leave before the connection dies.
        let pause = Act::Pause(Duration::from_millis(50));
        miner.script(vec![Act::Say("x".repeat(401)), pause, end]);
        let heard = gateway.ask(chat("hi")).await;
        assert!(heard.reason().starts_with("MINER_"), "{name}");
        assert_eq!(heard.text.len(), 401, "{name}");
        expected += units(&heard.text) + 1;
        assert_eq!(gateway.posted().await, expected, "{name}");
        gateway.gateway.calls().vitals.forget();
    }
}

/// N5: a client left and its miner ran on; of calls without a stream too.
#[tokio::test]
async fn n5_a_call_without_a_stream_cancels_its_miner_too() {
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(40)), Act::Hang]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let mut client = gateway.client().await;
    let asking = tokio::task::spawn(async move { client.generate(chat("hi")).await });
    gateway
        .until("the miner works", || miner.running() == 1)
        .await;
    asking.abort();
    gateway
        .until("the miner is cancelled", || miner.cancelled() == 1)
        .await;
    gateway.posted().await;
}

/// N16: jobs that were lost counted as good. Over a mixed run, each dispatch has exactly
/// one outcome in the durable counters, and the same one in the metrics.
#[tokio::test]
async fn n16_each_attempt_ends_in_exactly_one_outcome() {
    use tonic::Code;
    let (one, two) = (
        FakeMiner::start(Vec::new()).await,
        FakeMiner::start(Vec::new()).await,
    );
    let gateway = with_task(|task| {
        task.limits.first_chunk = Duration::from_millis(300);
        task.limits.between_chunks = Duration::from_millis(300);
    })
    .await;
    gateway.declare("//One", &one, 1_000_000, 64).await;
    gateway.declare("//Two", &two, 1_000_000, 64).await;
    let say = || Act::Say("word".into());
    let fail = |code| Act::Fail(code, String::new());
    let runs = [
        (vec![say(), Act::Complete(1)], "good", true),
        (vec![fail(Code::ResourceExhausted)], "busy", true),
        (vec![fail(Code::InvalidArgument)], "refused", true),
        (vec![say(), fail(Code::Unavailable)], "lost", true),
        (vec![say(), Act::Hang], "stalled", true),
        (vec![Act::Complete(0)], "protocol", true),
        (vec![say(), Act::Lie], "protocol", true),
        (vec![say(), Act::Hang], "cancelled", false),
    ];
    let mut before = super::Outcomes::new();
    let mut seen_before = 0;
    for (script, outcome, stays) in runs {
        one.script(script.clone());
        two.script(script);
        for _ in 0..3 {
            if stays {
                gateway.ask(chat("hi")).await;
            } else {
                let mut client = gateway.client().await;
                let stream = client.stream_generate(chat("hi")).await;
                first_delta(&mut stream.expect("it starts").into_inner()).await;
            }
            gateway.gateway.calls().vitals.forget();
        }
        let now = outcomes(&gateway).await;
        let seen = one.seen().len() + two.seen().len();
        let dispatched = (seen - seen_before) as u64;
        let expected = super::Outcomes::from([(outcome, dispatched)]);
        assert_eq!(super::since(&before, &now), expected, "{outcome}");
        (before, seen_before) = (now, seen);
    }
    let text = gateway.gateway.calls().instruments.text();
    for (outcome, count) in before {
        let end = format!(r#",outcome="{outcome}"}}"#);
        let lines = text.lines().filter_map(|line| {
            line.strip_prefix("taugate_miner_attempts_total")?
                .split_once(&end)
        });
        let counted: u64 = lines
            .map(|(_, count)| count.trim().parse::<u64>().expect("a count"))
            .sum();
        assert_eq!(counted, count, "{outcome}");
    }
}

/// N23: prompts were free, amounts were floats, and an empty answer cost one.
#[tokio::test]
async fn n23_prompts_cost_by_their_factor_and_nothing_delivered_costs_nothing() {
    for (factor, prompt_units) in [(0.0, 0), (0.1, 3), (1.0, 25)] {
        let miner = FakeMiner::start(vec![Act::Say("12345".into()), Act::Complete(1)]).await;
        let gateway = with_task(|task| task.prompt_factor = factor).await;
        gateway.declare("//One", &miner, 100_000, 4).await;
        let heard = gateway.ask(chat(&"p".repeat(100))).await;
        let usage = heard.completed.expect("whole").usage.expect("usage");
        let told = (usage.units, usage.prompt_units);
        assert_eq!(told, (2 + prompt_units, prompt_units), "{factor}");
        assert_eq!(gateway.posted().await, usage.units, "{factor}");

        miner.script(vec![Act::Complete(7)]);
        let empty = gateway.ask(chat(&"p".repeat(100))).await;
        assert_eq!(empty.reason(), "ATTEMPTS_EXHAUSTED", "an empty answer");
        assert_eq!(gateway.posted().await, usage.units, "{factor}");
    }
}

/// N29: the last to come was served first, the queue was cut in silence, and jobs were
/// lost. Here calls are served in the order in which they came, and one that finds the
/// queue full, or waits in vain, is told so.
#[tokio::test]
async fn n29_calls_wait_in_order_and_each_that_is_dropped_has_a_status() {
    const QUEUE: usize = 5;
    let miner = FakeMiner::start(vec![Act::Say("one".into()), Act::Hang]).await;
    let gateway = TestGateway::with(|config| {
        config.limits.wait = super::PATIENCE;
        config.limits.waiting_per_task_max = QUEUE;
    })
    .await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let mut first = gateway.client().await;
    let held = first.stream_generate(chat("first")).await.expect("it runs");
    miner.script(vec![Act::Say("ok".into()), Act::Complete(1)]);
    let mut asking = JoinSet::new();
    let mut names = vec!["first".to_owned()];
    for number in 1..=QUEUE {
        let name = format!("waiter {number}");
        let (mut client, request) = (gateway.client().await, chat(&name));
        asking.spawn(async move { client.generate(request).await });
        names.push(name);
        let waiting = &gateway.gateway.calls().waiting;
        gateway
            .until("it stands in line", || waiting.len() == number)
            .await;
    }
    let crowded = gateway.ask(chat("one too many")).await;
    assert_eq!(crowded.reason(), "NO_CAPACITY");
    drop((held, first));
    while let Some(ended) = asking.join_next().await {
        ended.expect("no panic").expect("it was served");
    }
    let seen = miner.seen().into_iter().map(|seen| match seen.payload {
        Some(v1::miner_generate_request::Payload::Chat(chat)) => chat.messages[0].parts.clone(),
        other => panic!("{other:?}"),
    });
    let asked = names.iter().map(|name| {
        let mut request = chat(name);
        payload(&mut request).messages[0].parts.clone()
    });
    assert_eq!(seen.collect::<Vec<_>>(), asked.collect::<Vec<_>>());
}

/// N29: a wait in vain ends with a status that says when to try again.
#[tokio::test]
async fn n29_a_wait_in_vain_ends_with_a_time_to_retry() {
    let miner = FakeMiner::start(vec![Act::Say("one".into()), Act::Hang]).await;
    let gateway = TestGateway::with(|config| config.limits.wait = Duration::from_millis(100)).await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let mut first = gateway.client().await;
    let held = first.stream_generate(chat("first")).await.expect("it runs");
    let late = gateway.ask(chat("second")).await;
    assert_eq!(late.reason(), "NO_CAPACITY");
    let status = late.status.expect("a status");
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback: i64 = pushback
        .expect("pushback")
        .to_str()
        .expect("text")
        .parse()
        .expect("ms");
    assert!(pushback > 0);
    assert!(gateway.gateway.calls().waiting.is_empty());
    drop((held, first));
    gateway.posted().await;
}
