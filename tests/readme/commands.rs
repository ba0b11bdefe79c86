//! What a document says to type.

use std::path::Path;

/// The commands of the blocks marked `sh`, in order; a line that ends in a backslash goes on
/// in the next, and comments are left out.
pub(crate) fn of(markdown: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let (mut inside, mut begun) = (false, String::new());
    for line in markdown.lines() {
        match (line, inside) {
            ("```sh", _) => inside = true,
            ("```", _) => inside = false,
            (line, true) => {
                let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
                match line.strip_suffix('\\') {
                    Some(part) => begun.push_str(part),
                    None if line.is_empty() => {}
                    None => commands.push(std::mem::take(&mut begun) + line),
                }
            }
            (_, false) => {}
        }
    }
    commands
}

/// The commands of the services of a compose file that run taugate, by service. The file
/// keeps to one form: a list in brackets, or one item a line.
pub(crate) fn composed(yaml: &str) -> Vec<(String, Vec<String>)> {
    let mut services: Vec<(String, Vec<String>)> = Vec::new();
    let mut listing = false;
    for line in yaml.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if indent == 2 && text.ends_with(':') {
            services.push((text.trim_end_matches(':').to_owned(), Vec::new()));
        }
        let Some((_, words)) = services.last_mut() else {
            continue;
        };
        if let Some(list) = text.strip_prefix("command: [") {
            let list = list.trim_end_matches(']').split(", ");
            words.extend(list.map(str::to_owned));
        } else if text == "command:" {
            listing = true;
        } else if let Some(item) = text.strip_prefix("- ").filter(|_| listing) {
            words.push(item.to_owned());
        } else {
            listing = false;
        }
    }
    services.retain(|(_, words)| !words.is_empty());
    services
}

/// The suites that `cargo test` does not run, by path.
pub(crate) fn suites(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for tests in [root.join("tests"), root.join("crates/ledger/tests")] {
        for entry in tests.read_dir().unwrap() {
            let script = entry.unwrap().path().join("run.sh");
            if script.exists() {
                let script = script.strip_prefix(root).unwrap();
                found.push(script.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn commands_are_whole_lines_without_comments() {
    let text = "text\n```sh\none  # why\n\ntwo \\\n  more\n```\n```python\nthree\n```\n`four`\n";
    assert_eq!(of(text), ["one", "two more"]);
}
