//! Not a test: says which wider suites `cargo test` did not run, and how to run them. It has
//! no harness, so that what it prints is seen.

#![expect(clippy::print_stdout, reason = "to be read is all that it is for")]

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

fn main() {
    // A runner that lists tests, or runs one by its name, wants nothing of this.
    if std::env::args().len() > 1 {
        return;
    }
    println!("\nNot run here, because they need more than Rust or take longer:");
    for suite in suites() {
        println!("  {:<40} {}", suite.display(), purpose(&suite));
    }
    println!("  {:<40} {}\n", ".ci/run", purpose(Path::new(".ci/run")));
}

/// The scripts that the continuous checks run after the tests.
fn suites() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for tests in ["tests", "crates/ledger/tests"] {
        for entry in Path::new(tests).read_dir().into_iter().flatten().flatten() {
            let script = Path::new(tests).join(entry.file_name()).join("run.sh");
            if script.exists() {
                found.push(script);
            }
        }
    }
    found.sort();
    found
}

/// The first sentence of a script's comment.
fn purpose(script: &Path) -> String {
    let Ok(file) = std::fs::File::open(script) else {
        return String::new();
    };
    let lines = std::io::BufReader::new(file).lines().map_while(Result::ok);
    let comment = lines.skip(1).map_while(|line| {
        let text = line.strip_prefix("# ")?;
        Some(text.to_owned())
    });
    let text = comment.collect::<Vec<_>>().join(" ");
    match text.split_once(". ") {
        Some((first, _)) => first.to_owned(),
        None => text.trim_end_matches('.').to_owned(),
    }
}
