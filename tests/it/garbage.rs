//! Miners that send what no honest miner sends: floods of small frames, and messages that
//! belong to no answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use taugate::digest::ChoiceDigests;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::proto::v1::miner_generate_response::Event;
use taugate::task::Task;

use crate::support::miner::{Act, FakeMiner};
use crate::support::raw::{Raw, RawMiner};
use crate::support::{Connection, Heard, TASK, TestGateway, chat};

/// Chunks of a flood.
const FLOOD: usize = 20_000;

/// A gateway whose task lets answers be long.
async fn roomy() -> TestGateway {
    TestGateway::with(|config| {
        let mut task = Task::open_chat(TASK.into());
        task.weight = 1.0;
        task.largest_request = 100_000;
        task.context_tokens = 0;
        task.limits.between_chunks = Duration::from_secs(30);
        task.limits.first_chunk = Duration::from_secs(30);
        config.tasks = Arc::new([task].into_iter().collect());
        // Nobody here is cut off for being slow: the machine may be.
        config.limits.slow_consumer = Duration::from_secs(120);
    })
    .await
}

fn long_chat() -> v1::GenerateRequest {
    let mut request = chat("hello");
    if let Some(v1::generate_request::Payload::Chat(chat)) = &mut request.payload {
        chat.max_tokens = Some(10_000);
    }
    request
}

/// A client that takes no more than this many bytes unless it reads.
async fn narrow(gateway: &TestGateway, bytes: u32) -> InferenceServiceClient<Connection> {
    let address = gateway.gateway.addresses().public;
    let stream = tokio::net::TcpStream::connect(address).await.expect("open");
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(bytes)
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::task::spawn(driver);
    let origin = format!("http://{address}").parse().expect("an address");
    InferenceServiceClient::with_origin(Connection(sender), origin)
}

/// Reads a stream to its end.
async fn rest(mut events: tonic::Streaming<v1::StreamGenerateResponse>) -> Heard {
    let mut heard = Heard::default();
    loop {
        match events.message().await {
            Ok(Some(event)) => heard.add(event),
            Ok(None) => return heard,
            Err(status) => {
                heard.status = Some(status);
                return heard;
            }
        }
    }
}

#[tokio::test]
async fn case_5_twenty_thousand_chunks_to_a_stalled_client_end_nobody_elses_stream() {
    let mut script = vec![Act::Say("x".into()); FLOOD];
    script.push(Act::Complete(1));
    let miner = FakeMiner::start(script).await;
    let gateway = roomy().await;
    gateway.declare("//One", &miner, 1_000_000, 8).await;
    let mut stalled = narrow(&gateway, 1024).await;
    let stalled = stalled.stream_generate(long_chat()).await.expect("begun");
    // The miner has said all: it is drained although its client takes nothing.
    gateway
        .until("the miner is drained", || miner.running() == 0)
        .await;
    assert_eq!(miner.cancelled(), 0);
    let heard = gateway.ask(long_chat()).await;
    assert!(heard.completed.is_some(), "{:?}", heard.status);
    assert_eq!(heard.text.len(), FLOOD);
    // The stalled one lives, too, and gets all of it once it reads.
    let late = rest(stalled.into_inner()).await;
    assert!(late.completed.is_some(), "{:?}", late.status);
    assert_eq!(late.text.len(), FLOOD);
    let units = u64::try_from(FLOOD / 4).expect("fits") + 1;
    assert_eq!(gateway.posted().await, 2 * units);
}

#[tokio::test]
async fn case_5_a_flood_of_empty_frames_ends_only_its_own_connection() {
    let good = FakeMiner::start(vec![
        Act::Say("one ".into()),
        Act::Wait,
        Act::Say("two".into()),
        Act::Complete(2),
    ])
    .await;
    let gateway = roomy().await;
    // One at a time, so that the next call goes elsewhere.
    gateway.declare("//Good", &good, 100_000, 1).await;
    let mut client = gateway.client().await;
    let spared = client.stream_generate(chat("hello")).await.expect("begun");
    let flood = vec![Raw::text("half"), Raw::Nothing(FLOOD), Raw::Hang];
    let flood = RawMiner::start(flood).await;
    gateway
        .declare_at("//Flood", flood.address, 100_000, 8)
        .await;
    let heard = gateway.ask(chat("hello")).await;
    assert_eq!(flood.calls(), 1);
    assert!(heard.completed.is_none());
    assert!(heard.reason().starts_with("MINER_"), "{}", heard.reason());
    gateway
        .until("the flooded connection is closed", || flood.closed() == 1)
        .await;
    good.go_on();
    let spared = rest(spared.into_inner()).await;
    assert!(spared.completed.is_some(), "{:?}", spared.status);
    assert_eq!(spared.text, "one two");
    gateway.posted().await;
}

