//! The path of a chat.

use std::time::Duration;

use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate_ledger::units::Units;

use crate::support::keys::put_check_key;
use crate::support::miner::{Act, FakeMiner};
use crate::support::{TASK, TestGateway, chat};

fn hello() -> Vec<Act> {
    vec![
        Act::Say("Grüße, ".into()),
        Act::Say("Welt!".into()),
        Act::Complete(3),
    ]
}

#[tokio::test]
async fn an_answer_is_delivered_booked_and_its_receipt_durable() {
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let heard = gateway.ask(chat("hello")).await;
    let completed = heard.completed.expect("a whole answer");
    assert_eq!(heard.text, "Grüße, Welt!");
    assert!(completed.recorded);
    let usage = completed.usage.expect("usage");
    // 12 code points / 4, and 5 x 0.1 of the prompt rounded up.
    assert_eq!(usage.units, 3 + usage.prompt_units);
    assert_eq!(gateway.posted().await, usage.units);
    let id = heard.started.expect("started").request_id;
    let request = v1::GetReceiptRequest { request_id: id };
    let receipt = gateway
        .client()
        .await
        .get_receipt(request)
        .await
        .expect("the receipt");
    let receipt = receipt.into_inner().receipt.expect("a receipt");
    assert_eq!(
        (receipt.units, receipt.outcome()),
        (usage.units, v1::Outcome::Good)
    );
}

#[tokio::test]
async fn the_same_text_costs_the_same_in_one_chunk_or_a_thousand() {
    // N11.
    let text = "x".repeat(1001);
    let whole = vec![Act::Say(text.clone()), Act::Complete(1)];
    let mut cut: Vec<_> = text.chars().map(|c| Act::Say(c.to_string())).collect();
    cut.push(Act::Complete(1));
    let mut units = Vec::new();
    for script in [whole, cut] {
        let miner = FakeMiner::start(script).await;
        let gateway = TestGateway::start().await;
        gateway.declare("//One", &miner, 100_000, 4).await;
        let mut request = chat("hi");
        let Some(v1::generate_request::Payload::Chat(chat)) = &mut request.payload else {
            panic!("a chat");
        };
        chat.max_tokens = Some(512);
        let heard = gateway.ask(request).await;
        units.push(heard.completed.expect("whole").usage.expect("usage").units);
    }
    assert_eq!(units[0], units[1]);
    assert_eq!(units[0], 251 + 1);
}

#[tokio::test]
async fn the_whole_answer_at_once_is_the_fold_of_the_stream() {
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let answer = gateway
        .client()
        .await
        .generate(chat("hello"))
        .await
        .expect("an answer");
    let answer = answer.into_inner();
    assert_eq!(answer.choices[0].content, "Grüße, Welt!");
    assert_eq!(answer.choices[0].finish_reason(), v1::FinishReason::Stop);
    assert!(answer.recorded);
    assert_eq!(gateway.posted().await, answer.usage.expect("usage").units);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_miner_and_pays_for_what_it_got() {
    // N3, N5; P4.
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(40)), Act::Hang]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let mut client = gateway.client().await;
    let response = client
        .stream_generate(chat("hello"))
        .await
        .expect("a stream");
    let mut events = response.into_inner();
    while let Some(event) = events.message().await.expect("an event") {
        if matches!(
            event.event,
            Some(v1::stream_generate_response::Event::Delta(_))
        ) {
            break;
        }
    }
    drop((events, client));
    gateway
        .until("the miner is cancelled", || miner.cancelled() == 1)
        .await;
    assert_eq!(gateway.posted().await, 10 + 1);
}

#[tokio::test]
async fn five_hundred_calls_never_spend_more_than_the_allotment() {
    // N1, N2; P1.
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(240)), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    // Room for ten of 81 reserved units.
    gateway.declare("//One", &miner, 815, 1000).await;
    let mut asking = tokio::task::JoinSet::new();
    let mut client = gateway.client().await;
    for _ in 0..100 {
        let mut client = client.clone();
        asking.spawn(async move {
            let mut events = client.stream_generate(chat("hi")).await?.into_inner();
            while events.message().await?.is_some() {}
            Ok::<(), tonic::Status>(())
        });
    }
    let mut refused = 0;
    while let Some(ended) = asking.join_next().await {
        if let Err(status) = ended.expect("no panic") {
            assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert!(gateway.posted().await <= 815);
    drop(client.list_tasks(v1::ListTasksRequest {}).await);
}

#[tokio::test]
async fn a_busy_miner_is_passed_over_and_not_blamed() {
    // N7, N8.
    let busy = FakeMiner::start(hello()).await;
    busy.before_headers(vec![Act::Fail(
        tonic::Code::ResourceExhausted,
        "429".into(),
    )]);
    let free = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//Busy", &busy, 100_000, 4).await;
    gateway.declare("//Free", &free, 100_000, 4).await;
    for _ in 0..20 {
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_some(), "{heard:?}");
    }
    let hotkeys = gateway.gateway.registry().snapshot();
    let offers = &hotkeys.markets[TASK].offers;
    for offer in offers {
        let history = gateway.gateway.calls().vitals.history(offer.cell);
        assert!(
            (history.success() - 1.0).abs() < 1e-9,
            "back-pressure is no failure"
        );
    }
    assert_eq!(free.seen().len(), 20);
}

#[tokio::test]
async fn a_call_that_finds_every_miner_busy_waits_for_one() {
    // N29.
    let miner = FakeMiner::start(vec![
        Act::Say("one".into()),
        Act::Pause(Duration::from_millis(300)),
        Act::Complete(1),
    ])
    .await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 1).await;
    let (first, second) = tokio::join!(gateway.ask(chat("a")), gateway.ask(chat("b")));
    assert!(first.completed.is_some() && second.completed.is_some());
    assert_eq!(gateway.gateway.calls().waiting.len(), 0);
}

