//! The gateway's configuration: one TOML file, read whole.
//!
//! [`Config::parse`] notes every fault with its field and what would be right, and either
//! gives a [`Config`] of real types or all of the faults. Each section stands in a file of
//! its own, with a `const` and a reason for every default, and names its fields once:
//! the reader, `taugate init` ([`template`]) and `--check` ([`effective`]) all go by that.
//!
//! Closed by default. A listener that others reach needs keys, a hotkey and TLS; without a
//! file at all ([`Config::development`]) everything stays on loopback, and
//! [`Config::development_marks`] says what makes it unfit for more.

mod check;
pub mod drain;
pub mod fault;
mod field;
pub mod gateway;
pub mod keys;
pub mod limits;
pub mod listen;
pub mod load;
pub mod periods;
pub mod planner;
mod reader;
pub mod registry;
pub mod reload;
pub mod reports;
pub mod routing;
pub mod scores;
mod slot;
pub mod store;
pub mod tasks;
pub mod telemetry;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use toml::Table;
use toml::de::DeTable;

use crate::synthetic::PlannerSettings;
use crate::task::Tasks;

use fault::{Fault, Faults, Wrong};
use field::{Section, Values};

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Who this gateway is.
    pub gateway: gateway::Gateway,
    /// Where clients, miners and operators connect.
    pub listen: listen::Listen,
    /// Whether clients must show a key.
    pub keys: keys::Keys,
    /// How long capacity is declared for.
    pub period: periods::Periods,
    /// Where the books are kept.
    pub store: store::Store,
    /// Who may declare what.
    pub registry: registry::Registry,
    /// Who may read what was consumed.
    pub reports: reports::Reports,
    /// Which checks are sent where clients did not ask.
    pub planner: PlannerSettings,
    /// Which miner takes a call.
    pub routing: routing::Routing,
    /// By which rules miners are scored.
    pub scores: scores::Scores,
    /// A bound for everything that could grow.
    pub limits: limits::Limits,
    /// How the gateway stops.
    pub drain: drain::Drain,
    /// Logs and traces.
    pub telemetry: telemetry::Telemetry,
    /// What is asked for, and how it counts.
    pub tasks: Arc<Tasks>,
}

/// Something that is fit for development only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No hotkey was given.
    Hotkey,
    /// Clients need no key.
    Keys,
    /// Any miner may declare.
    Registration,
    /// Any declared model becomes a task.
    Tasks,
    /// Miners need not prove who they are.
    Miners,
    /// Any hotkey reads all reports.
    Reports,
}

/// A section as the file shows it.
pub(crate) struct Heading {
    name: &'static str,
    about: &'static str,
    /// Whether a change is taken over without a restart.
    reloads: bool,
    /// The fields of which the opposite holds.
    but: &'static [&'static str],
}

/// The commented file for `taugate init`: it works at once on loopback, and shows every key.
#[must_use]
pub fn template() -> String {
    writer::template(&Config::development())
}

/// A configuration as a file that means the same, every field included.
#[must_use]
pub fn effective(config: &Config) -> String {
    writer::effective(config)
}

// === impl Config ===

