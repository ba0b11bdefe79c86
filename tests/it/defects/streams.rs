//! What reaches a client, and what reaches a miner.

use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;

use super::{PATIENCE, payload, units, with_task};
use crate::support::miner::{Act, FakeMiner};
use crate::support::{Heard, TestGateway, chat};

/// N4: the answer of the next miner was glued onto the first one's. Another miner is asked
/// only while nothing was delivered; what a client has is the beginning of one answer.
#[tokio::test]
async fn n4_no_second_answer_is_glued_onto_a_first() {
    let (breaks, good) = (
        FakeMiner::start(Vec::new()).await,
        FakeMiner::start(vec![Act::Say("b".repeat(80)), Act::Complete(20)]).await,
    );
    let gateway = TestGateway::start().await;
    gateway.declare("//Breaks", &breaks, 100_000, 8).await;
    gateway.declare("//Good", &good, 100_000, 8).await;
    let fail = || Act::Fail(tonic::Code::Unavailable, String::new());
    let scripts = [
        vec![fail()],
        vec![Act::Say(String::new()), fail()],
        vec![Act::Say("a".repeat(40)), fail()],
        vec![Act::Say("a".repeat(40)), Act::Say("a".repeat(40)), Act::Lie],
    ];
    let (mut whole, mut broken) = (0, 0);
    for script in scripts.iter().cycle().take(60) {
        breaks.script(script.clone());
        let heard = gateway.ask(chat("hi")).await;
        if heard.completed.is_some() {
            assert_eq!(heard.text, "b".repeat(80));
            whole += 1;
        } else {
            assert!(heard.text.bytes().all(|byte| byte == b'a'), "{heard:?}");
            assert!(!heard.text.is_empty(), "another miner could have answered");
            broken += 1;
        }
        gateway.gateway.calls().vitals.forget();
    }
    assert!(whole > 0 && broken > 0, "{whole} whole, {broken} broken");
    gateway.posted().await;
}

/// N6: the door gave up while miners were still being tried. One deadline bounds all
/// stages: once the client has its status nothing more is dispatched.
#[tokio::test]
async fn n6_nothing_is_dispatched_after_the_clients_status() {
    let gateway = TestGateway::start().await;
    let mut miners = Vec::new();
    for name in ["//A", "//B", "//C", "//D", "//E"] {
        let miner = FakeMiner::start(vec![Act::Hang]).await;
        gateway.declare(name, &miner, 100_000, 8).await;
        miners.push(miner);
    }
    let dispatched = || miners.iter().map(|miner| miner.seen().len()).sum::<usize>();
    let running = || miners.iter().map(FakeMiner::running).sum::<usize>();
    for _ in 0..3 {
        let mut request = tonic::Request::new(chat("hi"));
        request.set_timeout(Duration::from_millis(400));
        let mut client = gateway.client().await;
        let status = client
            .stream_generate(request)
            .await
            .expect_err("no answer");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
        let before = dispatched();
        let calls = gateway.gateway.calls();
        gateway
            .until("the call is over", || {
                calls.running.is_empty() && running() == 0
            })
            .await;
        assert_eq!(dispatched(), before, "a dispatch after the status");
        calls.vitals.forget();
    }
    assert!(dispatched() > 3, "more than one miner was tried");
    assert_eq!(gateway.posted().await, 0);
}

/// N6, the other way round: a client with time left was given up on. A slow miner that
/// nobody can stand in for keeps all of the client's time, not the part of it that leaves
/// room for another one.
#[tokio::test]
async fn n6_a_slow_miner_without_a_stand_in_gets_all_of_the_time() {
    let slow = vec![
        Act::Pause(Duration::from_millis(1_500)),
        Act::Say("late".into()),
        Act::Complete(1),
    ];
    let (slow, quick) = (
        FakeMiner::start(slow).await,
        FakeMiner::start(vec![Act::Say("quick".into()), Act::Complete(1)]).await,
    );
    let gateway = TestGateway::start().await;
    gateway.declare("//Slow", &slow, 100_000, 8).await;
    let ask = || async {
        let mut request = tonic::Request::new(chat("hi"));
        // A quarter of it is too short, the whole by far long enough.
        request.set_timeout(Duration::from_secs(5));
        let mut client = gateway.client().await;
        let answer = client.generate(request).await.expect("an answer");
        answer.into_inner().choices.remove(0).content
    };
    assert_eq!(ask().await, "late");
    gateway.declare("//Quick", &quick, 100_000, 8).await;
    let tried = |_: &u32| slow.seen().len() == 1;
    for _ in (0..50).take_while(tried) {
        assert_eq!(ask().await, "quick");
    }
    assert!(slow.seen().len() > 1, "it was tried, and left in time");
    gateway.posted().await;
}

