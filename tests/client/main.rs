//! What the client library and the commands on it promise: the right retries, no broken
//! answer taken for a whole one, and a replay whose sums are those of the books.
#![expect(clippy::disallowed_methods, reason = "each test ends its own tasks")]

mod network;
mod scripted;

use std::time::Duration;

use clap::Parser;
use taugate::client::ask::{AskArgs, AskError};
use taugate::client::replay::report::Report;
use taugate::client::replay::{ReplayArgs, ReplayError};
use taugate::client::{Client, Retries, chat};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use self::network::Network;
use self::scripted::{Reply, ScriptedGateway};

fn quick() -> Retries {
    Retries {
        most: 3,
        wait_max: Duration::from_secs(2),
    }
}

async fn client_of(gateway: &ScriptedGateway) -> Client {
    let client = Client::connect(&gateway.address(), Some("a-key")).await;
    client.expect("it listens").with_retries(quick())
}

#[tokio::test]
async fn a_refusal_that_says_when_is_tried_again_then() {
    let gateway = ScriptedGateway::start(vec![
        Reply::Refuse(Code::ResourceExhausted, "NO_CAPACITY", Some(60)),
        Reply::Refuse(Code::Unavailable, "DRAINING", Some(0)),
        Reply::Whole("hello"),
    ])
    .await;
    let client = client_of(&gateway).await;
    let began = tokio::time::Instant::now();
    let answer = client.generate(&chat("task", "hi", None)).await;
    assert_eq!(answer.expect("an answer").choices[0].content, "hello");
    assert!(began.elapsed() >= Duration::from_millis(60));
    assert_eq!(gateway.calls(), 3);
}

#[tokio::test]
async fn a_refusal_that_says_never_is_not_tried_again() {
    for (code, pushback) in [
        (Code::Unavailable, Some(-1)),
        (Code::InvalidArgument, Some(-1)),
        (Code::DeadlineExceeded, None),
        // Later than anybody wants to wait.
        (Code::ResourceExhausted, Some(3_600_000)),
    ] {
        let gateway = ScriptedGateway::start(vec![Reply::Refuse(code, "WHY", pushback)]).await;
        let client = client_of(&gateway).await;
        let refused = client.stream(&chat("task", "hi", None)).await;
        let refused = refused.expect_err("a refusal");
        assert_eq!((refused.code, refused.reason.as_str()), (code, "WHY"));
        assert_eq!(gateway.calls(), 1, "{code:?}");
    }
}

