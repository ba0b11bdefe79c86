//! What must hold between fields.

use std::net::SocketAddr;

use crate::identity::hotkey::Hotkey;
use crate::registry::metagraph::Format;
use crate::task::Task;

use super::Config;
use super::fault::{Fault, Wrong};
use super::reader::under;
use super::tasks::unit_rules_of;

/// Weights are written with a few decimals; their sum is as exact as binary fractions are.
const WEIGHT_SLACK: f64 = 1e-9;

/// Notes what does not fit together. Fields that are wrong by themselves stand in `faults`
/// already; what depends on one of them is not judged.
pub(super) fn check(config: &Config, faults: &mut Vec<Fault>) {
    let own = faults.len();
    listeners(config, faults);
    exposure(config, faults);
    hotkeys(config, faults);
    metagraph(config, faults);
    tasks(config, faults);
    let (wrong, found) = faults.split_at(own);
    let sound: Vec<Fault> = found
        .iter()
        .filter(|fault| !wrong.iter().any(|wrong| clouds(wrong, fault)))
        .cloned()
        .collect();
    faults.truncate(own);
    faults.extend(sound);
}

/// Whether a field that could not be read makes a later finding doubtful: both are of the
/// same table, or it decides over what may be open.
fn clouds(wrong: &Fault, found: &Fault) -> bool {
    if matches!(wrong.wrong, Wrong::UnknownKey { .. }) {
        return false;
    }
    let table = |path: &str| path.split('.').next().map(str::to_owned);
    table(&wrong.path) == table(&found.path)
        || matches!(found.wrong, Wrong::Exposed { .. })
            && ["gateway", "keys", "registry", "reports"]
                .iter()
                .any(|decides| table(&wrong.path).as_deref() == Some(decides))
}

fn listeners(config: &Config, faults: &mut Vec<Fault>) {
    let listen = &config.listen;
    if listen.cert_file.is_some() != listen.key_file.is_some() {
        let (path, needs) = if listen.cert_file.is_some() {
            ("listen.key_file", "is missing; cert_file needs it")
        } else {
            ("listen.cert_file", "is missing; key_file needs it")
        };
        faults.push(Fault::new(path, Wrong::Missing(needs)));
    }
    if listen.peer_client_ca_file.is_some() && !listen.has_tls() {
        let needs = "is missing; peer_client_ca_file needs it";
        faults.push(Fault::new("listen.cert_file", Wrong::Missing(needs)));
    }
    let registry = &config.registry;
    if registry.miners_cert_file.is_some() != registry.miners_key_file.is_some() {
        let (path, needs) = if registry.miners_cert_file.is_some() {
            (
                "registry.miners_key_file",
                "is missing; miners_cert_file needs it",
            )
        } else {
            (
                "registry.miners_cert_file",
                "is missing; miners_key_file needs it",
            )
        };
        faults.push(Fault::new(path, Wrong::Missing(needs)));
    }
    let all = [
        ("listen.public", listen.public),
        ("listen.peer", listen.peer),
        ("listen.admin", listen.admin),
    ];
    for (index, (path, address)) in all.iter().enumerate() {
        // Port 0 is a different free port each time.
        let taken = all[..index].iter().any(|(_, other)| other == address);
        if taken && address.port() != 0 {
            let wrong = Wrong::Conflict {
                found: format!("\"{address}\""),
                rule: "each listener must have an address of its own",
            };
            faults.push(Fault::new(*path, wrong));
        }
    }
}