/// N8: failover asked the same miner again.
#[tokio::test]
async fn n8_no_call_asks_a_miner_twice() {
    let gateway = TestGateway::start().await;
    let mut miners = Vec::new();
    for name in ["//A", "//B", "//C"] {
        let miner = FakeMiner::start(vec![Act::Fail(tonic::Code::Internal, String::new())]).await;
        gateway.declare(name, &miner, 100_000, 8).await;
        miners.push(miner);
    }
    for round in 1..=5 {
        let heard = gateway.ask(chat("hi")).await;
        assert_eq!(heard.reason(), "ATTEMPTS_EXHAUSTED");
        let seen: Vec<_> = miners.iter().map(|miner| miner.seen().len()).collect();
        assert_eq!(seen, [round; 3]);
        gateway.gateway.calls().vitals.forget();
    }
}

/// N20: a chunk that held `[DONE]` ended the stream. Every text passes as it is.
#[tokio::test]
async fn n20_texts_pass_byte_by_byte_whatever_they_say() {
    let texts = [
        "[DONE]",
        "data: [DONE]\n\n",
        "\r\n\r\n",
        "event: error\ndata: {}\n\n",
        "\0\u{feff}\u{202e}",
        "e\u{301}",
        "\u{301}",
        "👩\u{200d}🚀",
        "\u{200d}",
        " ",
        "\n",
        r#"{"error": {"code": 500}}"#,
        "grpc-status: 13",
    ];
    let mut script: Vec<_> = texts.iter().map(|text| Act::Say((*text).into())).collect();
    script.push(Act::Complete(1));
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let heard = gateway.ask(chat("hi")).await;
    assert_eq!(heard.text.as_bytes(), texts.concat().as_bytes());
    let usage = heard.completed.expect("whole").usage.expect("usage");
    assert_eq!(usage.units, units(&texts.concat()) + 1);
    let mut client = gateway.client().await;
    let whole = client.generate(chat("hi")).await.expect("an answer");
    let choice = whole.into_inner().choices.remove(0);
    assert_eq!(choice.content.as_bytes(), texts.concat().as_bytes());
}

/// N21: what was published before the reader was there was lost. A client that reads
/// nothing until its miner has sent everything gets all of it, from the first chunk on.
#[tokio::test]
async fn n21_the_first_chunk_is_never_lost_with_a_slow_reader() {
    let mut script: Vec<_> = (0..50).map(|i| Act::Say(format!("chunk {i};"))).collect();
    let expected: String = (0..50).map(|i| format!("chunk {i};")).collect();
    script.push(Act::Complete(1));
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 1_000_000, 64).await;
    for _ in 0..20 {
        let mut request = chat("hi");
        payload(&mut request).max_tokens = Some(1024);
        let mut client = narrow(&gateway).await;
        let response = client.stream_generate(request).await.expect("it starts");
        gateway
            .until("the miner has sent all", || miner.running() == 0)
            .await;
        let mut events = response.into_inner();
        let mut heard = Heard::default();
        while let Some(event) = events.message().await.expect("no failure") {
            heard.add(event);
        }
        assert_eq!(heard.text, expected);
        assert!(heard.started.is_some() && heard.completed.is_some());
    }
}

type Client = v1::inference_service_client::InferenceServiceClient<crate::support::Connection>;

/// A client with hardly any room for what it does not read.
async fn narrow(gateway: &TestGateway) -> Client {
    let address = gateway.gateway.addresses().public;
    let stream = tokio::net::TcpStream::connect(address).await.expect("open");
    let handshake = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64)
        .handshake(TokioIo::new(stream));
    let (sender, driver) = handshake.await.expect("HTTP/2");
    tokio::task::spawn(driver);
    let origin = format!("http://{address}").parse().expect("an address");
    Client::with_origin(crate::support::Connection(sender), origin)
}

