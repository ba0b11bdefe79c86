//! Abuse of the plain kind: each test names its case of the protocol's table.

use std::time::Duration;

use taugate::proto::v1;

use crate::support::miner::{Act, FakeMiner};
use crate::support::{TASK, TestGateway, chat};

/// A gateway with a task whose limits are short, and one miner that follows a script.
async fn with_miner(script: Vec<Act>) -> (TestGateway, FakeMiner) {
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::with(|config| {
        let mut task = taugate::task::Task::open_chat(TASK.into());
        task.weight = 1.0;
        task.limits.first_chunk = Duration::from_millis(300);
        task.limits.between_chunks = Duration::from_millis(300);
        config.tasks = std::sync::Arc::new([task].into_iter().collect());
    })
    .await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    (gateway, miner)
}

#[tokio::test]
async fn case_2_a_miner_that_hangs_is_left_and_another_answers() {
    let (gateway, hangs) = with_miner(vec![Act::Hang]).await;
    let good = FakeMiner::start(vec![Act::Say("ok".into()), Act::Complete(1)]).await;
    gateway.declare("//Two", &good, 100, 4).await;
    for _ in 0..3 {
        let heard = gateway.ask(chat("hello")).await;
        if let Some(status) = &heard.status {
            panic!("{status:?}");
        }
        assert_eq!(heard.text, "ok");
    }
    gateway
        .until("the hanging miner is left", || hangs.running() == 0)
        .await;
    gateway.posted().await;
}

#[tokio::test]
async fn case_3_a_stall_ends_the_stream_and_what_came_is_booked() {
    let (gateway, _) = with_miner(vec![Act::Say("x".repeat(8)), Act::Hang]).await;
    let heard = gateway.ask(chat("hello")).await;
    assert_eq!(
        (heard.text.len(), heard.reason().as_str()),
        (8, "MINER_STALLED")
    );
    let status = heard.status.expect("a status");
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .expect("pushback");
    assert_eq!(pushback, "-1");
    assert_eq!(gateway.posted().await, 2 + 1);
}

#[tokio::test]
async fn case_3_a_drip_that_never_stops_is_a_stall_too() {
    // A quarter of a unit at a time: chunks come, units hardly.
    let drip = [Act::Say("x".into()), Act::Pause(Duration::from_millis(100))];
    let (gateway, miner) = with_miner(drip.into_iter().cycle().take(400).collect()).await;
    let heard = gateway.ask(chat("hello")).await;
    assert_eq!(heard.reason(), "MINER_STALLED");
    assert!(heard.text.len() < 100, "{}", heard.text.len());
    gateway
        .until("the miner is left", || miner.running() == 0)
        .await;
    let units = u64::try_from(heard.text.len().div_ceil(4)).expect("fits");
    assert_eq!(gateway.posted().await, units + 1);
}

#[tokio::test]
async fn case_4_a_stream_without_end_is_cut() {
    let endless = vec![Act::Say("word ".repeat(200)); 50];
    let (gateway, miner) = with_miner(endless).await;
    let heard = gateway.ask(chat("hello")).await;
    let completed = heard.completed.expect("cut to a whole answer");
    assert_eq!(
        completed.choices[0].finish_reason(),
        v1::FinishReason::Length
    );
    // Twice its token limit in units, and the prompt.
    assert_eq!(gateway.posted().await, 128 + 1);
    gateway
        .until("the miner is left", || miner.running() == 0)
        .await;
}

#[tokio::test]
async fn case_7_an_answer_without_its_end_is_never_complete() {
    let (gateway, miner) = with_miner(vec![Act::Say("half".into()), Act::End]).await;
    let ends = [
        vec![Act::Say("half".into()), Act::End],
        vec![Act::Say("half".into()), Act::Lie],
        vec![
            Act::Say("half".into()),
            Act::Fail(tonic::Code::Internal, "x".into()),
        ],
        vec![
            Act::Say("half".into()),
            Act::Pause(Duration::from_millis(100)),
            Act::Die,
        ],
    ];
    for script in ends {
        let name = format!("{script:?}");
        miner.script(script);
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_none(), "{name}");
        let reason = if heard.status.is_some() {
            heard.reason()
        } else {
            panic!("{name}")
        };
        assert!(reason.starts_with("MINER_"), "{name}: {reason}");
        // It may have been left out after so many failures.
        gateway.gateway.calls().vitals.forget();
    }
    gateway.posted().await;
}

