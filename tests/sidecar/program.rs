//! The program itself as a miner, between a model server and a gateway.

use std::process::Stdio;
use std::time::Duration;

use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::proto::v1::stream_generate_response::Event;
use taugate::registry::snapshot::Availability;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tonic::{Code, Streaming};

use crate::gateway::{ANY, gateway, until};
use crate::model_server::{ModelServer, Script, finish, text};
use crate::{chat, done};

const PATIENCE: Duration = Duration::from_secs(20);

fn miner(dir: &std::path::Path, server: &ModelServer, peer: std::net::SocketAddr) -> Child {
    Command::new(env!("CARGO_BIN_EXE_taugate"))
        .args(["miner", "--json-logs", "--listen", "127.0.0.1:0"])
        .args([
            "--task",
            "m=served",
            "--concurrency",
            "2",
            "--units-per-hour",
            "36000",
        ])
        .args(["--model", &format!("http://{}", server.address)])
        .args(["--gateway", &format!("http://{peer}")])
        .arg("--key")
        .arg(dir.join("hotkey.json"))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The first line of the log that says this; its fields.
async fn line(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> serde_json::Value {
    let reading = async {
        loop {
            let line = log.next_line().await.unwrap().expect("it runs");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["fields"]["message"] == message {
                return line["fields"].clone();
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect(message)
}

fn ask() -> v1::GenerateRequest {
    v1::GenerateRequest {
        task: "m".to_owned(),
        payload: Some(v1::generate_request::Payload::Chat(chat())),
        ..v1::GenerateRequest::default()
    }
}

/// Reads to the first delta, or to the end.
async fn read(events: &mut Streaming<v1::StreamGenerateResponse>) -> (String, bool) {
    let mut content = String::new();
    while let Some(message) = events.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Delta(delta) => {
                content.push_str(&delta.content);
                if content == "before " {
                    return (content, false);
                }
            }
            Event::Completed(_) => return (content, true),
            Event::Started(_) | Event::Progress(_) => {}
        }
    }
    panic!("it ended without its end")
}

#[tokio::test]
async fn a_miner_says_what_limits_it_and_ends_in_peace_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), ANY).await;
    let (gate, open) = watch::channel(false);
    let last = [text("after"), finish(), done()].concat();
    let server = ModelServer::start(Script::Gated(vec![text("before "), last], open)).await;
    let mut child = miner(dir.path(), &server, gateway.addresses().peer);
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();

    let said = line(&mut log, "capacity").await;
    let expected = [
        ("task", "m".into()),
        ("declared", 36_000.into()),
        ("allotment", 36_000.into()),
        ("posted", 0.into()),
        ("concurrency", 2.into()),
        ("limited_by", "demand".into()),
    ];
    for (field, value) in expected {
        let value: serde_json::Value = value;
        assert_eq!(said[field], value, "{said}");
    }
    until(&gateway, Some(Availability::Free)).await;

    let public = format!("http://{}", gateway.addresses().public);
    let mut client = InferenceServiceClient::connect(public).await.unwrap();
    let answer = client.stream_generate(ask()).await.unwrap();
    let mut events = answer.into_inner();
    assert_eq!(read(&mut events).await.0, "before ");
    let id = child.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(told.unwrap().success());
    until(&gateway, None).await;
    // The task was opened for what this miner declared.
    let refused = client.stream_generate(ask()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert!(child.try_wait().unwrap().is_none(), "an answer still runs");

    gate.send(true).unwrap();
    assert_eq!(read(&mut events).await, ("after".to_owned(), true));
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert!(ended.unwrap().unwrap().success());
    gateway.stop().await.unwrap();
}