#[tokio::test]
async fn a_busy_gateway_is_not_tried_for_ever() {
    let busy = Reply::Refuse(Code::ResourceExhausted, "NO_CAPACITY", Some(1));
    let gateway = ScriptedGateway::start(vec![busy; 10]).await;
    let client = client_of(&gateway).await;
    let refused = client.generate(&chat("task", "hi", None)).await;
    let refused = refused.expect_err("a refusal");
    assert_eq!(refused.retry_after, Some(Duration::from_millis(1)));
    assert_eq!(gateway.calls(), 4, "one call and three more tries");
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_asked_for_again() {
    let gateway = ScriptedGateway::start(vec![Reply::Lost("half"), Reply::Whole("hello")]).await;
    let client = client_of(&gateway).await;
    let mut answer = client
        .stream(&chat("task", "hi", None))
        .await
        .expect("it begins");
    let mut events = 0;
    let refused = loop {
        match answer.next().await {
            Ok(Some(_)) => events += 1,
            Ok(None) => panic!("a lost answer was taken for a whole one"),
            Err(refused) => break refused,
        }
    };
    assert_eq!((events, refused.reason.as_str()), (2, "MINER_LOST"));
    assert_eq!(gateway.calls(), 1);
}

#[tokio::test]
async fn a_stream_that_ends_well_without_completed_is_broken() {
    // P7.
    let gateway = ScriptedGateway::start(vec![Reply::Cut("half")]).await;
    let client = client_of(&gateway).await;
    let mut answer = client
        .stream(&chat("task", "hi", None))
        .await
        .expect("it begins");
    let refused = loop {
        match answer.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cut answer was taken for a whole one"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.reason, "BROKEN_ANSWER");
}

#[tokio::test]
async fn a_gateway_that_says_nothing_is_left_when_the_time_is_up() {
    let gateway = ScriptedGateway::start(vec![Reply::Hang("half")]).await;
    let client = client_of(&gateway).await;
    let client = client.with_deadline(Duration::from_millis(200));
    let mut answer = client
        .stream(&chat("task", "hi", None))
        .await
        .expect("it begins");
    let refused = loop {
        match answer.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("nothing ended"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.reason, "DEADLINE");
}

#[derive(Parser)]
struct AskLine {
    #[command(flatten)]
    args: AskArgs,
}

/// What a command wrote, and how it ended.
async fn ask(line: &[&str]) -> (String, Result<(), AskError>) {
    let line = AskLine::try_parse_from(std::iter::once(&"ask").chain(line));
    let (mut out, mut aside) = (Vec::new(), Vec::new());
    let ended = taugate::client::ask::run(line.expect("arguments").args, &mut out, &mut aside);
    let ended = ended.await;
    (String::from_utf8(out).expect("text"), ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn ask_lists_streams_and_tells_scripts_what_happened() {
    let network = Network::start().await;
    let gateway = network.address();
    let (tasks, ended) = ask(&["--gateway", &gateway]).await;
    assert!(ended.is_ok() && tasks.contains("tiny"), "{tasks}");

    let line = ["--gateway", &gateway, "--seed", "5", "--max-tokens", "12"];
    let (text, ended) = ask(&[&line[..], &["hello"]].concat()).await;
    assert!(ended.is_ok() && text.len() > 12, "{text}");
    let (json, ended) =
        ask(&[&line[..], &["--json", "--system", "be short", "hello"]].concat()).await;
    assert!(ended.is_ok());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    // The same seed draws the same words.
    assert_eq!(json["content"], text.trim_end());
    assert_eq!(
        (&json["recorded"], &json["finish_reason"]),
        (&true.into(), &"length".into())
    );

    let (_, unknown) = ask(&["--gateway", &gateway, "--task", "nobody", "hello"]).await;
    let unknown = unknown.expect_err("no such task");
    assert_eq!(unknown.exit_code(), 1);
    assert!(unknown.to_string().contains("lists the tasks"), "{unknown}");
    let (_, wrong) = ask(&["--gateway", &gateway, "--temperature", "99", "hello"]).await;
    let wrong = wrong.expect_err("no such temperature");
    assert_eq!(wrong.exit_code(), 2);
    assert!(wrong.to_string().contains("temperature"), "{wrong}");
    network.stop().await;
    let (_, away) = ask(&["--gateway", &gateway, "hello"]).await;
    assert_eq!(away.expect_err("no gateway").exit_code(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_only_a_trusted_gateway_is_spoken_to() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (gateway, address, cert) = Network::with_tls(dir.path()).await;
    let cert = cert.to_str().expect("a path");
    let (said, ended) = ask(&["--gateway", &address, "--ca", cert]).await;
    assert!(ended.is_ok() && said.contains("no task yet"), "{ended:?}");

    let (_, stranger) = ask(&["--gateway", &address]).await;
    let stranger = stranger.expect_err("nobody signed it");
    assert_eq!(stranger.exit_code(), 4);
    assert!(stranger.to_string().contains("certificate"), "{stranger}");

    // The name must be the certificate's, too.
    let other = address.replace("localhost", "127.0.0.1");
    let (_, other) = ask(&["--gateway", &other, "--ca", cert]).await;
    assert_eq!(other.expect_err("another name").exit_code(), 4);
    let plain = address.replace("https", "http");
    let (_, plain) = ask(&["--gateway", &plain]).await;
    assert_eq!(plain.expect_err("it speaks TLS").exit_code(), 4);
    gateway.stop().await.expect("the books are closed");
}

#[tokio::test]
async fn arguments_that_name_no_gateway_are_told_from_one_that_is_away() {
    let (_, bare) = ask(&["--gateway", "127.0.0.1:50051"]).await;
    assert_eq!(bare.expect_err("no scheme").exit_code(), 2);
    let (_, ca) = ask(&["--ca", "/nowhere.pem"]).await;
    assert_eq!(ca.expect_err("no file").exit_code(), 2);
    let dir = tempfile::tempdir().expect("a scratch directory");
    let file = dir.path().join("no.pem");
    std::fs::write(&file, "nothing").expect("a scratch file");
    let ca = file.to_str().expect("a path");
    let (_, none) = ask(&["--gateway", "https://localhost:1", "--ca", ca]).await;
    let none = none.expect_err("no certificate");
    assert!(none.to_string().contains("certificate"), "{none}");
    assert_eq!(none.exit_code(), 2);
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ReplayArgs,
}

async fn replay(line: &[&str]) -> Result<(Report, String), ReplayError> {
    let line = Line::try_parse_from(std::iter::once(&"replay").chain(line));
    let args = line.expect("arguments").args;
    let mut out = Vec::new();
    let report = taugate::client::replay::run(args, CancellationToken::new(), &mut out).await?;
    Ok((report, String::from_utf8(out).expect("text")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_adds_up_to_the_books() {
    let network = Network::start().await;
    let gateway = network.address();
    let line = [
        "--gateway",
        &gateway,
        "--limit",
        "60",
        "--speed",
        "1000",
        "--json",
    ];
    let (report, json) = replay(&line).await.expect("a report");
    assert_eq!((report.calls, report.whole), (60, 60), "{json}");
    assert_eq!(report.recorded, 60);
    assert_eq!(
        report.miners.values().map(|miner| miner.units).sum::<u64>(),
        report.units
    );
    assert!(report.prompt_units > 0 && report.prompt_units < report.units);
    assert_eq!(network.posted().await, report.units);
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(parsed["units"], report.units);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_names_what_refused_it() {
    let network = Network::start().await;
    let gateway = network.address();
    // More tokens than the task gives.
    let trace =
        network.file("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,10,9999999\n");
    let trace = trace.to_str().expect("a path");
    let (report, table) = replay(&["--gateway", &gateway, "--trace", trace])
        .await
        .expect("a report");
    assert_eq!(
        (report.calls, report.whole, report.refused["INVALID_FIELD"]),
        (1, 0, 1)
    );
    assert!(table.contains("INVALID_FIELD"), "{table}");

    let unknown = replay(&["--gateway", &gateway, "--task", "nobody"]).await;
    assert_eq!(unknown.expect_err("no task").exit_code(), 2);
    network.stop().await;
    let away = replay(&["--gateway", &gateway]).await;
    assert_eq!(away.expect_err("no gateway").exit_code(), 4);
}
