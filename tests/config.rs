//! The configuration: every fault at once, each with its field; true templates; closed by
//! default.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use taugate::config::fault::{Faults, Wrong};
use taugate::config::tasks::task_of;
use taugate::config::{Config, Mark, effective, template};
use taugate::scoring::Profile;
use taugate::scoring::profile::{CapacityRule, Newcomer, QualityRule};
use taugate::task::{TaskKind, Tasks, UnitRule};

/// What a file needs at least, so that only what a test adds can be wrong.
const LEAST: &str = "[registry]\nopen_registration = true\nopen_tasks = true\n";

fn with(more: &str) -> String {
    format!("{LEAST}\n{more}")
}

fn faults(text: &str) -> Faults {
    Config::parse(text).expect_err("this file is wrong")
}

/// The faults of a file as lines.
fn told(text: &str) -> String {
    faults(text).to_string()
}

// === Faults ===

#[test]
fn every_fault_is_told_at_once_with_its_field_and_what_would_be_right() {
    insta::assert_snapshot!(told(
        r#"
network = "misplaced"

[gateway]
netwrok = "finney"
share = "4/3"
shards = 0

[listen]
public = "localhost"
peer = 50052
key_file = "tls.key"

[period]
length = 3600
grace_s = "2m"

[store]
path = ""
record_wait_ms = 5

[limits]
handshake_s = 5
attempts_max = -1
retry_budget = 15

[routing]
policy = "best"

[scores]
profile = "vision"
decay = 1.5
speed_best = 0.9
bursts = 0
quality = "good"

[drain]
delay_s = 5.5

[telemetry]
log = "xml"
trace_ratio = nan

[tasks.llama]
kind = "chat"
weight = 0.4
wieght = 0.6
default_request = 9000
unit_rule = "steps"

[tasks."org/model-1.5"]
kind = "chats"
total_s = 10

[tasks."two words"]

[tasks.mixtral]
kind = "text_to_image"
weight = "half"
usual_unit_s = 0

[planner]
"#
    ));
}

#[test]
fn every_fault_of_syntax_is_told_with_its_line() {
    insta::assert_snapshot!(told(
        "[gateway\nnetwork = finney\n[listen]\npublic = \"a\npeer = 1\n"
    ));
}

#[test]
fn a_table_in_place_of_a_value_and_a_value_in_place_of_a_table_are_told() {
    insta::assert_snapshot!(told(
        "tasks = 1\nlimits = []\nperiod.length_s.value = 10\nregistry.hotkeys = [1, \"\"]"
    ));
}

#[test]
fn a_long_value_is_not_repeated_whole() {
    let text = with(&format!("[gateway]\nnetwork = \"{}\"", "x".repeat(5000)));
    assert!(told(&text).len() < 300);
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let text = with("[limits]\nwaiting_per_task = 5\nzzz = 1");
    let nearest: Vec<_> = faults(&text)
        .0
        .into_iter()
        .map(|fault| fault.wrong)
        .collect();
    assert_eq!(
        nearest,
        [
            Wrong::UnknownKey {
                nearest: Some("waiting_per_task_max".into())
            },
            Wrong::UnknownKey { nearest: None },
        ]
    );
}