/// Messages that are refused, whenever they come.
fn garbage() -> Vec<(&'static str, Raw)> {
    let delta = |change: fn(&mut v1::Delta)| {
        let mut delta = v1::Delta {
            content: "REFUSED".to_owned(),
            ..v1::Delta::default()
        };
        change(&mut delta);
        Raw::event(Event::Delta(delta))
    };
    vec![
        ("bad UTF-8", Raw::no_text(b"REFUSED\xff\xfe")),
        ("no message", Raw::Message(b"\xff\xff\xff\xff"[..].into())),
        (
            "nothing of the kinds there are",
            Raw::Message(b""[..].into()),
        ),
        (
            "a choice that nobody asked for",
            delta(|delta| delta.choice = 1),
        ),
        ("the highest choice", delta(|delta| delta.choice = u32::MAX)),
        (
            "a picture in a chat",
            delta(|delta| delta.image = Some(v1::ImageChunk::default())),
        ),
        (
            "a vector in a chat",
            delta(|delta| delta.embeddings = vec![v1::Embedding::default()]),
        ),
    ]
}

#[tokio::test]
async fn case_8_garbage_before_the_first_chunk_goes_to_no_client_and_another_miner_answers() {
    for (name, raw) in garbage() {
        let bad = RawMiner::start(vec![raw, Raw::text("REFUSED"), Raw::End]).await;
        let good = FakeMiner::start(vec![Act::Say("good".into()), Act::Complete(1)]).await;
        let gateway = TestGateway::start().await;
        gateway.declare_at("//Bad", bad.address, 100_000, 8).await;
        // So small that it is the second choice.
        gateway.declare("//Good", &good, 100, 8).await;
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_some(), "{name}: {:?}", heard.status);
        assert_eq!(heard.text, "good", "{name}");
        assert_eq!(gateway.posted().await, 1 + 1, "{name}");
    }
}

#[tokio::test]
async fn case_8_garbage_in_mid_answer_ends_it_and_none_of_it_reaches_the_client() {
    let whole = Raw::event(Event::Completed(Raw::completed(&["fine"])));
    let mut cases = garbage();
    cases.push(("a second end", whole.clone()));
    for (name, raw) in cases {
        let script = if name == "a second end" {
            vec![Raw::text("fine"), whole.clone(), raw, Raw::End]
        } else {
            vec![Raw::text("fine"), raw, whole.clone(), Raw::End]
        };
        let gateway = with_raw(script).await;
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_none(), "{name}");
        assert_eq!(heard.reason(), "MINER_PROTOCOL", "{name}");
        assert_eq!(heard.text, "fine", "{name}");
        assert_eq!(gateway.posted().await, 1 + 1, "{name}");
    }
}

/// A delta without a word.
fn wordless() -> v1::Delta {
    v1::Delta {
        logprobs: vec![v1::TokenLogprob::default()],
        ..v1::Delta::default()
    }
}

/// A piece of a call of a tool, without arguments.
fn tool(name: &str) -> v1::Delta {
    v1::Delta {
        tool_calls: vec![v1::ToolCallFragment {
            id: "call-1".to_owned(),
            name: name.to_owned(),
            ..v1::ToolCallFragment::default()
        }],
        ..v1::Delta::default()
    }
}

/// A whole answer of one delta, whose texts are empty.
fn whole_of(delta: v1::Delta) -> Vec<Raw> {
    let mut digests = ChoiceDigests::new(1);
    digests.add(&delta);
    let mut completed = Raw::completed(&[]);
    completed.digests = digests.finish();
    let end = Raw::event(Event::Completed(completed));
    vec![Raw::event(Event::Delta(delta)), end, Raw::End]
}

#[tokio::test]
async fn case_8_log_probabilities_alone_are_no_answer_and_another_miner_answers() {
    let bad = RawMiner::start(whole_of(wordless())).await;
    let good = FakeMiner::start(vec![Act::Say("good".into()), Act::Complete(1)]).await;
    let gateway = TestGateway::start().await;
    gateway.declare_at("//Bad", bad.address, 100_000, 8).await;
    gateway.declare("//Good", &good, 100, 8).await;
    let heard = gateway.ask(chat("hello")).await;
    assert_eq!(bad.calls(), 1);
    assert_eq!(heard.text, "good", "{:?}", heard.status);
    assert_eq!(gateway.posted().await, 1 + 1);
}

