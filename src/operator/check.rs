//! `taugate gateway --check`: what a configuration names is looked at, and nothing is changed.

use std::fs::File;
use std::path::Path;

use crate::config::Config;
use crate::identity::hotkey::{DEVELOPMENT, Hotkey, Keypair};
use crate::identity::tls::{ClientFiles, ServerFiles, Tls};
use crate::registry::metagraph::Metagraph;
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
    if let Some(file) = &config.registry.metagraph {
        match (Metagraph::load(file), config.gateway.share) {
            (Err(error), _) => note("registry.metagraph", &error),
            (Ok(metagraph), None) => {
                // Of a hotkey that cannot be read it was told above.
                let own = own(config).and_then(|own| metagraph.share(&own).err());
                own.iter()
                    .for_each(|fault| note("registry.metagraph", fault));
            }
            (Ok(_), Some(_)) => {}
        }
    }
    if let (Some(cert), Some(key)) = (&config.listen.cert_file, &config.listen.key_file)
        && let Err(error) = Tls::load(ServerFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: config.listen.peer_client_ca_file.clone(),
        })
    {
        note("listen.cert_file, listen.key_file", &error);
    }
    let own = config.registry.miners_cert_file.clone();
    if let Err(error) = Tls::load(ClientFiles {
        ca: config.registry.miners_ca_file.clone(),
        own: own.zip(config.registry.miners_key_file.clone()),
    }) {
        note("registry.miners_ca_file, miners_cert_file", &error);
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
    let registry = &config.registry;
    let open = registry.metagraph.is_some() && registry.open_registration;
    let open = open.then(|| {
        "registry.open_registration: any miner may declare, in the metagraph or not".to_owned()
    });
    unserved.chain(idle).chain(open).collect()
}

/// The hotkey that a gateway would have.
fn own(config: &Config) -> Option<Hotkey> {
    let keypair = match &config.gateway.hotkey_file {
        Some(file) => Keypair::load(file).ok(),
        None => Keypair::from_secret(DEVELOPMENT).ok(),
    };
    keypair.map(|keypair| keypair.hotkey())
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