#[test]
fn an_empty_file_says_who_could_not_declare_what() {
    insta::assert_snapshot!(told(""), @r"
    registry: no miner may declare; list them in hotkeys or name a metagraph, or set open_registration = true
    tasks: there are none; add a [tasks.<id>], or set registry.open_tasks = true
    ");
}

// === Weights ===

fn weighted(weights: &[&str]) -> String {
    let tasks: String = weights
        .iter()
        .enumerate()
        .map(|(number, weight)| format!("[tasks.t{number}]\nweight = {weight}\n"))
        .collect();
    with(&tasks)
}

#[test]
fn weights_that_do_not_sum_to_one_are_refused() {
    for wrong in [
        &["0.5", "0.4"][..],
        &["0.9"],
        &["0.6", "0.6"],
        &["0.5", "0.500000002"],
        &["0"],
    ] {
        let told = told(&weighted(wrong));
        assert!(told.contains("they must sum to 1"), "{wrong:?}: {told}");
    }
}

#[test]
fn weights_that_sum_to_one_but_for_binary_fractions_are_taken() {
    // Vision 6: 0.1 ten times over is not exactly 1 in binary.
    let config = Config::parse(&weighted(&["0.1"; 10])).expect("they sum to 1");
    assert_eq!(config.tasks.len(), 10);
    Config::parse(&with("[tasks.only]")).expect("one task has all the weight");
}

#[test]
fn tasks_without_weights_are_alike() {
    let config = Config::parse(&with("[tasks.a]\n[tasks.b]\n[tasks.c]\n[tasks.d]"));
    let config = config.expect("they need no weights");
    assert!(
        config
            .tasks
            .iter()
            .all(|task| task.weight.to_bits() == 0.25_f64.to_bits())
    );
    let told = told(&with("[tasks.a]\nweight = 1.0\n[tasks.b]"));
    assert!(told.contains("they must sum to 1"), "{told}");
}

// === Closed by default ===

const KEYED: &str = "[gateway]\nhotkey_file = \"hotkey\"\n[registry]\nhotkeys = [\"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY\"]\n[tasks.t]\n";

#[test]
fn listeners_that_others_reach_need_keys_a_hotkey_and_tls() {
    insta::assert_snapshot!(told(&with(
        "[keys]\nrequired = false\n[listen]\npublic = \"0.0.0.0:1\"\npeer = \"[::]:2\"\nadmin = \"10.0.0.1:3\""
    )));
}

#[test]
fn listeners_that_are_guarded_may_be_reached() {
    let open = "public = \"0.0.0.0:1\"\npeer = \"[::]:2\"\n";
    let tls = "cert_file = \"a\"\nkey_file = \"b\"\n";
    let in_front = "tls_terminated_in_front = true\n";
    for guarded in [tls, in_front] {
        let text = format!("{KEYED}[listen]\n{open}{guarded}");
        let config = Config::parse(&text).expect("guarded");
        assert_eq!(config.development_marks(), []);
    }
    let halves = told(&format!("{KEYED}[listen]\n{open}cert_file = \"a\""));
    assert!(halves.contains("listen.key_file: is missing"), "{halves}");
    let plain = told(&format!("{KEYED}[listen]\n{open}"));
    assert_eq!(
        plain.matches("set cert_file and key_file").count(),
        2,
        "{plain}"
    );
}

#[test]
fn admin_is_reached_through_a_proxy_only() {
    let admin = "admin = \"0.0.0.0:3\"\n";
    let tls = "cert_file = \"a\"\nkey_file = \"b\"\n";
    let told = told(&format!("{KEYED}[listen]\n{admin}{tls}"));
    assert!(told.contains("listen.admin"), "{told}");
    let in_front = format!("{KEYED}[listen]\n{admin}tls_terminated_in_front = true");
    Config::parse(&in_front).expect("guarded by a proxy");
}

#[test]
fn without_a_file_all_is_open_on_loopback_and_marked() {
    let config = Config::load(None).expect("no file is fine");
    let listen = &config.listen;
    for address in [listen.public, listen.peer, listen.admin] {
        assert!(address.ip().is_loopback());
    }
    assert_eq!(
        config.development_marks(),
        [
            Mark::Hotkey,
            Mark::Keys,
            Mark::Registration,
            Mark::Tasks,
            Mark::Miners,
            Mark::Reports
        ]
    );
}

#[test]
fn a_metagraph_says_by_its_name_how_it_is_written() {
    let listed = |file: &str| {
        let text = format!("[tasks.a]\n[registry]\nmetagraph = \"{file}\"\n");
        Config::parse(&text).map_err(|faults| faults.to_string())
    };
    let config = listed("metagraph.JSON").expect("it is enough to say who may declare");
    assert!(!config.registry.open_registration);
    let wrong = listed("metagraph.txt").expect_err("that is no form");
    assert!(wrong.starts_with("registry.metagraph: "), "{wrong}");
}

#[test]
fn listeners_do_not_share_an_address() {
    let same = told(&with(
        "[listen]\npublic = \"127.0.0.1:9\"\npeer = \"127.0.0.1:9\"",
    ));
    assert!(same.contains("listen.peer"), "{same}");
    let any = with("[listen]\npublic = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"");
    Config::parse(&any).expect("port 0 is a free port each time");
}

// === Real types ===

#[test]
fn values_become_real_types() {
    let config = Config::parse(&with(
        r#"
[gateway]
share = 0.25
[period]
length_s = 10
[limits]
handshake_ms = 250
[tasks.paint]
kind = "inpaint"
weight = 1
ceiling = 9
prompt_factor = 0
total_s = 60
"#,
    ))
    .expect("nothing is wrong");
    let share = config.gateway.share.expect("it is set");
    assert_eq!((share.parts(), share.of()), (1, 4));
    assert_eq!(config.period.length.secs(), 10);
    assert_eq!(config.limits.handshake, Duration::from_millis(250));
    let task = config.tasks.get("paint").expect("it is there");
    assert_eq!(task.kind, TaskKind::Inpaint);
    assert_eq!(task.unit_rule, UnitRule::Steps);
    assert_eq!(task.cap.get(), 4_000, "the default of its kind");
    assert_eq!(task.ceiling.map(taugate_ledger::units::Units::get), Some(9));
    assert_eq!(&*task.model, "paint", "the id where none is given");
    assert_eq!(task.limits.total, Duration::from_secs(60));
}

#[test]
fn the_longest_call_is_that_of_any_task_there_may_be() {
    let named = "[tasks.a]\nweight = 0.5\ntotal_s = 700\n[tasks.b]\nweight = 0.5\n";
    let longest = |text: &str| Config::parse(text).expect("right").longest_call();
    assert_eq!(longest(&with(named)), Duration::from_secs(700));
    let short = "[tasks.a]\ntotal_s = 5\ndefault_deadline_s = 5\n";
    assert_eq!(
        longest(&with(short)),
        Duration::from_secs(600),
        "one may be opened"
    );
    let closed = with(short).replace("open_tasks = true", "open_tasks = false");
    assert_eq!(longest(&closed), Duration::from_secs(5));
}

#[test]
fn a_hotkey_that_is_none_is_told_before_anything_starts() {
    let text = with("").replace("[registry]", "[registry]\nhotkeys = [\"5FakeAddress\"]");
    let told = told(&text);
    assert!(
        told.starts_with("registry.hotkeys: is \"5FakeAddress\""),
        "{told}"
    );
}

#[test]
fn a_kind_is_counted_by_its_own_rules_only() {
    for (kind, rule, fits) in [
        ("chat", "items", false),
        ("embeddings", "chars_div_4", false),
        ("avatar", "items", true),
        ("avatar", "steps", true),
    ] {
        let text = with(&format!(
            "[tasks.t]\nkind = \"{kind}\"\nunit_rule = \"{rule}\""
        ));
        assert_eq!(Config::parse(&text).is_ok(), fits, "{kind} by {rule}");
    }
}

// === What is printed ===

#[test]
fn a_profile_is_taken_with_what_is_changed() {
    let of = |more: &str| {
        let config = Config::parse(&with(&format!("[scores]\n{more}"))).expect("it is right");
        config.scores.effective()
    };
    assert_eq!(of(""), Profile::taugate());
    for name in Profile::NAMES {
        let named = of(&format!("profile = \"{name}\""));
        assert_eq!(Some(named), Profile::named(name));
    }
    let changed = of(
        "profile = \"nineteen-6.3\"\nexponent = 1\ndecay = 0.25\nfailure_exponent = 3\n\
         newcomer = \"ramp\"\nnewcomer_factor = 0.5\nquality = \"paced\"\nspeed_best = 2\n\
         capacity = \"verified\"\nbursts = 7\nperiods_s = 3600\nanswers_s = 7200",
    );
    let expected = Profile {
        failure_exponent: 3.0,
        busy_counts: 1.0,
        decay: 0.25,
        newcomer: Newcomer::Ramp {
            full: 8.0,
            loss: 0.5,
        },
        quality: QualityRule::Paced {
            best: 2.0,
            curve: 0.5,
        },
        exponent: 1.0,
        capacity: CapacityRule::Verified { bursts: 7 },
        periods_s: 3600,
        answers_s: 7200,
    };
    assert_eq!(changed, expected);
    let ranked = of("quality = \"ranked\"\nrank_spread = 1\nspeed_at = 0.5");
    let expected = QualityRule::Ranked {
        power: 1.5,
        squared_up_to: 0.85,
        speed_at: 0.5,
        spread: 1.0,
    };
    assert_eq!(ranked.quality, expected);
    let alone = told(&format!(
        "[registry]\nopen_registration = true\n[tasks.a]\n{}",
        "usual_variance = 3.0"
    ));
    assert!(alone.contains("tasks.a.usual_unit_s"), "{alone}");
}

#[test]
fn the_commented_file_works_at_once() {
    assert_eq!(Config::parse(&template()), Ok(Config::development()));
}

#[test]
fn every_key_and_default_in_the_commented_file_is_true() {
    let uncommented: String = template()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let task = task_of("llama-3-8b".into(), TaskKind::Chat);
    let expected = Config {
        tasks: Arc::new(Tasks::from_iter([task])),
        ..Config::development()
    };
    assert_eq!(Config::parse(&uncommented), Ok(expected));
}

#[test]
fn every_example_in_the_commented_file_can_be_taken() {
    let text = template();
    let examples: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# For example: "))
        .collect();
    assert!(examples.len() >= 5, "{examples:?}");
    let taken = text.replace("# For example: ", "").replace("#[", "[");
    Config::parse(&taken).expect("each example is a right value");
}

#[test]
fn the_commented_file_is_reviewed() {
    insta::assert_snapshot!(template());
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let odd = Config::parse(&with(
        r#"
[gateway]
network = "a \"quoted\" name"
hotkey_file = "/with space/hotkey"
share = "1/3"
shards = 3
[tasks."org/model-1.5:8b"]
weight = 0.30000000000000004
[tasks.b]
kind = "embeddings"
weight = 0.7
ceiling = 12
usual_unit_s = 0.25
[scores]
profile = "vision-2024-07"
exponent = 2.0
capacity = "verified"
"#,
    ))
    .expect("nothing is wrong");
    for config in [Config::development(), odd] {
        assert_eq!(Config::parse(&effective(&config)), Ok(config));
    }
}

// === Whatever comes ===

/// Lines that look like a configuration, right or wrong.
fn line() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "network",
            "share",
            "public",
            "length_s",
            "path",
            "hotkeys",
            "policy",
            "weight",
            "kind",
            "cap",
            "ceiling",
            "total_s",
            "retry_budget",
            "shards",
            "log",
        ])
        .prop_map(str::to_owned),
        "[a-z_]{1,8}",
        "\"[^\"\\\\]{0,5}\"",
    ];
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        prop::sample::select(vec![
            "true",
            "[]",
            "{}",
            "[[1]]",
            "1979-05-27",
            "inf",
            "-nan"
        ])
        .prop_map(str::to_owned),
        ".{0,12}".prop_map(|text| toml::Value::String(text).to_string()),
    ];
    let table = prop_oneof![
        prop::sample::select(vec![
            "gateway",
            "listen",
            "keys",
            "period",
            "store",
            "registry",
            "routing",
            "limits",
            "drain",
            "telemetry",
            "tasks",
            "tasks.a",
            "tasks.\"b/c\"",
            "tasks.a.b",
        ])
        .prop_map(str::to_owned),
        "[a-z.]{1,8}",
    ];
    prop_oneof![
        3 => (key, value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        1 => table.prop_map(|table| format!("[{table}]\n")),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        if let Err(faults) = Config::parse(&text) {
            prop_assert!(!faults.0.is_empty());
            prop_assert!(!faults.to_string().is_empty());
        }
    }

    #[test]
    fn no_toml_makes_it_panic_and_what_is_taken_reads_back(
        lines in prop::collection::vec(line(), 0..30)
    ) {
        for text in [lines.concat(), with(&lines.concat())] {
            if let Ok(config) = Config::parse(&text) {
                prop_assert_eq!(Config::parse(&effective(&config)), Ok(config));
            }
        }
    }

    #[test]
    fn sums_are_judged_by_their_value(parts in prop::collection::vec(1_u32..1000, 1..20)) {
        let whole: u32 = parts.iter().sum();
        let weights: Vec<String> = parts
            .iter()
            .map(|part| (f64::from(*part) / f64::from(whole)).to_string())
            .collect();
        let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
        prop_assert!(Config::parse(&weighted(&weights)).is_ok());
    }
}
