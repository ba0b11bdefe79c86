//! The demo, as a user runs it: its books close, and nothing outlives it.

use std::process::Command;

#[test]
fn the_demos_books_close() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("demo.json");
    let ended = Command::new(env!("CARGO_BIN_EXE_taugate"))
        .args([
            "demo",
            "--minutes",
            "2",
            "--speed",
            "40",
            "--period-s",
            "3",
            "--json",
        ])
        .arg(&json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert!(said.contains("The books close."), "{said}");
    let proof: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(proof["receipts"], proof["counters"]);
    assert_eq!(proof["reserved"], 0);
    assert!(proof["whole"].as_u64().unwrap() > 0);
    assert_eq!(proof["faults"].as_array().map(Vec::len), Some(0));
}