/// N22: temperature, seed and others were overwritten. All that a client can say reaches
/// the miner as it was said.
#[tokio::test]
async fn n22_every_field_of_a_chat_reaches_the_miner_unchanged() {
    let miner = FakeMiner::start(vec![Act::Say("ok".into()), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    gateway.declare("//One", &miner, 1_000_000, 4).await;
    let mut request = chat("Who?");
    *payload(&mut request) = full();
    let heard = gateway.ask(request).await;
    assert_eq!(heard.text, "ok", "{:?}", heard.status);
    let seen = miner.seen().remove(0).payload;
    let sent = v1::miner_generate_request::Payload::Chat(full());
    assert_eq!(seen, Some(sent));

    let mut request = chat("Who?");
    payload(&mut request).sampling = Some(v1::Sampling {
        top_k: Some(1001),
        ..v1::Sampling::default()
    });
    let refused = gateway.ask(request).await;
    let status = refused.status.expect("a refusal");
    let details = tonic_types::StatusExt::get_details_bad_request(&status);
    let fields = details.expect("fields").field_violations;
    assert_eq!(fields[0].field, "chat.sampling.top_k");
    assert_eq!((fields.len(), miner.seen().len()), (1, 1));
}

/// A chat in which every field is set.
fn full() -> v1::ChatPayload {
    let part = |part| v1::ContentPart { part: Some(part) };
    let image = v1::ImagePart {
        source: Some(v1::image_part::Source::Data(vec![0, 159, 255])),
        mime: "image/png".into(),
        detail: "high".into(),
    };
    let call = v1::ToolCall {
        id: "call-1".into(),
        name: "look".into(),
        arguments: r#"{"z": 1, "a": 2}"#.into(),
    };
    let asks = v1::ChatMessage {
        role: v1::Role::User.into(),
        parts: vec![
            part(v1::content_part::Part::Text("Wer? 日本語\u{0}".into())),
            part(v1::content_part::Part::Image(image)),
        ],
        name: "Ada".into(),
        ..v1::ChatMessage::default()
    };
    let calls = v1::ChatMessage {
        role: v1::Role::Assistant.into(),
        tool_calls: vec![call],
        ..v1::ChatMessage::default()
    };
    let answers = v1::ChatMessage {
        role: v1::Role::Tool.into(),
        parts: vec![part(v1::content_part::Part::Text("nothing".into()))],
        tool_call_id: "call-1".into(),
        ..v1::ChatMessage::default()
    };
    let schema = v1::JsonSchemaFormat {
        name: "answer".into(),
        schema_json: r#"{"type":"object"}"#.into(),
        strict: Some(true),
    };
    v1::ChatPayload {
        messages: vec![asks, calls, answers],
        tools: vec![v1::Tool {
            name: "look".into(),
            description: "Looks.".into(),
            parameters_json: r#"{"z": 1, "a": {"type":"object"}}"#.into(),
            strict: Some(false),
        }],
        tool_choice: Some(v1::ToolChoice {
            choice: Some(v1::tool_choice::Choice::Function("look".into())),
        }),
        response_format: Some(v1::ResponseFormat {
            format: Some(v1::response_format::Format::JsonSchema(schema)),
        }),
        stop: vec!["\n\n".into(), "[DONE]".into()],
        sampling: Some(v1::Sampling {
            temperature: Some(0.0),
            top_p: Some(0.25),
            top_k: Some(7),
            seed: Some(i64::MIN),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(2.0),
            min_p: Some(0.125),
            repetition_penalty: Some(1.5),
        }),
        logprobs: Some(true),
        top_logprobs: Some(3),
        max_tokens: Some(77),
        choices: Some(1),
        reasoning_effort: Some("low".into()),
    }
}

/// N32: a failure came after headers of success. A call that fails before its first delta
/// is a plain status, without headers before it.
#[tokio::test]
async fn n32_no_header_leaves_before_the_first_message() {
    let miner = FakeMiner::start(Vec::new()).await;
    let gateway = with_task(|task| task.limits.first_chunk = Duration::from_millis(300)).await;
    gateway.declare("//One", &miner, 100_000, 4).await;
    let fail = Act::Fail(tonic::Code::Unavailable, String::new());
    for script in [vec![fail], vec![Act::Complete(1)], vec![Act::Hang]] {
        let name = format!("{script:?}");
        miner.script(script);
        let mut client = gateway.client().await;
        // With headers before it, the status would come out of the stream.
        let status = client.stream_generate(chat("hi")).await.expect_err(&name);
        let details = tonic_types::StatusExt::get_details_error_info(&status);
        assert_eq!(details.expect("a reason").reason, "ATTEMPTS_EXHAUSTED");
        gateway.gateway.calls().vitals.forget();
    }
}

/// N32: after a `Progress`, which takes headers with it, another miner can still answer.
#[tokio::test]
async fn n32_after_a_progress_another_miner_still_answers() {
    let (hangs, good) = (
        FakeMiner::start(vec![Act::Hang]).await,
        FakeMiner::start(vec![Act::Say("good".into()), Act::Complete(1)]).await,
    );
    let gateway =
        TestGateway::with(|config| config.limits.progress = Duration::from_millis(100)).await;
    gateway.declare("//Hangs", &hangs, 100_000, 4).await;
    let mut client = gateway.client().await;
    let response = client.stream_generate(chat("hi")).await;
    let mut events = response.expect("a progress brought headers").into_inner();
    let first = events.message().await.expect("no end").expect("no end");
    let Some(v1::stream_generate_response::Event::Progress(progress)) = first.event else {
        panic!("{first:?}");
    };
    assert_eq!(progress.phase(), v1::Phase::Prefill);
    gateway.declare("//Good", &good, 100_000, 4).await;
    hangs.die();
    let reading = async {
        let mut heard = Heard::default();
        while let Some(event) = events.message().await.expect("no failure") {
            heard.add(event);
        }
        heard
    };
    let heard = tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("it ends");
    assert_eq!(heard.text, "good");
    let answered = Keypair::from_secret("//Good").expect("a key").hotkey();
    assert_eq!(heard.started.expect("started").miner, answered.to_string());
    assert!(heard.completed.is_some());
    assert_eq!(gateway.posted().await, 1 + 1);
}
