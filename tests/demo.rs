//! The demo, as a user runs it: its books close, and nothing outlives it.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "readme/model_server.rs"]
mod model_server;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// A demo whose scratch files go to `dir`, and its figures to `demo.json` there.
fn demo(dir: &Path, arguments: &[&str]) -> Command {
    std::fs::create_dir(dir.join("scratch")).unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_taugate"));
    demo.env("TMPDIR", dir.join("scratch"))
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .arg("demo")
        .args(arguments)
        .arg("--json")
        .arg(dir.join("demo.json"));
    demo
}

fn figures(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("demo.json")).unwrap()).unwrap()
}

fn is_empty(dir: &Path) -> bool {
    let left: Vec<_> = dir.join("scratch").read_dir().unwrap().collect();
    left.is_empty()
}

/// Runs a demo to its end; what it says, and its figures.
fn runs(arguments: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().unwrap();
    let ended = demo(dir.path(), arguments).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let complained = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}{complained}");
    assert!(said.contains("The books close."), "{said}");
    assert!(is_empty(dir.path()), "scratch files are left");
    (said, figures(dir.path()))
}

#[test]
fn the_demos_books_close() {
    // P6.
    let (said, proof) = runs(&["--minutes", "2", "--speed", "40", "--period-s", "3"]);
    assert_eq!(proof["receipts"], proof["counters"]);
    assert_eq!(proof["reserved"], 0);
    assert!(proof["whole"].as_u64().unwrap() > 0);
    assert_eq!(proof["faults"].as_array().map(Vec::len), Some(0));

    let miners = proof["miners"].as_array().unwrap();
    assert_eq!(miners.len(), 7);
    let sum = |key: &str| -> f64 {
        miners
            .iter()
            .map(|miner| miner[key].as_f64().unwrap())
            .sum()
    };
    for (key, all) in [
        ("share_of_units", 1.0),
        ("share_of_capacity", 1.0),
        ("posted", proof["counters"].as_f64().unwrap()),
    ] {
        assert!((sum(key) - all).abs() < 1e-6, "{key}: {miners:?}");
    }
    // A miner that nobody but checks reached answered no client.
    let asked = miners
        .iter()
        .filter(|miner| miner["good"] != 0 && miner["checks"] == 0);
    for miner in asked {
        assert!(
            miner["answer"]["p50_ms"].as_f64().unwrap() > 0.0,
            "{miner:?}"
        );
    }
    for miner in miners {
        assert!(said.contains(miner["name"].as_str().unwrap()), "{said}");
    }
}

#[test]
fn a_demo_that_is_ended_early_proves_its_books_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = demo(dir.path(), &["--minutes", "50", "--speed", "1"])
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let id = running.id().to_string();
    let mut out = BufReader::new(running.stdout.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    while !line.contains("Replaying") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "{said}");
        said.push_str(&line);
    }
    assert!(
        !is_empty(dir.path()),
        "its store lies where this test looks"
    );
    kill(&["-TERM", &id]);
    out.read_to_string(&mut said).unwrap();
    assert!(running.wait().unwrap().success(), "{said}");
    assert!(said.contains("The books close."), "{said}");
    assert_eq!(figures(dir.path())["interrupted"], true);

    assert!(is_empty(dir.path()), "scratch files are left");
    let words = said
        .split_whitespace()
        .map(|word| word.trim_end_matches('.'));
    let gateway: SocketAddr = words.filter_map(|word| word.parse().ok()).next().unwrap();
    assert!(TcpStream::connect(gateway).is_err(), "the gateway is there");
    // No process of its group, either.
    assert!(!kill(&["-0", &format!("-{id}")]), "a process is left");
}

/// Whether the signal found somebody.
fn kill(arguments: &[&str]) -> bool {
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill \"$@\"", "kill"]).args(arguments);
    kill.stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn a_real_server_gives_the_first_answer_and_is_in_the_books() {
    let server = model_server::ModelServer::start();
    let address = format!("http://{}", server.address());
    let (said, proof) = runs(&["--minutes", "0.5", "--speed", "40", "--model", &address]);
    assert!(said.contains("Hello to you."), "{said}");
    assert!(said.contains(" units by real, recorded)"), "{said}");
    let miners = proof["miners"].as_array().unwrap();
    let real = miners.iter().find(|miner| miner["name"] == "real").unwrap();
    assert!(real["posted"].as_u64().unwrap() > 0, "{real:?}");
}
