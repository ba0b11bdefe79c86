//! `taugate key`: makes, lists and revokes the API keys of clients, and checks seals.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{Failure, Say};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::identity::api_key::StoredKey;
use crate::identity::key_ring::{KeyGrant, NewKey};
use crate::report::{file as seal_file, seal};
use crate::store::sqlite::{KeyTable, OpenError, SqliteSettings, SqliteStore};

/// What `taugate key` takes.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The configuration file, which names the store.
    #[arg(long, short, env = "TAUGATE_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    #[command(flatten)]
    Stored(StoredKeyCommand),
    /// Check a seal by itself, without a gateway: who signed what, or what is wrong with it.
    VerifySeal {
        /// A `taugate.v1.Seal`: its bytes, or JSON with payload, signature and hotkey.
        file: PathBuf,
        /// The validator that must have signed it, ss58.
        #[arg(long)]
        validator: Option<String>,
    },
}

/// What is done to the keys of a store.
#[derive(Debug, Subcommand)]
enum StoredKeyCommand {
    /// Make a key and print it, this once.
    Create {
        /// What you call it.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: String,
        /// A task that it may ask for; may be given again. Without: all.
        #[arg(long = "task")]
        tasks: Vec<String>,
        /// Let it send checks that are pinned to a miner.
        #[arg(long)]
        check: bool,
        /// Show so many of a thousand of its answers to who judges miners. Without: none.
        #[arg(long, value_name = "PERMILLE", default_value_t = 0,
              value_parser = clap::value_parser!(u16).range(0..=1000))]
        sample: u16,
        /// Send its calls to miners only that have proven their capacity.
        #[arg(long)]
        proven_only: bool,
        /// Refuse it after so many days.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: Option<u64>,
    },
    /// List the keys and when they were last used; never the keys themselves.
    List,
    /// Revoke a key by its public id: a gateway that runs refuses it within seconds. Answers
    /// that are streaming by then go on to their end.
    Revoke {
        /// The eight characters after the second underscore of the key.
        public_id: String,
    },
}

// === impl KeyArgs ===

impl KeyArgs {
    /// Runs the command; `load` reads the configuration that names the store.
    ///
    /// # Errors
    /// When the store cannot be used, a seal's file not be read, or its seal does not hold.
    pub fn run(
        self,
        load: impl FnOnce(Option<&PathBuf>) -> Result<Config, ExitCode>,
        say: Say,
    ) -> Result<ExitCode, Failure> {
        match self.command {
            KeyCommand::VerifySeal { file, validator } => {
                verify_seal(&file, validator.as_deref(), say)
            }
            KeyCommand::Stored(command) => match load(self.config.as_ref()) {
                Ok(config) => command.run(&config, say),
                Err(code) => Ok(code),
            },
        }
    }
}

// === impl StoredKeyCommand ===