#[tokio::test]
async fn case_9_a_lie_about_usage_changes_no_amount() {
    let (gateway, _) = with_miner(vec![Act::Say("x".repeat(8)), Act::Complete(10_000)]).await;
    let heard = gateway.ask(chat("hello")).await;
    let usage = heard.completed.expect("whole").usage.expect("usage");
    assert_eq!(usage.claimed.expect("claimed").completion, Some(10_000));
    assert_eq!((usage.units, gateway.posted().await), (3, 3));
}

#[tokio::test]
async fn case_10_a_miners_status_and_text_reach_no_client() {
    let (gateway, miner) = with_miner(vec![]).await;
    for code in [
        tonic::Code::InvalidArgument,
        tonic::Code::Unauthenticated,
        tonic::Code::Ok,
    ] {
        miner.before_headers(vec![Act::Fail(code, "\u{1b}[31mSECRET".repeat(100))]);
        let heard = gateway.ask(chat("hello")).await;
        assert_eq!(heard.reason(), "ATTEMPTS_EXHAUSTED", "{code:?}");
        assert!(!format!("{:?}", heard.status).contains("SECRET"));
        gateway.gateway.calls().vitals.forget();
    }
    assert_eq!(gateway.posted().await, 0);
}

#[tokio::test]
async fn case_17_the_clients_deadline_ends_the_stream_and_blames_nobody() {
    let (gateway, miner) = with_miner(vec![Act::Say("x".repeat(4)), Act::Hang]).await;
    let mut request = tonic::Request::new(chat("hello"));
    request.set_timeout(Duration::from_millis(250));
    let mut client = gateway.client().await;
    let mut events = client
        .stream_generate(request)
        .await
        .expect("a stream")
        .into_inner();
    let status = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("not complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    gateway
        .until("the miner is left", || miner.running() == 0)
        .await;
    let snapshot = gateway.gateway.registry().snapshot();
    let cell = snapshot.markets[TASK].offers[0].cell;
    assert!((gateway.gateway.calls().vitals.history(cell).success() - 1.0).abs() < 1e-9);
    assert_eq!(gateway.posted().await, 1 + 1);
}

#[tokio::test]
async fn case_20_malformed_requests_are_refused_by_field() {
    let (gateway, miner) = with_miner(vec![]).await;
    let mut empty = chat("hello");
    empty.payload = None;
    let mut roles = chat("hello");
    if let Some(v1::generate_request::Payload::Chat(chat)) = &mut roles.payload {
        chat.messages[0].role = 99;
        chat.max_tokens = Some(u32::MAX);
        chat.sampling = Some(v1::Sampling {
            temperature: Some(f64::NAN),
            ..Default::default()
        });
    }
    for (request, faults) in [(empty, 1), (roles, 3)] {
        let heard = gateway.ask(request).await;
        assert_eq!(heard.reason(), "INVALID_FIELD");
        let details = tonic_types::StatusExt::get_details_bad_request(&heard.status.unwrap());
        assert_eq!(details.expect("fields").field_violations.len(), faults);
    }
    let mut unknown = chat("hello");
    unknown.task = "../".repeat(3000);
    assert_eq!(gateway.ask(unknown).await.reason(), "TASK_NOT_FOUND");
    assert!(miner.seen().is_empty());
    assert_eq!(gateway.posted().await, 0);
}

#[tokio::test]
async fn case_4_an_answer_of_too_many_bytes_ends_with_length_and_blames_no_client() {
    // The client reads nothing until the miner has sent more than an answer may hold.
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(600)), Act::Say("y".repeat(600))]).await;
    let gateway = TestGateway::with(|config| {
        let mut task = taugate::task::Task::open_chat(TASK.into());
        task.weight = 1.0;
        task.growth_factor = 10.0;
        task.limits.answer_bytes_max = 1000;
        config.tasks = std::sync::Arc::new([task].into_iter().collect());
    })
    .await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let heard = gateway.ask(chat("hello")).await;
    let completed = heard
        .completed
        .unwrap_or_else(|| panic!("{:?}", heard.status));
    assert_eq!(
        completed.choices[0].finish_reason(),
        v1::FinishReason::Length
    );
    assert_eq!(heard.text, "x".repeat(600));
    assert_eq!(gateway.posted().await, 150 + 1);
}