/// Closed by default: what others reach is guarded, or it is a fault.
fn exposure(config: &Config, faults: &mut Vec<Fault>) {
    let listen = &config.listen;
    let encrypted = listen.has_tls() || listen.tls_terminated_in_front;
    let tls = "set cert_file and key_file, or tls_terminated_in_front";
    let hotkey = config.gateway.hotkey_file.is_some();
    let hotkey_needs = "set gateway.hotkey_file";
    let mut exposed = |path: &str, address: SocketAddr, needs: &[(bool, &'static str)]| {
        if address.ip().is_loopback() {
            return;
        }
        for (_, needs) in needs.iter().filter(|(met, _)| !met) {
            let wrong = Wrong::Exposed { address, needs };
            faults.push(Fault::new(path, wrong));
        }
    };
    exposed(
        "listen.public",
        listen.public,
        &[
            (encrypted, tls),
            (hotkey, hotkey_needs),
            (config.keys.required, "set keys.required = true"),
            (
                !config.registry.open_registration,
                "set registry.open_registration = false",
            ),
        ],
    );
    exposed(
        "listen.peer",
        listen.peer,
        &[
            (encrypted, tls),
            (hotkey, hotkey_needs),
            (
                !config.registry.open_registration,
                "set registry.open_registration = false",
            ),
            (
                !config.registry.open_tasks,
                "set registry.open_tasks = false",
            ),
            (
                !config.registry.unauthenticated_miners,
                "set registry.unauthenticated_miners = false",
            ),
            (!config.reports.open, "set reports.open = false"),
        ],
    );
    exposed(
        "listen.admin",
        listen.admin,
        &[(
            listen.tls_terminated_in_front,
            "set tls_terminated_in_front once a proxy guards it",
        )],
    );
}

fn hotkeys(config: &Config, faults: &mut Vec<Fault>) {
    let miners = config.registry.hotkeys.iter();
    let all = miners.map(|text| ("registry.hotkeys", text)).chain(
        config
            .reports
            .readers
            .iter()
            .map(|text| ("reports.readers", text)),
    );
    for (path, text) in all.filter(|(_, text)| text.parse::<Hotkey>().is_err()) {
        let wrong = Wrong::Conflict {
            found: format!("\"{text}\""),
            rule: "each entry must be an ss58 address of 48 characters that begins with 5",
        };
        faults.push(Fault::new(path, wrong));
    }
}

fn metagraph(config: &Config, faults: &mut Vec<Fault>) {
    let file = config.registry.metagraph.as_ref();
    if let Some(file) = file.filter(|file| Format::of(file).is_none()) {
        let wrong = Wrong::Conflict {
            found: format!("{file:?}"),
            rule: "its name must end in .json or .csv",
        };
        faults.push(Fault::new("registry.metagraph", wrong));
    }
}

fn tasks(config: &Config, faults: &mut Vec<Fault>) {
    let registry = &config.registry;
    let listed = registry.metagraph.is_some() || !registry.hotkeys.is_empty();
    if !registry.open_registration && !listed {
        let needs = "no miner may declare; list them in hotkeys or name a metagraph, or set \
                     open_registration = true";
        faults.push(Fault::new("registry", Wrong::Missing(needs)));
    }
    if config.tasks.is_empty() {
        if !registry.open_tasks {
            let needs = "there are none; add a [tasks.<id>], or set registry.open_tasks = true";
            faults.push(Fault::new("tasks", Wrong::Missing(needs)));
        }
        return;
    }
    let sum: f64 = config.tasks.iter().map(|task| task.weight).sum();
    if (sum - 1.0).abs() > WEIGHT_SLACK {
        faults.push(Fault::new("tasks", Wrong::Weights { sum }));
    }
    for each in config.tasks.iter() {
        task(each, faults);
    }
}

fn task(task: &Task, faults: &mut Vec<Fault>) {
    let path = under("tasks", &task.id);
    let mut conflict = |key: &str, found: String, rule: &'static str| {
        let path = under(&path, key);
        faults.push(Fault::new(path, Wrong::Conflict { found, rule }));
    };
    if !unit_rules_of(task.kind).contains(&task.unit_rule) {
        conflict(
            "unit_rule",
            "one that its kind cannot be counted by".to_owned(),
            "text is counted by \"chars_div_4\", vectors by \"items\", pictures by \"steps\" or \
             \"items\"",
        );
    }
    if task.default_request > task.largest_request {
        conflict(
            "default_request",
            task.default_request.to_string(),
            "it must not be above largest_request",
        );
    }
    if task.growth_factor < task.reserve_factor {
        conflict(
            "growth_factor",
            task.growth_factor.to_string(),
            "it must not be below reserve_factor",
        );
    }
    if let Some(usual) = task.usual
        && usual.unit_s <= 0.0
    {
        conflict(
            "usual_unit_s",
            usual.unit_s.to_string(),
            "usual_overhead_s and usual_variance need the seconds that a unit takes",
        );
    }
    if task.limits.default_deadline > task.limits.total {
        conflict(
            "default_deadline_s",
            task.limits.default_deadline.as_secs().to_string(),
            "it must not be above total_s",
        );
    }
}
