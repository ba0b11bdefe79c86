//! The rules, each a function from text to what is wrong with it.

use std::path::{Component, Path};

use crate::source::{code_lines, functions, names, plain, without_tests, words};

/// The rooms from the ground up. A room uses only rooms before it.
const ROOMS: [&str; 26] = [
    "audit",
    "clock",
    "failpoint",
    "telemetry",
    "proto",
    "task",
    "digest",
    "identity",
    "books",
    "registry",
    "sidecar",
    "routing",
    "miner_client",
    "report",
    "call",
    "scoring",
    "synthetic",
    "store",
    "front_door",
    "admin",
    "client",
    "config",
    "operator",
    "gateway",
    "demo",
    "main",
];

/// A file that is longer is two files.
const FILE_LINES_MAX: usize = 500;

/// A function that is longer is two functions.
const FUNCTION_LINES_MAX: usize = 70;

/// Words that say less than ours do: miner, capacity.
const WORDS: [&str; 7] = [
    "worker",
    "node",
    "backend",
    "contender",
    "volume",
    "provider",
    "quota",
];

/// Names that hold such a word because a standard or a library brings them.
const BROUGHT: [&str; 15] = [
    "CryptoProvider",
    "QuotaFailure",
    "QuotaViolation",
    "SdkTracerProvider",
    "TracerProvider",
    "add_quota_failure_violation",
    "check_quota_failure",
    "default_provider",
    "builder_with_provider",
    "get_details_quota_failure",
    "quota_failure",
    "set_tracer_provider",
    "tracer_provider",
    "with_quota_failure",
    "worker_threads",
];

/// Modules of such names hold what nobody found a place for.
const MODULES: [&str; 11] = [
    "util",
    "utils",
    "common",
    "misc",
    "manager",
    "context",
    "types",
    "core",
    "helper",
    "helpers",
    "lib_internal",
];

/// A reservation ends by `post` or `void`; these belong to other models of the books.
const LEDGER_VERBS: [&str; 5] = ["commit", "rollback", "acquire", "expire", "refund"];

/// Where the path leads from the room that a file is in to a later one, or out of the list.
pub(crate) fn layers(path: &Path, text: &str) -> Vec<String> {
    let modules = modules(path);
    let Some(room) = modules.first().filter(|room| *room != "lib") else {
        return Vec::new();
    };
    let Some(own) = place(room) else {
        return vec![format!("room {room} is not in the list of rooms")];
    };
    let code = without_tests(&plain(text));
    let mut wrong = Vec::new();
    for (line, used) in used_rooms(&code, modules.len()) {
        match place(&used) {
            Some(other) if other > own => {
                wrong.push(format!(
                    "line {line}: {room} uses {used}, which stands above it"
                ));
            }
            _ => {}
        }
    }
    wrong
}

/// Files and functions that are too long, tests not counted.
pub(crate) fn lengths(text: &str) -> Vec<String> {
    let code = without_tests(&plain(text));
    // Comments are worth their lines, so the file is counted with them; what stands in test
    // modules is not.
    let all = text.lines().count();
    let tests = code_lines(&plain(text)) - code_lines(&code);
    let mut wrong = Vec::new();
    if all.saturating_sub(tests) > FILE_LINES_MAX {
        wrong.push(format!("{} lines without tests", all - tests));
    }
    for function in functions(&code) {
        if function.code_lines > FUNCTION_LINES_MAX {
            wrong.push(format!(
                "line {}: {} has {} lines",
                function.line, function.name, function.code_lines
            ));
        }
    }
    wrong
}

/// Names with words that ours replace.
pub(crate) fn vocabulary(text: &str) -> Vec<String> {
    let code = plain(text);
    names(&code)
        .filter(|(_, name)| !BROUGHT.contains(name))
        .filter_map(|(line, name)| {
            let word = words(name).into_iter().find(|word| {
                let singular = word.strip_suffix('s').unwrap_or(word);
                WORDS.contains(&singular)
            })?;
            Some(format!("line {line}: {name} says {word}"))
        })
        .collect()
}

/// Functions of the books whose names belong to another model of them.
pub(crate) fn ledger_verbs(text: &str) -> Vec<String> {
    functions(&plain(text))
        .into_iter()
        .filter(|function| LEDGER_VERBS.contains(&function.name.as_str()))
        .map(|function| format!("line {}: fn {}", function.line, function.name))
        .collect()
}

/// Names of files that say nothing, and `mod.rs`.
pub(crate) fn module_names(path: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    if path.ends_with("mod.rs") {
        wrong.push("mod.rs: write foo.rs beside foo/".to_owned());
    }
    for name in modules(path) {
        if MODULES.contains(&name.as_str()) {
            wrong.push(format!("a module called {name}"));
        }
    }
    wrong
}