impl Config {
    /// What holds without any file: open, and therefore on loopback only.
    #[must_use]
    pub fn development() -> Self {
        let mut config = Self::default();
        config.keys.required = false;
        config.registry.open_registration = true;
        config.registry.open_tasks = true;
        config.registry.unauthenticated_miners = true;
        config.reports.open = true;
        // Whoever tries it out wants an answer now, not once a miner has proven itself.
        config.planner.bursts.per_period = 0;
        // Whoever tries it out wants to see each call.
        config.telemetry.trace_ratio = 1.0;
        config
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// All faults at once: of syntax, or else of fields and between them.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let table = parse_table(text)?;
        let mut faults = Vec::new();
        let mut config = Self::default();
        let mut known = vec![Heading::TASKS.name];
        for (heading, section) in config.sections() {
            known.push(heading.name);
            if let Some(value) = table.get(heading.name)
                && let Some(table) = reader::table(heading.name, value, &mut faults)
            {
                reader::read(heading.name, table, section, &mut faults);
            }
        }
        if let Some(value) = table.get(Heading::TASKS.name) {
            config.tasks = Arc::new(tasks::read(value, &mut faults));
        }
        reader::unknown("", &table, &known, &mut faults);
        check::check(&config, &mut faults);
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(Faults(faults))
        }
    }

    /// What makes this configuration fit for development only; empty: nothing.
    #[must_use]
    pub fn development_marks(&self) -> Vec<Mark> {
        [
            (self.gateway.hotkey_file.is_none(), Mark::Hotkey),
            (!self.keys.required, Mark::Keys),
            (self.registry.open_registration, Mark::Registration),
            (self.registry.open_tasks, Mark::Tasks),
            (self.registry.unauthenticated_miners, Mark::Miners),
            (self.reports.open, Mark::Reports),
        ]
        .into_iter()
        .filter_map(|(holds, mark)| holds.then_some(mark))
        .collect()
    }

    /// Whether miners may be on this machine and in networks that are not public.
    #[must_use]
    pub fn private_endpoints(&self) -> bool {
        let (listen, registry) = (&self.listen, &self.registry);
        let only_here = listen.peer.ip().is_loopback() && !listen.tls_terminated_in_front;
        registry.private_endpoints.unwrap_or(only_here)
    }

    /// The longest that a call may take, over all tasks and those that a declaration may open.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        let open = tasks::kinds()
            .filter(|_| self.registry.open_tasks)
            .map(|(word, kind)| tasks::task_of(word.into(), kind).limits.total);
        let named = self.tasks.iter().map(|task| task.limits.total);
        open.chain(named).max().unwrap_or_default()
    }

    /// This configuration with all that reloads taken from `newer`, and the fields that differ
    /// and need a restart.
    ///
    /// # Errors
    ///
    /// When what reloads does not fit what stays: keys that are no longer asked for, say,
    /// behind a listener that is still open to everyone.
    pub fn reloaded(&self, newer: &Self) -> Result<(Self, Vec<String>), Faults> {
        let mut next = newer.clone();
        let mut kept = Vec::new();
        let mut running = self.clone();
        for ((heading, new), (_, old)) in next.sections().into_iter().zip(running.sections()) {
            let (new, old) = (Values::of(new), Values::of(old));
            let differ = new
                .0
                .iter()
                .filter(|(key, value)| old.0.get(*key) != Some(value))
                .filter(|(key, _)| heading.reloads == heading.but.contains(key));
            kept.extend(differ.map(|(key, _)| format!("{}.{key}", heading.name)));
        }
        next = Self {
            gateway: gateway::Gateway {
                share: newer.gateway.share,
                ..running.gateway
            },
            keys: newer.keys,
            limits: limits::Limits {
                request_bytes_max: running.limits.request_bytes_max,
                ..newer.limits
            },
            registry: registry::Registry {
                open_registration: newer.registry.open_registration,
                open_tasks: newer.registry.open_tasks,
                hotkeys: newer.registry.hotkeys.clone(),
                metagraph: newer.registry.metagraph.clone(),
                miners_max: newer.registry.miners_max,
                ..running.registry
            },
            tasks: Arc::clone(&newer.tasks),
            ..running
        };
        let mut faults = Vec::new();
        check::check(&next, &mut faults);
        if faults.is_empty() {
            Ok((next, kept))
        } else {
            Err(Faults(faults))
        }
    }

    /// The sections but for the tasks, in the order of the file.
    fn sections(&mut self) -> [(Heading, &mut dyn Section); 13] {
        [
            (Heading::GATEWAY, &mut self.gateway),
            (Heading::LISTEN, &mut self.listen),
            (Heading::KEYS, &mut self.keys),
            (Heading::PERIOD, &mut self.period),
            (Heading::STORE, &mut self.store),
            (Heading::REGISTRY, &mut self.registry),
            (Heading::REPORTS, &mut self.reports),
            (Heading::PLANNER, &mut self.planner),
            (Heading::ROUTING, &mut self.routing),
            (Heading::SCORES, &mut self.scores),
            (Heading::LIMITS, &mut self.limits),
            (Heading::DRAIN, &mut self.drain),
            (Heading::TELEMETRY, &mut self.telemetry),
        ]
    }
}

/// The text as a table, or all faults of its syntax.
fn parse_table(text: &str) -> Result<Table, Faults> {
    let (_, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return text
            .parse()
            .map_err(|error| Faults(vec![syntax(text, &error)]));
    }
    Err(Faults(
        errors.iter().map(|error| syntax(text, error)).collect(),
    ))
}

fn syntax(text: &str, error: &toml::de::Error) -> Fault {
    let before = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.as_bytes()[..before]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count();
    let what = error.message().replace('\n', ", ");
    Fault::new("", Wrong::Syntax { line, what })
}

// === impl Heading ===

impl Heading {
    const GATEWAY: Self = Self {
        but: &["share"],
        ..Self::fixed("gateway", "Who this gateway is.")
    };
    const LISTEN: Self = Self::fixed("listen", "Where clients, miners and operators connect.");
    const KEYS: Self = Self::reloads("keys", "What clients must show.");
    const PERIOD: Self = Self::fixed("period", "How long capacity is declared for.");
    const STORE: Self = Self::fixed("store", "Where the books are kept.");
    const REGISTRY: Self = Self {
        but: &[
            "unauthenticated_miners",
            "private_endpoints",
            "miners_ca_file",
            "miners_cert_file",
            "miners_key_file",
        ],
        ..Self::reloads("registry", "Who may declare what.")
    };
    const REPORTS: Self = Self::fixed("reports", "Who may read what was consumed.");
    const PLANNER: Self = Self::fixed(
        "planner",
        "Which checks are sent where clients did not ask.",
    );
    const ROUTING: Self = Self::fixed("routing", "Which miner takes a call.");
    const SCORES: Self = Self::fixed("scores", "By which rules miners are scored.");
    const LIMITS: Self = Self {
        but: &["request_bytes_max"],
        ..Self::reloads("limits", "A bound for everything that could grow.")
    };
    const DRAIN: Self = Self::fixed("drain", "How the gateway stops on SIGTERM.");
    const TELEMETRY: Self = Self::fixed("telemetry", "Logs and traces.");
    const TASKS: Self = Self::reloads(
        "tasks",
        "What is asked for, and how it counts: one table for each task, under the id that \
         requests name. An id with dots or slashes is quoted: [tasks.\"org/model-1.5\"].",
    );

    const fn fixed(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            reloads: false,
            but: &[],
        }
    }

    const fn reloads(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            reloads: true,
            but: &[],
        }
    }
}

// === impl Mark ===

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hotkey => "no hotkey file: a development hotkey signs",
            Self::Keys => "clients need no key",
            Self::Registration => "any miner may declare",
            Self::Tasks => "any declared model becomes a task",
            Self::Miners => "miners are asked that open no session",
            Self::Reports => "any hotkey reads all reports",
        })
    }
}
