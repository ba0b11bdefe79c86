//! `taugate weights`: what a running gateway scores its miners, asked of its admin listener, and
//! how a score came about.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde_json::json;

use super::status::{Asked, StatusError, reached};
use crate::admin::scores::{Explained, Sheet};
use crate::config::Config;
use crate::identity::hotkey::Hotkey;

/// What `taugate weights` takes.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The weights sum to 1, or all are 0 as long as nothing was checked. Ends with 0 \
                  when they were told, 1 when the gateway could not tell, 2 when an argument was \
                  wrong, 4 when no gateway answers, 64 when the configuration is wrong."
)]
pub struct WeightsArgs {
    /// The configuration file of the gateway, which names its admin listener
    #[arg(long, short, env = "TAUGATE_CONFIG")]
    config: Option<PathBuf>,
    /// The admin listener of the gateway, HOST:PORT, in place of the configuration's
    #[arg(long, value_name = "ADDRESS", env = "TAUGATE_ADMIN")]
    admin: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The scoring profile; the configured one by default
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Show how a miner's weight came about, line by line
    #[arg(long, value_name = "HOTKEY")]
    explain: Option<Hotkey>,
}

/// How weights are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: weights, and the scores by task.
    Table,
    /// For scripts: an object with the profile, the period and the weights.
    Json,
    /// For scripts: uid, hotkey, weight.
    Csv,
}

// === impl WeightsArgs ===

impl WeightsArgs {
    /// Where to ask: `load` reads the configuration when no address is given.
    ///
    /// # Errors
    /// As `load`.
    pub fn address(
        &self,
        load: impl FnOnce(Option<&PathBuf>) -> Result<Config, ExitCode>,
    ) -> Result<String, ExitCode> {
        match &self.admin {
            Some(address) => Ok(address.clone()),
            None => Ok(reached(load(self.config.as_ref())?.listen.admin).to_string()),
        }
    }

    /// The path that asks, under one of [`Sheet::PATH`].
    fn path(&self) -> String {
        let miner = self.explain.map(|miner| format!("/{miner}"));
        let name = self.profile.as_ref().map(|name| {
            let letters = name.bytes().map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            });
            format!("?profile={}", letters.collect::<String>())
        });
        let (miner, name) = (miner.unwrap_or_default(), name.unwrap_or_default());
        format!("{}{miner}{name}", Sheet::PATH)
    }
}

/// Tells the weights, or how one came about.
///
/// # Errors
/// See [`StatusError`].
pub async fn run(
    args: &WeightsArgs,
    address: &str,
    out: &mut (impl Write + Send),
) -> Result<(), StatusError> {
    let asked = Asked::new(address)?;
    let text = if args.explain.is_some() {
        asked.get::<Explained>(&args.path()).await?.text
    } else {
        let sheet: Sheet = asked.get(&args.path()).await?;
        match args.format {
            Format::Table => table(&sheet),
            Format::Json => as_json(&sheet)?,
            Format::Csv => as_csv(&sheet),
        }
    };
    Ok(writeln!(out, "{}", text.trim_end())?)
}

fn table(sheet: &Sheet) -> String {
    if sheet.weights.is_empty() {
        return "no miner offers anything yet".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["uid", "hotkey", "weight", "scores by task"]);
    for row in &sheet.weights {
        let tasks = row.tasks.iter();
        let tasks = tasks.map(|part| format!("{} {:.4}", part.task, part.score));
        table.add_row([
            row.uid.map_or_else(String::new, |uid| uid.to_string()),
            row.hotkey.clone(),
            format!("{:.6}", row.weight),
            tasks.collect::<Vec<_>>().join(", "),
        ]);
    }
    format!("{table}\n\nprofile {}", sheet.profile)
}

fn as_json(sheet: &Sheet) -> Result<String, StatusError> {
    let weights = sheet
        .weights
        .iter()
        .map(|row| json!({ "uid": row.uid, "hotkey": row.hotkey, "weight": row.weight }));
    let all = json!({
        "profile": sheet.profile,
        "period_start_s": sheet.period_start_s,
        "weights": weights.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&all)?)
}

/// Hotkeys and numbers need no quotes.
fn as_csv(sheet: &Sheet) -> String {
    let mut text = String::from("uid,hotkey,weight\n");
    for row in &sheet.weights {
        let uid = row.uid.map_or_else(String::new, |uid| uid.to_string());
        text.push_str(&format!("{uid},{},{}\n", row.hotkey, row.weight));
    }
    text
}
