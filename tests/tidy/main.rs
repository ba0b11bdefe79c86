//! Style as a test: layers, lengths, words, and the tables of lints.
//!
//! Each rule is a function from text to findings (`rules`). One test runs it over the tree,
//! another over a text that breaks it, so that a rule that finds nothing is known to look.

mod circles;
mod rules;
mod source;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Every lint that the manifest sets, with its level.
const LINTS: &[(&str, &str, &str)] = &[
    ("rust", "unsafe_code", "forbid"),
    ("rust", "missing_debug_implementations", "warn"),
    ("rust", "missing_docs", "warn"),
    ("rust", "unreachable_pub", "warn"),
    ("rust", "unused_qualifications", "warn"),
    ("rust", "unused_lifetimes", "warn"),
    ("rust", "elided_lifetimes_in_paths", "warn"),
    ("rust", "let_underscore_drop", "warn"),
    ("rust", "rust_2018_idioms", "warn"),
    ("rustdoc", "broken_intra_doc_links", "deny"),
    ("clippy", "unwrap_used", "deny"),
    ("clippy", "dbg_macro", "deny"),
    ("clippy", "todo", "deny"),
    ("clippy", "unimplemented", "deny"),
    ("clippy", "exit", "deny"),
    ("clippy", "print_stdout", "deny"),
    ("clippy", "print_stderr", "deny"),
    ("clippy", "await_holding_lock", "deny"),
    ("clippy", "await_holding_invalid_type", "deny"),
    ("clippy", "let_underscore_future", "deny"),
    ("clippy", "disallowed_methods", "deny"),
    ("clippy", "disallowed_types", "deny"),
    ("clippy", "let_underscore_must_use", "warn"),
    ("clippy", "significant_drop_in_scrutinee", "warn"),
    ("clippy", "significant_drop_tightening", "warn"),
    ("clippy", "large_futures", "warn"),
    ("clippy", "unused_async", "warn"),
    ("clippy", "cast_possible_truncation", "warn"),
    ("clippy", "cast_possible_wrap", "warn"),
    ("clippy", "cast_sign_loss", "warn"),
    ("clippy", "cast_lossless", "warn"),
    ("clippy", "float_cmp", "warn"),
    ("clippy", "too_many_lines", "warn"),
    ("clippy", "too_many_arguments", "warn"),
    ("clippy", "cognitive_complexity", "warn"),
    ("clippy", "fn_params_excessive_bools", "warn"),
    ("clippy", "struct_excessive_bools", "warn"),
    ("clippy", "large_enum_variant", "warn"),
    ("clippy", "result_large_err", "warn"),
    ("clippy", "wildcard_enum_match_arm", "warn"),
    ("clippy", "allow_attributes", "warn"),
    ("clippy", "allow_attributes_without_reason", "warn"),
    ("clippy", "or_fun_call", "warn"),
    ("clippy", "redundant_clone", "warn"),
    ("clippy", "redundant_test_prefix", "warn"),
    ("clippy", "uninlined_format_args", "warn"),
    ("clippy", "semicolon_if_nothing_returned", "warn"),
    ("clippy", "missing_panics_doc", "warn"),
    ("clippy", "mod_module_files", "warn"),
];

/// Everything that `clippy.toml` bans.
const BANS: &[&str] = &[
    "dashmap::mapref::one::Ref",
    "dashmap::mapref::one::RefMut",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::time::Instant",
    "std::time::SystemTime::now",
    "std::env::var",
    "std::env::set_var",
    "tokio::task::spawn",
    "tokio::sync::mpsc::unbounded_channel",
];

/// Folders of what is fetched or built, which is nobody's style.
const FOREIGN: [&str; 6] = [
    ".git",
    "target",
    "peers",
    "data",
    "__pycache__",
    "node_modules",
];

/// What people wrote, by the ends of its files' names.
const WRITTEN: [&str; 12] = [
    "rs", "proto", "toml", "md", "yaml", "yml", "sh", "py", "sql", "html", "css", "js",
];

// === The tree ===