impl StoredKeyCommand {
    fn run(self, config: &Config, say: Say) -> Result<ExitCode, Failure> {
        let now_ms = SystemClock.unix_ms();
        match self {
            Self::Create {
                name,
                tasks,
                check,
                sample,
                proven_only,
                days,
            } => {
                for task in tasks.iter().filter(|task| !known(config, task)) {
                    (say.aside)(&format!("note: the configuration names no task {task}"));
                }
                let tasks: Vec<_> = tasks.into_iter().map(Arc::from).collect();
                let lasts = |days: u64| now_ms.saturating_add(days.saturating_mul(86_400_000));
                let grant = KeyGrant {
                    name,
                    tasks: Some(tasks).filter(|tasks| !tasks.is_empty()),
                    check,
                    sample_permille: sample,
                    proven_only,
                    expires_ms: days.map(lasts),
                };
                create(config, grant, now_ms, say)
            }
            Self::List => {
                let keys = kept(config)?.map_or_else(|| Ok(Vec::new()), |keys| keys.all())?;
                if keys.is_empty() {
                    let store = config.store.path.display();
                    (say.aside)(&format!("no key yet in the store {store}"));
                } else {
                    (say.print)(&key_list(&keys, now_ms));
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Revoke { public_id } => {
                let revoke = |mut keys: KeyTable| keys.revoke(&public_id, now_ms);
                if !kept(config)?.map_or(Ok(false), revoke)? {
                    (say.complain)("no key has that public id; `taugate key list` lists them");
                    return Ok(ExitCode::FAILURE);
                }
                (say.aside)(&format!("{public_id} is revoked"));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Whether a key for that task can be used: a configured one, or any that miners open.
fn known(config: &Config, task: &str) -> bool {
    config.registry.open_tasks || config.tasks.iter().any(|known| *known.id == *task)
}

fn create(config: &Config, grant: KeyGrant, now_ms: u64, say: Say) -> Result<ExitCode, Failure> {
    let key = NewKey::make("live", grant, now_ms)?;
    key_table(config)?.put(&key.stored)?;
    (say.print)(key.text());
    let id = &key.stored.public_id;
    (say.aside)(&format!(
        "shown this once; `taugate key revoke {id}` revokes it"
    ));
    Ok(ExitCode::SUCCESS)
}

/// The keys of the configured store; none where no store was ever made, for a look makes none.
fn kept(config: &Config) -> Result<Option<KeyTable>, OpenError> {
    if KeyTable::is_there(&config.store.path)? {
        key_table(config).map(Some)
    } else {
        Ok(None)
    }
}

/// The keys of the configured store, which is made or brought up to date where it has to be.
fn key_table(config: &Config) -> Result<KeyTable, OpenError> {
    let path = &config.store.path;
    if let Some(keys) = KeyTable::open(path)? {
        return Ok(keys);
    }
    let settings = SqliteSettings {
        grace: config.period.grace,
        ..SqliteSettings::default()
    };
    let clock = Arc::new(SystemClock);
    drop(SqliteStore::open(
        path,
        settings,
        clock,
        config.period.length,
    )?);
    KeyTable::open(path)?.ok_or(OpenError::Missing)
}

/// Says whether a seal holds: code 1 when it does not.
fn verify_seal(file: &Path, validator: Option<&str>, say: Say) -> Result<ExitCode, Failure> {
    let mut read = File::open(file)?.take(seal_file::BYTES_MAX);
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes)?;
    let record = seal_file::record(&bytes)?;
    let said = seal::verify(&record).map_err(|fault| format!("the seal does not hold: {fault}"))?;
    if validator.is_some_and(|validator| validator != said.validator) {
        (say.complain)(&format!(
            "the seal is of another validator: {}",
            said.validator
        ));
        return Ok(ExitCode::FAILURE);
    }
    (say.print)(&seal::told(&said));
    Ok(ExitCode::SUCCESS)
}

/// The keys as a table, oldest first.
fn key_list(keys: &[StoredKey], now_ms: u64) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "ID",
        "STATE",
        "NAME",
        "TASKS",
        "MAY",
        "CREATED",
        "EXPIRES",
        "LAST USED",
    ]);
    for key in keys {
        let state = if key.revoked_ms.is_some() {
            "revoked"
        } else if key.expires_ms.is_some_and(|at_ms| now_ms >= at_ms) {
            "expired"
        } else {
            "active"
        };
        let tasks = key.tasks.as_ref().map(|tasks| tasks.join(", "));
        let scopes = key.scopes.iter().map(|scope| scope.as_str());
        let proven_only = key.proven_only.then_some("proven miners only");
        let scopes: Vec<_> = scopes.chain(proven_only).collect();
        let day = |at_ms: Option<u64>| at_ms.map_or_else(|| "never".to_owned(), instant);
        table.add_row([
            key.public_id.to_string(),
            state.to_owned(),
            key.name.to_string(),
            tasks.unwrap_or_else(|| "all".to_owned()),
            scopes.join(", "),
            instant(key.created_ms),
            day(key.expires_ms),
            day(key.last_used_ms),
        ]);
    }
    table.to_string()
}

/// A moment as RFC 3339 writes it, to the second.
fn instant(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: 0 }.to_string()
}
