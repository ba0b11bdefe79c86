//! `taugate gateway --check`: what a configuration names is looked at, and nothing is changed.

use std::fs::File;
use std::path::Path;

use crate::config::Config;
use crate::front_door::tls::Tls;
use crate::identity::hotkey::Keypair;
use crate::task::TaskKind;
use crate::telemetry::logs::{check_filter, told};

/// What of a sound configuration would not let a gateway start here, each with its field.
#[must_use]
pub fn faults(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    let mut note = |field: &str, error: &dyn std::error::Error| {
        faults.push(format!("{field}: {}", told(error)));
    };
    if let Err(error) = check_filter(&config.telemetry.filter) {
        note("telemetry.filter", &error);
    }
    if let Some(file) = &config.gateway.hotkey_file
        && let Err(error) = Keypair::load(file)
    {
        note("gateway.hotkey_file", &error);
    }
    if let (Some(cert), Some(key)) = (&config.listen.cert_file, &config.listen.key_file)
        && let Err(error) = Tls::load(cert.clone(), key.clone())
    {
        note("listen.cert_file, listen.key_file", &error);
    }
    if let Err(error) = place(&config.store.path) {
        note("store.path", &error);
    }
    faults
}

/// What will run, but not do what the file seems to ask for.
#[must_use]
pub fn remarks(config: &Config) -> Vec<String> {
    let unserved = config
        .tasks
        .iter()
        .filter(|task| task.kind != TaskKind::Chat);
    let unserved = unserved.map(|task| {
        format!(
            "tasks.{}: only chat is served yet; its calls are refused",
            task.id
        )
    });
    let idle = config.scores.idle().into_iter();
    let idle = idle.map(|(key, needs)| format!("scores.{key}: counts with {needs} only"));
    unserved.chain(idle).collect()
}

/// The store's file is there and can be opened, or its directory is there.
fn place(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return File::options().read(true).write(true).open(path).map(drop);
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    std::fs::metadata(folder.unwrap_or_else(|| Path::new("."))).map(drop)
}