#[test]
fn rooms_use_only_rooms_below() {
    over(&["src"], &["rs"], |path, text| {
        if is_test(path) {
            Vec::new()
        } else {
            rules::layers(path, text)
        }
    });
}

#[test]
fn files_of_a_room_use_each_other_in_no_circle() {
    for place in ["src", "crates/ledger/src"] {
        let read: Vec<(PathBuf, String)> = files(&top().join(place))
            .into_iter()
            .filter(|path| path.extension() == Some(OsStr::new("rs")) && !is_test(path))
            .map(|path| (path.strip_prefix(top()).unwrap().to_owned(), read(&path)))
            .collect();
        assert!(read.len() > 10, "{place} has no sources");
        let wrong = circles::circles(&read);
        assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    }
}

#[test]
fn files_and_functions_are_short() {
    over(&["src", "crates", "build.rs"], &["rs"], |path, text| {
        // Tests of the books are lists of cases.
        if is_test(path) {
            Vec::new()
        } else {
            rules::lengths(text)
        }
    });
}

#[test]
fn names_come_from_the_vocabulary() {
    over(
        &["src", "crates", "proto", "tests", "benches", "examples"],
        &["rs", "proto"],
        |path, text| {
            // The list of those words, and what breaks the rule on purpose.
            if path.starts_with("tests/tidy") {
                Vec::new()
            } else {
                rules::vocabulary(text)
            }
        },
    );
}

#[test]
fn the_books_are_closed_by_their_own_verbs() {
    over(&["crates/ledger/src", "src/books"], &["rs"], |_, text| {
        rules::ledger_verbs(text)
    });
}

#[test]
fn modules_are_named_for_what_is_in_them() {
    over(&["src", "crates"], &["rs"], |path, _| {
        rules::module_names(path)
    });
}

#[test]
fn nothing_names_a_place_on_somebodys_machine() {
    over(&["."], &WRITTEN, |_, text| rules::machine_paths(text));
    over(&[".ci", "deploy"], &["", "Dockerfile"], |_, text| {
        rules::machine_paths(text)
    });
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    over(
        &["src", "crates", "tests", "benches", "build.rs"],
        &["rs"],
        |path, text| {
            // Sources that are meant not to compile show one thing each.
            if is_shown(path) {
                Vec::new()
            } else {
                rules::opening(text)
            }
        },
    );
}

#[test]
fn no_test_is_switched_off() {
    over(&["src", "crates", "tests"], &["rs"], |_, text| {
        rules::test_attributes(text)
    });
}

#[test]
fn every_test_that_is_named_as_proof_is_there() {
    let places = ["src", "crates", "tests"].map(|place| files(&top().join(place)));
    let sources = places.into_iter().flatten();
    let sources = sources.filter(|path| path.extension() == Some(OsStr::new("rs")));
    let tests: Vec<String> = sources
        .flat_map(|path| source::functions(&source::plain(&read(&path))))
        .map(|function| function.name)
        .collect();
    over(&["docs/TESTING.md"], &["md"], |_, text| {
        rules::shown_by(text, &tests)
    });
}