#[tokio::test]
async fn fields_reach_the_miner_unchanged() {
    // N22.
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let mut request = chat("hello");
    let sampling = v1::Sampling {
        temperature: Some(0.3),
        seed: Some(-7),
        top_k: Some(11),
        min_p: Some(0.05),
        ..v1::Sampling::default()
    };
    if let Some(v1::generate_request::Payload::Chat(chat)) = &mut request.payload {
        chat.sampling = Some(sampling);
        chat.stop = vec!["END".into()];
    }
    let asked = request.payload.clone();
    gateway.ask(request).await;
    let seen = miner.seen().remove(0);
    let Some(v1::generate_request::Payload::Chat(asked)) = asked else {
        panic!("a chat")
    };
    let Some(v1::miner_generate_request::Payload::Chat(got)) = seen.payload else {
        panic!("a chat");
    };
    assert_eq!(got, asked);
}

#[tokio::test]
async fn an_answer_that_outgrows_its_cell_ends_with_length() {
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(4000)), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 90, 4).await;
    let heard = gateway.ask(chat("hi")).await;
    let completed = heard.completed.expect("an answer");
    assert_eq!(
        completed.choices[0].finish_reason(),
        v1::FinishReason::Length
    );
    let posted = gateway.posted().await;
    assert!(posted <= 90, "{posted}");
    assert_eq!(
        Units::new(posted).get(),
        completed.usage.expect("usage").units
    );
    assert_eq!(heard.text.chars().count() as u64, (posted - 1) * 4);
}

#[tokio::test]
async fn each_request_is_measured_with_its_method_code_and_reason() {
    // N38: histograms, not gauges.
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    gateway.ask(chat("hello")).await;
    let mut unknown = chat("hello");
    unknown.task = "nope".into();
    gateway.ask(unknown).await;
    let instruments = &gateway.gateway.calls().instruments;
    gateway
        .until("both requests ended", || {
            instruments.inflight_streams.get() == 0
        })
        .await;
    let text = instruments.text();
    let method = r#"method="taugate.v1.InferenceService/StreamGenerate""#;
    for line in [
        format!(r#"taugate_requests_total{{{method},task="tiny",code="OK",reason=""}} 1"#),
        format!(
            r#"taugate_requests_total{{{method},task="_other",code="NOT_FOUND",reason="TASK_NOT_FOUND"}} 1"#
        ),
        format!("taugate_request_duration_seconds_count{{{method}}} 2"),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn a_network_that_only_says_too_many_is_full_and_says_when_to_try_again() {
    // P10: back-pressure is no failure of the call, and another try helps.
    let busy = FakeMiner::start(hello()).await;
    busy.before_headers(vec![Act::Fail(
        tonic::Code::ResourceExhausted,
        "429".into(),
    )]);
    let gateway = TestGateway::start().await;
    gateway.declare("//Busy", &busy, 100_000, 4).await;
    let heard = gateway.ask(chat("hello")).await;
    assert_eq!(heard.reason(), "NO_CAPACITY");
    let status = heard.status.expect("a status");
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .expect("pushback");
    assert!(
        pushback
            .to_str()
            .expect("text")
            .parse::<i64>()
            .expect("a number")
            > 0
    );
    assert_eq!(gateway.posted().await, 0);
}

#[tokio::test]
async fn a_whole_answers_receipt_holds_its_digest() {
    // Abuse case 12: a receipt binds what was delivered.
    let miner = FakeMiner::start(hello()).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let mut digests = Vec::new();
    for text in ["Grüße, Welt!", "Grüße, Welt!", "Etwas anderes"] {
        miner.script(vec![Act::Say(text.into()), Act::Complete(3)]);
        let heard = gateway.ask(chat("hello")).await;
        let id = heard
            .started
            .expect("started")
            .request_id
            .parse()
            .expect("an id");
        let stored = gateway
            .gateway
            .store()
            .receipt(id)
            .await
            .expect("the store answers");
        digests.push(stored.expect("a receipt").receipt.digest);
    }
    assert_ne!(digests[0], [0; 32]);
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}

#[tokio::test]
async fn a_check_of_a_busy_miner_is_refused_and_holds_up_no_client() {
    // N29, and organic goes first.
    let busy = FakeMiner::start(vec![Act::Say("one".into()), Act::Hang]).await;
    let free = FakeMiner::start(hello()).await;
    let mut key = String::new();
    let gateway = TestGateway::with(|config| {
        config.limits.wait = Duration::from_secs(60);
        key = put_check_key(config.store.path.clone(), config.period.length);
    })
    .await;
    gateway.declare("//Busy", &busy, 100_000, 1).await;
    let mut client = gateway.client().await;
    let held = client.stream_generate(chat("a")).await.expect("a stream");
    gateway.declare("//Free", &free, 100_000, 4).await;
    let mut request = tonic::Request::new(chat("check"));
    let hotkey = Keypair::from_secret("//Busy")
        .expect("a key")
        .hotkey()
        .to_string();
    request.get_mut().check = Some(v1::CheckTarget { miner: hotkey });
    let bearer = format!("Bearer {key}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let mut checker = client.clone();
    let both = async { tokio::join!(checker.stream_generate(request), gateway.ask(chat("b"))) };
    let both = tokio::time::timeout(Duration::from_secs(10), both).await;
    let (check, organic) = both.expect("neither waits for the busy miner");
    assert_eq!(
        check.expect_err("busy").code(),
        tonic::Code::ResourceExhausted
    );
    assert_eq!(organic.text, "Grüße, Welt!");
    drop((held, client, checker));
    gateway.posted().await;
}
