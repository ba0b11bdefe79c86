//! `taugate demo`: a whole network on one machine. A gateway, six simulated miners of
//! different size and quality on real sockets, and a client that replays recorded traffic;
//! at the end the proof of the books.

mod network;
mod proof;
mod replay;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::network::Network;
use self::proof::Proof;
use self::replay::{Pace, Told};
use crate::gateway::StartError;

/// Shows a whole network on one machine.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Minutes of the recorded hour to replay
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// How many times faster than recorded
    #[arg(long, default_value_t = 20.0)]
    pub speed: f64,
    /// Calls at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// Length of a period, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub period_s: u32,
    /// Decides texts and faults of the simulated miners
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write what came out as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Why a demo did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No scratch directory, or a file that cannot be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The gateway.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A miner.
    #[error(transparent)]
    Sidecar(#[from] crate::sidecar::SidecarError),
    /// A miner's gateway address.
    #[error(transparent)]
    Address(#[from] crate::sidecar::declare::grpc::NoAddress),
    /// A miner's key.
    #[error(transparent)]
    Secret(#[from] crate::identity::hotkey::SecretError),
    /// The client.
    #[error(transparent)]
    Connect(#[from] crate::client::ConnectError),
    /// No miner declared in time.
    #[error("no miner declared in time")]
    NoMiner,
    /// The first answer did not come.
    #[error("the first answer did not come: {0}")]
    Refused(#[from] crate::client::Refused),
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreFault),
    /// The trace that is shipped.
    #[error("the recorded traffic cannot be read: {0}")]
    Trace(#[from] csv::Error),
    /// A histogram's bounds.
    #[error("latencies cannot be counted: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The engine at the end.
    #[error("the books were not closed: {0}")]
    Close(#[from] taugate_ledger::engine::ExchangeError),
    /// The JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Runs the demo and writes what happens to `out`. Answers whether the books close.
///
/// # Errors
/// When something could not be started, or the store could not be read.
pub async fn run(args: DemoArgs, out: &mut (impl Write + Send)) -> Result<bool, DemoError> {
    let network = Network::start(args.period_s, args.seed).await?;
    writeln!(
        out,
        "A network of simulated miners on this machine; the gateway listens at {}.\n",
        network.address()
    )?;
    let client = network.client().await?;
    let mut told = Told::new()?;
    replay::first_answer(&client, &mut told, out).await?;
    let calls = replay::read(args.minutes)?;
    writeln!(
        out,
        "\nReplaying {} recorded calls, {:.0} times as fast:",
        calls.len(),
        args.speed
    )?;
    let pace = Pace {
        speed: args.speed,
        concurrency: args.concurrency as usize,
    };
    replay::run((&client, &network), calls, pace, &mut told, out).await?;
    let proof = Proof::take(&network, &told).await?;
    writeln!(out, "\n{}", proof.table())?;
    writeln!(out, "{}", proof.verdict())?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&proof)?)?;
    }
    if std::io::stdout().is_terminal() {
        stay(&network, out).await?;
    }
    let closes = proof.closes();
    network.stop().await?;
    Ok(closes)
}

/// On a terminal the network stays up, to be tried.
async fn stay(network: &Network, out: &mut (impl Write + Send)) -> Result<(), DemoError> {
    let address = network.address();
    writeln!(
        out,
        "\nThe network stays up until Ctrl-C. Try, in another terminal:"
    )?;
    writeln!(out, "  taugate ask --gateway http://{address}")?;
    writeln!(
        out,
        "  taugate ask --gateway http://{address} --explain \"hello\""
    )?;
    writeln!(out, "  grpcurl -plaintext {address} list")?;
    writeln!(out, "  curl http://{}/metrics", network.admin())?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// The longest that miners may take to declare.
const DECLARE: Duration = Duration::from_secs(10);