#[test]
fn every_lint_is_on_in_every_package() {
    let manifest = table("Cargo.toml");
    let mut wrong = rules::lint_table(&manifest, LINTS);
    wrong.extend(rules::takes_over_lints(&manifest));
    wrong.extend(rules::takes_over_lints(&table("crates/ledger/Cargo.toml")));
    wrong.extend(rules::bans(&table("clippy.toml"), BANS));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crate_roots_speak_of_the_whole() {
    for root in ["src/lib.rs", "src/main.rs", "crates/ledger/src/lib.rs"] {
        assert_eq!(rules::opening(&read(&top().join(root))), [""; 0], "{root}");
    }
}

// === The rules can fail ===

#[test]
fn an_arrow_up_is_found_however_it_is_written() {
    let found = |path: &str, text: &str| rules::layers(Path::new(path), text).len();
    assert_eq!(found("src/routing.rs", "use crate::call::record;"), 1);
    assert_eq!(
        found("src/routing/cost.rs", "fn f() { crate::store::open() }"),
        1
    );
    assert_eq!(
        found(
            "src/task.rs",
            "use crate::{\n    clock::Clock, registry::{a, b}, call};"
        ),
        2
    );
    assert_eq!(found("src/task.rs", "use super::registry::x;"), 1);
    assert_eq!(
        found("src/call/relay.rs", "use super::super::gateway::x;"),
        1
    );
    assert_eq!(found("src/pantry.rs", ""), 1, "a room that nobody listed");
}

#[test]
fn an_arrow_down_and_what_only_looks_like_one_is_not() {
    let found = |path: &str, text: &str| rules::layers(Path::new(path), text);
    for text in [
        "use crate::registry::snapshot;",
        "use super::choice;",
        "// use crate::gateway;\nconst A: &str = \"crate::gateway\";",
        "#[cfg(test)]\nmod tests {\n    use crate::gateway::{A};\n}",
        "use crate::routing::{choice, cost::{self, gateway}};",
        "use other::crate_::gateway;",
    ] {
        assert_eq!(found("src/routing/cost.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn a_circle_is_found_however_long_it_is() {
    let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let files = [
        file("src/call/a.rs", "use super::{b::B, x};"),
        file("src/call/b.rs", "use crate::call::c::C;"),
        file("src/call/c.rs", "fn f() { super::a::g() }"),
        file("src/call/d.rs", "use super::a::A; // use super::d::D"),
        file("src/call.rs", "pub use a::A;"),
    ];
    assert_eq!(circles::circles(&files).len(), 3);
    assert!(circles::circles(&files[1..]).is_empty());
    let flat = [
        file("crates/x/src/a.rs", "use crate::b::B;"),
        file("crates/x/src/b.rs", "use super::a::A;"),
    ];
    assert_eq!(circles::circles(&flat).len(), 2);
}

#[test]
fn a_long_file_and_a_long_function_are_found() {
    let line = "let a = 1;\n";
    let function = format!("fn long() {{\n{}}}\n", line.repeat(71));
    assert_eq!(rules::lengths(&function), ["line 1: long has 71 lines"]);
    assert_eq!(
        rules::lengths(&format!("fn short() {{\n{}}}\n", line.repeat(70))),
        [""; 0]
    );
    let remarks = format!("fn told() {{\n{}}}\n", "// why\n\nlet a = 1;\n".repeat(70));
    assert_eq!(rules::lengths(&remarks), [""; 0], "remarks are not code");
    assert_eq!(rules::lengths(&"// x\n".repeat(501)).len(), 1);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(600));
    assert_eq!(rules::lengths(&tests), [""; 0]);
    let array = format!("fn bytes() -> [u8; 4] {{\n{}}}\n", line.repeat(71));
    assert_eq!(rules::lengths(&array).len(), 1);
}

#[test]
fn words_of_other_models_are_found() {
    for text in [
        "struct NodePool;",
        "let backend_count = 1;",
        "fn workers() {}",
        "message Volume {}",
        "mod provider;",
    ] {
        assert_eq!(rules::vocabulary(text).len(), 1, "{text}");
    }
    for text in [
        "QuotaFailure",
        "// a worker",
        "\"node\"",
        "let nodes_text = 'n';",
    ] {
        let expected = usize::from(text.starts_with("let nodes"));
        assert_eq!(rules::vocabulary(text).len(), expected, "{text}");
    }
    assert_eq!(
        rules::ledger_verbs("impl A {\n    fn commit(&self) {}\n}").len(),
        1
    );
}

#[test]
fn names_of_modules_that_say_nothing_are_found() {
    for path in [
        "src/call/mod.rs",
        "src/utils.rs",
        "src/call/types.rs",
        "src/core/cell.rs",
    ] {
        assert_eq!(rules::module_names(Path::new(path)).len(), 1, "{path}");
    }
    assert_eq!(rules::module_names(Path::new("src/call/relay.rs")), [""; 0]);
}

#[test]
fn paths_of_a_machine_are_found() {
    for place in ["wo,rk/x", "ro,ot/.cargo", "ho,me/me", "tm,p/x"] {
        let text = format!("see /{}", place.replace(',', ""));
        assert_eq!(rules::machine_paths(&text).len(), 1, "{text}");
    }
    let other = format!("a/frame{}b", "wo,rk/".replace(',', ""));
    assert_eq!(rules::machine_paths(&other), [""; 0]);
}

#[test]
fn a_file_without_an_opening_and_a_test_that_is_off_are_found() {
    assert_eq!(rules::opening("use std::fmt;\n").len(), 1);
    assert_eq!(
        rules::test_attributes("#[test]\n#[ignore = \"slow\"]\nfn a() {}").len(),
        1
    );
    assert_eq!(
        rules::test_attributes("#[test]\n#[should_panic]\nfn a() {}").len(),
        1
    );
}

#[test]
fn a_proof_that_is_not_there_is_found() {
    let tests = ["n1_a".to_owned(), "b".to_owned()];
    let found = |row: &str| rules::shown_by(row, &tests).len();
    assert_eq!(found("| 1 | `c` holds | `n1_*`, `b` |"), 0);
    assert_eq!(found("| 1 | holds | `n2_*`, `n1`, `b` |"), 2);
    assert_eq!(found("| 1 | holds | later: all of it |"), 0);
    assert_eq!(found("| 1 | holds | |"), 1);
}

#[test]
fn a_missing_lint_and_a_missing_ban_are_found() {
    let manifest: toml::Table = "[workspace.lints.rust]\nunsafe_code = \"warn\"\n\
         rust_2018_idioms = { level = \"warn\", priority = -1 }"
        .parse()
        .expect("this is TOML");
    let wrong = rules::lint_table(&manifest, LINTS);
    assert_eq!(
        wrong.len(),
        LINTS.len() - 1,
        "all but the one that is right"
    );
    assert_eq!(rules::takes_over_lints(&manifest).len(), 1);
    assert_eq!(rules::bans(&manifest, BANS).len(), BANS.len());
}

#[test]
fn literals_and_remarks_are_no_code() {
    let text = r##"let a = "x \" y"; let b = r#"raw " z"#; let c = '"'; let d: &'static str; /* e /* f */ */ g '\''"##;
    let plain = source::plain(text);
    for gone in ["x", "y", "raw", "z", "e", "f"] {
        assert!(
            !source::names(&plain).any(|(_, name)| name == gone),
            "{gone}: {plain}"
        );
    }
    for left in ["a", "b", "c", "d", "static", "str", "g"] {
        assert!(
            source::names(&plain).any(|(_, name)| name == left),
            "{left}: {plain}"
        );
    }
    assert_eq!(plain.len(), text.len());
}

// === Walking ===

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn table(path: &str) -> toml::Table {
    read(&top().join(path)).parse().expect("a manifest is TOML")
}

/// Runs a rule over all files below some places whose names end in one of `ends`, and fails
/// with every finding. Places that are not there yet are passed over.
fn over(places: &[&str], ends: &[&str], rule: impl Fn(&Path, &str) -> Vec<String>) {
    let mut wrong = Vec::new();
    for path in places.iter().flat_map(|place| files(&top().join(place))) {
        let end = path.extension().and_then(OsStr::to_str).unwrap_or("");
        if !ends.contains(&end) {
            continue;
        }
        let shown = path.strip_prefix(top()).unwrap_or(&path);
        let found = rule(shown, &read(&path));
        wrong.extend(
            found
                .into_iter()
                .map(|what| format!("{}: {what}", shown.display())),
        );
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn files(place: &Path) -> Vec<PathBuf> {
    WalkDir::new(place)
        .into_iter()
        .filter_entry(|entry| !FOREIGN.iter().any(|name| entry.file_name() == *name))
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// A file of tests that stands beside the code.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

/// A source that a test shows to the compiler.
fn is_shown(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == "ui" || part.as_os_str() == "compile_fail")
}