#[tokio::test]
async fn case_8_a_call_of_a_tool_is_an_answer_by_its_name_alone() {
    let nameless = with_raw(whole_of(tool(""))).await;
    let heard = nameless.ask(chat("hello")).await;
    assert!(heard.completed.is_none());
    assert_eq!(heard.reason(), "MINER_PROTOCOL");
    assert_eq!(nameless.posted().await, 0);
    let named = with_raw(whole_of(tool("look"))).await;
    let heard = named.ask(chat("hello")).await;
    let completed = heard.completed.expect("a whole answer");
    // Its prompt, and no argument.
    assert_eq!(completed.usage.expect("its usage").units, 1);
    assert_eq!(named.posted().await, 1);
}

#[tokio::test]
async fn case_5_a_first_piece_above_the_bound_is_a_failure_and_books_nothing() {
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(4096)), Act::Complete(1)]).await;
    let gateway = TestGateway::with(|config| {
        let mut task = Task::open_chat(TASK.into());
        task.weight = 1.0;
        task.limits.answer_bytes_max = 1024;
        config.tasks = Arc::new([task].into_iter().collect());
    })
    .await;
    gateway.declare("//One", &miner, 100_000, 8).await;
    let heard = gateway.ask(chat("hello")).await;
    assert!(heard.completed.is_none());
    assert_eq!(heard.reason(), "MINER_PROTOCOL");
    assert_eq!(gateway.posted().await, 0);
}

/// Answers of two chunks whose parts do not make one.
fn broken_answers() -> Vec<(&'static str, Vec<Raw>)> {
    let completed = |change: fn(&mut v1::MinerCompleted)| {
        let mut completed = Raw::completed(&["one ", "two"]);
        change(&mut completed);
        Raw::event(Event::Completed(completed))
    };
    let (one, two) = (|| Raw::text("one "), || Raw::text("two"));
    let whole = || completed(|_| {});
    vec![
        ("a gap", vec![one(), whole(), Raw::End]),
        (
            "a chunk twice",
            vec![one(), one(), two(), whole(), Raw::End],
        ),
        ("out of order", vec![two(), one(), whole(), Raw::End]),
        ("text behind the end", vec![one(), whole(), two(), Raw::End]),
        (
            "no end of its choice",
            vec![one(), two(), completed(|c| c.choices.clear()), Raw::End],
        ),
        (
            "an end of another choice",
            vec![
                one(),
                two(),
                completed(|c| c.choices[0].choice = 1),
                Raw::End,
            ],
        ),
        (
            "the end of a choice twice",
            vec![
                one(),
                two(),
                completed(|c| c.choices.push(c.choices[0])),
                Raw::End,
            ],
        ),
        (
            "no digest",
            vec![one(), two(), completed(|c| c.digests.clear()), Raw::End],
        ),
        (
            "half a digest",
            vec![
                one(),
                two(),
                completed(|c| c.digests[0].sha256.truncate(16)),
                Raw::End,
            ],
        ),
        (
            "the digest of another choice",
            vec![
                one(),
                two(),
                completed(|c| c.digests[0].choice = 7),
                Raw::End,
            ],
        ),
    ]
}

#[tokio::test]
async fn case_8_gaps_duplicates_and_wrong_ends_are_never_complete() {
    for (name, script) in broken_answers() {
        let gateway = with_raw(script).await;
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_none(), "{name}");
        assert_eq!(heard.reason(), "MINER_PROTOCOL", "{name}");
        gateway.posted().await;
    }
    // The same by hand, without a fault: it is the faults that are refused.
    let whole = Raw::event(Event::Completed(Raw::completed(&["one ", "two"])));
    let script = vec![Raw::text("one "), Raw::text("two"), whole, Raw::End];
    let gateway = with_raw(script).await;
    let heard = gateway.ask(chat("hello")).await;
    assert!(heard.completed.is_some(), "{:?}", heard.status);
    assert_eq!(heard.text, "one two");
}

