//! `taugate demo`: a whole network on one machine. A gateway, seven simulated miners of
//! different size and quality on real sockets, one in front of a real model server if there
//! is one, and a client that replays recorded traffic; at the end the proof of the books.

mod checks;
mod network;
mod proof;
mod screen;
mod told;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::network::{Network, TASK};
use self::proof::Proof;
use self::screen::Screen;
use self::told::Told;
use crate::client::Client;
use crate::client::replay::trace::{self, Part};
use crate::client::replay::{self, Plan, positive};
use crate::gateway::StartError;

/// A prompt is cut here: the demo shows books, not how much text a loopback carries.
const PROMPT_TOKENS_MAX: u32 = 300;

/// The length of the first answer, tokens.
const FIRST_TOKENS: u32 = 40;

/// The longest that miners may take to declare.
const DECLARE: Duration = Duration::from_secs(10);

/// Shows a whole network on one machine.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Ends with 0 when the books close, 1 when they do not.")]
pub struct DemoArgs {
    /// Minutes of the recorded hour to replay
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub minutes: f64,
    /// How many times faster than recorded
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
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
    /// Put this OpenAI-compatible server behind one more miner; it gives the first answer
    #[arg(long, value_name = "http://HOST:PORT")]
    pub model: Option<String>,
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
    /// The trace that is shipped, or the part of it.
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
    /// A call's task ended by a bug.
    #[error("a call ended by a bug: {0}")]
    Bug(#[from] tokio::task::JoinError),
    /// The model server's address.
    #[error(transparent)]
    Server(#[from] crate::sidecar::openai::ServerError),
    /// The model server does not say what it has.
    #[error("the model server does not list its models: {0}")]
    Models(#[source] crate::sidecar::model::ModelError),
    /// The model server has none.
    #[error("the model server has no model")]
    NoModel,
    /// A second signal came before the end.
    #[error("ended at once, without a proof")]
    Interrupted,
    /// A histogram's bounds.
    #[error("latencies cannot be counted: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The engine at the end.
    #[error("the books were not closed: {0}")]
    Close(#[from] taugate_ledger::engine::ExchangeError),
    /// The scores.
    #[error("miners cannot be scored: {0}")]
    Score(#[from] crate::scoring::scorer::ScoreError),
    /// The JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Runs the demo and writes what happens to `out`. Answers whether the books close. The
/// first signal to end cuts the traffic short, the second one everything.
///
/// # Errors
/// When something could not be started, or the store could not be read.
pub async fn run(args: DemoArgs, out: &mut (impl Write + Send)) -> Result<bool, DemoError> {
    let stop = CancellationToken::new();
    let ended_at_once = async {
        asked_to_end().await?;
        stop.cancel();
        asked_to_end().await?;
        Err(DemoError::Interrupted)
    };
    // The demo's own futures are large.
    tokio::select! {
        shown = Box::pin(show(args, &stop, out)) => shown,
        ended = ended_at_once => ended,
    }
}

async fn asked_to_end() -> std::io::Result<()> {
    let (mut terminate, mut hang_up) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

async fn show(
    args: DemoArgs,
    stop: &CancellationToken,
    out: &mut (impl Write + Send),
) -> Result<bool, DemoError> {
    let mut network = Network::start(args.period_s).await?;
    writeln!(
        out,
        "A network of miners on this machine; the gateway listens at {}.\n",
        network.address()
    )?;
    // A real model is alone at first, so that it gives the first answer.
    match &args.model {
        Some(server) => network.add_real(server).await?,
        None => network.add_simulated(args.seed).await?,
    }
    let client = network.client().await?;
    let mut told = Told::new()?;
    let first = told::first_answer((&client, &network), &mut told, out);
    if let Some(ended) = stop.run_until_cancelled(first).await {
        ended?;
    }
    if args.model.is_some() {
        network.add_simulated(args.seed).await?;
    }
    let proof = traffic((&client, &network), &args, (told, stop), out).await?;
    writeln!(out, "\n{}\n\n{}\n", proof.table(), proof.checks())?;
    writeln!(out, "{}", proof.verdict())?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&proof)?)?;
    }
    if std::io::stdout().is_terminal() && !stop.is_cancelled() {
        say_what_to_try(&network, out)?;
        stop.cancelled().await;
    }
    let closes = proof.closes();
    network.stop().await?;
    Ok(closes)
}

/// Replays the recorded calls and proves the books.
async fn traffic(
    (client, network): (&Client, &Network),
    args: &DemoArgs,
    (told, stop): (Told, &CancellationToken),
    out: &mut (impl Write + Send),
) -> Result<Proof, DemoError> {
    let part = Part {
        length: Duration::try_from_secs_f64(args.minutes * 60.0).ok(),
        ..Part::default()
    };
    let plan = Plan {
        task: TASK.into(),
        calls: trace::cut(trace::shipped()?, part)?,
        speed: args.speed,
        concurrency: usize::try_from(args.concurrency).unwrap_or(usize::MAX),
        prompt_tokens_max: PROMPT_TOKENS_MAX,
        seed: args.seed,
    };
    let calls = plan.calls.len();
    writeln!(
        out,
        "\nReplaying {calls} recorded calls, {:.0} times as fast:",
        args.speed
    )?;
    let (told, screen) = (Mutex::new(told), Screen::new(calls));
    let began = tokio::time::Instant::now();
    let replaying = replay::drive(client, plan, stop, |heard| told.lock().hear(heard));
    tokio::select! {
        ended = replaying => ended?,
        ended = screen.follow(network, &told, out) => ended?,
    }
    screen.clear();
    let told = told.into_inner();
    let report = told.tally.report(began.elapsed(), stop.is_cancelled());
    Proof::take(network, &told, report).await
}

/// On a terminal the network stays up, to be tried.
fn say_what_to_try(network: &Network, out: &mut (impl Write + Send)) -> std::io::Result<()> {
    let address = network.address();
    writeln!(
        out,
        "\nThe network stays up until Ctrl-C. Try, in another terminal:\n  \
         taugate ask --gateway http://{address}\n  \
         taugate ask --gateway http://{address} --explain \"hello\"\n  \
         taugate replay --gateway http://{address} --minutes 1 --speed 20 --prompt-max 300\n  \
         taugate miner --gateway http://{peer} --listen 127.0.0.1:0 --simulate --task {TASK}\n  \
         grpcurl -plaintext {address} list\n  \
         curl http://{admin}/metrics",
        peer = network.peer(),
        admin = network.admin(),
    )
}

/// A table with these columns.
fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    table
}

/// A part of a whole, for people.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}