/// Paths of somebody's machine.
pub(crate) fn machine_paths(text: &str) -> Vec<String> {
    // Written in two parts, or this file would be its own finding.
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tm", "p/"),
    ];
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for place in places {
            let found = line.match_indices(place).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                // `framework/` and URLs are no such path.
                !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '.')
            });
            if found {
                wrong.push(format!("line {}: {place}", number + 1));
            }
        }
    }
    wrong
}

/// A file that does not open by saying what it is.
pub(crate) fn opening(text: &str) -> Vec<String> {
    if text.starts_with("//! ") {
        Vec::new()
    } else {
        vec!["no //! at the top".to_owned()]
    }
}

/// Tests that are switched off, or that only want any panic.
pub(crate) fn test_attributes(text: &str) -> Vec<String> {
    let code = plain(text);
    ["#[ignore", "#[should_panic"]
        .into_iter()
        .filter(|attribute| code.contains(attribute))
        .map(|attribute| format!("{attribute}]"))
        .collect()
}

/// Lints of the table that a manifest does not set as it must.
pub(crate) fn lint_table(manifest: &toml::Table, expected: &[(&str, &str, &str)]) -> Vec<String> {
    let lints = |tool: &str| manifest.get("workspace")?.get("lints")?.get(tool);
    expected
        .iter()
        .filter(|(tool, lint, level)| {
            let set = lints(tool).and_then(|table| table.get(*lint));
            let found = set.and_then(|set| set.as_str().or_else(|| set.get("level")?.as_str()));
            found != Some(*level)
        })
        .map(|(tool, lint, level)| format!("{tool}::{lint} is not \"{level}\""))
        .collect()
}

/// A package that does not take over the workspace's lints.
pub(crate) fn takes_over_lints(manifest: &toml::Table) -> Vec<String> {
    let taken = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool);
    if taken == Some(true) {
        Vec::new()
    } else {
        vec!["[lints] workspace = true is missing".to_owned()]
    }
}

/// Paths in `clippy.toml` that must be banned and are not.
pub(crate) fn bans(clippy: &toml::Table, expected: &[&str]) -> Vec<String> {
    let banned: Vec<&str> = [
        "disallowed-types",
        "disallowed-methods",
        "await-holding-invalid-types",
    ]
    .into_iter()
    .filter_map(|key| clippy.get(key)?.as_array())
    .flatten()
    .filter_map(|entry| entry.get("path")?.as_str())
    .collect();
    expected
        .iter()
        .filter(|path| !banned.contains(*path))
        .map(|path| format!("{path} is not banned"))
        .collect()
}

fn place(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

/// The modules of a file below its `src`: `src/call/relay.rs` is call and relay.
pub(crate) fn modules(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = path
        .with_extension("")
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => name.to_str().map(str::to_owned),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => None,
        })
        .collect();
    if let Some(src) = names.iter().rposition(|name| name == "src") {
        names.drain(..=src);
    }
    names
}

/// The rooms that code names: after `crate::`, and after as many `super::` as lead out.
fn used_rooms(code: &str, depth: usize) -> Vec<(usize, String)> {
    let out = "super::".repeat(depth);
    let mut used = Vec::new();
    for prefix in ["crate::", out.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before
                .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':')
            {
                continue;
            }
            let line = 1 + code[..at].matches('\n').count();
            let rest = &code[at + prefix.len()..];
            used.extend(first_names(rest).into_iter().map(|name| (line, name)));
        }
    }
    used
}

/// Names of tests in a table's last column that stand for no test; `name_*` stands for all
/// that begin so.
pub(crate) fn shown_by(text: &str, tests: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").collect();
        // Every second piece between backticks is a name.
        let named = cells.last().map_or("", |cell| *cell).split('`');
        for name in named.skip(1).step_by(2) {
            let found = match name.strip_suffix('*') {
                Some(start) => tests.iter().any(|test| test.starts_with(start)),
                None => tests.iter().any(|test| test == name),
            };
            if !found {
                wrong.push(format!("no test is called {name}"));
            }
        }
        if !row.contains('`') && !row.contains("later: ") && !row.contains("shown by") {
            wrong.push(format!("shown by nothing: {row}"));
        }
    }
    wrong
}

/// The first names of a path or of each path in a group: `{a::b, c}` is a and c.
pub(crate) fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut depth = 0_i32;
    let mut entry = String::new();
    let mut found = Vec::new();
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(name(&std::mem::take(&mut entry))),
            _ => {}
        }
        if letter != ',' {
            entry.push(letter);
        }
    }
    found.push(name(&entry));
    found
}