/// How an answer can break off, and what a client is told then.
fn truncations() -> Vec<(&'static str, Raw, &'static str)> {
    let code = |reason: h2::Reason| Raw::Reset(reason.into());
    vec![
        ("no trailers", Raw::Cut, "MINER_"),
        ("OK and no end", Raw::End, "MINER_PROTOCOL"),
        ("half a message", Raw::Claim(99), "MINER_"),
        (
            "a message of 2 GiB",
            Raw::Claim(0x7fff_ffff),
            "MINER_PROTOCOL",
        ),
        ("a message of 4 GiB", Raw::Claim(u32::MAX), "MINER_PROTOCOL"),
        (
            "reset without an error",
            code(h2::Reason::NO_ERROR),
            "MINER_",
        ),
        ("reset by a cancel", code(h2::Reason::CANCEL), "MINER_LOST"),
        ("refused", code(h2::Reason::REFUSED_STREAM), "MINER_LOST"),
        (
            "reset by a fault",
            code(h2::Reason::INTERNAL_ERROR),
            "MINER_",
        ),
        (
            "reset with a code that is none",
            Raw::Reset(0xdead),
            "MINER_",
        ),
    ]
}

#[tokio::test]
async fn case_6_and_7_an_answer_that_breaks_off_by_hand_is_never_complete() {
    for (name, raw, expected) in truncations() {
        // What follows says that all was well.
        let script = vec![Raw::text("half"), Raw::Wait, raw, Raw::End];
        let miner = RawMiner::start(script).await;
        let gateway = TestGateway::start().await;
        gateway.declare_at("//Raw", miner.address, 100_000, 8).await;
        let mut client = gateway.client().await;
        let events = client.stream_generate(chat("hello")).await;
        let mut events = events.expect("it begins").into_inner();
        let mut heard = Heard::default();
        while heard.text.is_empty() {
            let event = events.message().await.expect("no end yet");
            heard.add(event.expect("no end yet"));
        }
        miner.go_on();
        let end = rest(events).await;
        (heard.completed, heard.status) = (end.completed, end.status);
        assert_eq!(end.text, "", "{name}");
        assert!(heard.completed.is_none(), "{name}");
        let reason = heard.reason();
        assert!(reason.starts_with(expected), "{name}: {reason}");
        assert_eq!(heard.text, "half", "{name}");
        assert_eq!(gateway.posted().await, 1 + 1, "{name}");
    }
}

#[tokio::test]
async fn case_6_and_7_an_answer_that_breaks_off_before_it_began_is_another_miners() {
    for (name, raw, _) in truncations() {
        let bad = RawMiner::start(vec![raw, Raw::End]).await;
        let good = FakeMiner::start(vec![Act::Say("good".into()), Act::Complete(1)]).await;
        let gateway = TestGateway::start().await;
        gateway.declare_at("//Bad", bad.address, 100_000, 8).await;
        gateway.declare("//Good", &good, 100, 8).await;
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_some(), "{name}: {:?}", heard.status);
        assert_eq!(heard.text, "good", "{name}");
        assert_eq!(gateway.posted().await, 1 + 1, "{name}");
    }
}

#[tokio::test]
async fn case_10_forged_trailers_reach_no_client() {
    let forged = |status: &'static str| {
        let text = |text: String| bytes::Bytes::from(text);
        Raw::Trailers(vec![
            ("grpc-status", text(status.to_owned())),
            ("grpc-message", text("SECRET%1B[31m".repeat(500))),
            ("grpc-status-details-bin", text("U0VDUkVU".to_owned())),
            ("taugate-reason", text("SECRET".to_owned())),
            ("grpc-retry-pushback-ms", text("1".to_owned())),
            ("x-more", text("SECRET".to_owned())),
        ])
    };
    for status in ["0", "3", "8", "14", "16", "999", "x", ""] {
        let gateway = with_raw(vec![Raw::text("half"), forged(status)]).await;
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.is_none(), "{status}");
        assert!(heard.reason().starts_with("MINER_"), "{status}");
        let told = heard.status.expect("a status");
        let pushback = told.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(pushback.expect("ours"), "-1", "{status}");
        let details = String::from_utf8_lossy(told.details()).into_owned();
        let all = format!("{told:?} {details}");
        assert!(!all.contains("SECRET") && !all.contains("x-more"), "{all}");
        let text = gateway.gateway.calls().instruments.text();
        assert!(!text.contains("SECRET"), "{text}");
        gateway.posted().await;
    }
}

/// A gateway with one raw miner.
async fn with_raw(script: Vec<Raw>) -> TestGateway {
    let miner = RawMiner::start(script).await;
    let gateway = TestGateway::start().await;
    gateway.declare_at("//Raw", miner.address, 100_000, 8).await;
    gateway
}
