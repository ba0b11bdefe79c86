//! The command line: arguments, telemetry, run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use taugate::audit::AuditArgs;
use taugate::client::ask::AskArgs;
use taugate::client::replay::ReplayArgs;
use taugate::clock::SystemClock;
use taugate::config::Config;
use taugate::config::reload::Reloader;
use taugate::demo::DemoArgs;
use taugate::gateway::Gateway;
use taugate::operator::keys::KeyArgs;
use taugate::operator::status::{self, StatusArgs};
use taugate::operator::weights::{self, WeightsArgs};
use taugate::operator::{Failure, Say, check};
use taugate::sidecar::MinerArgs;
use taugate::store::sqlite::backup;
use taugate::telemetry::logs::{Format, start_logs, start_traces, told};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const EXIT_CONFIG: u8 = 64;

/// A capacity-metered gRPC gateway for decentralised inference.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway. Without a file it is a development gateway on loopback.
    Gateway(GatewayArgs),
    /// Show a whole network on this machine: gateway, simulated miners, recorded traffic.
    Demo(DemoArgs),
    /// Put a model server (or a simulated model) behind the miner protocol.
    Miner(MinerArgs),
    /// Ask a gateway; without a prompt, list its tasks.
    Ask(AskArgs),
    /// Replay recorded traffic against a gateway.
    Replay(ReplayArgs),
    /// Show miners and tasks as a running gateway has them.
    Status(StatusArgs),
    /// Print the weights of a running gateway's miners, or how one came about.
    Weights(WeightsArgs),
    /// Print a commented configuration file.
    Init,
    /// Prove a store's books: receipts, counters, grants, checksums. Also while it is in use.
    Audit(AuditArgs),
    /// Look after a store file.
    Store(StoreArgs),
    /// Make, list or revoke API keys of clients, also while a gateway runs.
    Key(KeyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Ends with 0 after a drain, 64 when the configuration is wrong, else 1.")]
struct GatewayArgs {
    /// The configuration file.
    #[arg(long, short, env = "TAUGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Start on a restored backup: nothing of the running period is granted, the next works.
    #[arg(long)]
    freeze_period: bool,
    /// Print the effective configuration, or what would not let it start here (the files that
    /// it names included), and end. Changes nothing.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct StoreArgs {
    /// The configuration file, which names the store.
    #[arg(long, short, env = "TAUGATE_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copy the store, also while a gateway uses it: the copy is of one moment.
    Backup {
        /// The new file.
        file: PathBuf,
    },
}

const SAY: Say = Say {
    print,
    aside,
    complain,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        Command::Gateway(args) => gateway(&args),
        Command::Demo(args) => demo(args),
        Command::Miner(args) => miner(args),
        Command::Ask(args) => ask(args),
        Command::Replay(args) => replay(args),
        Command::Status(args) => show_status(&args),
        Command::Weights(args) => show_weights(&args),
        Command::Init => {
            print(&taugate::config::template());
            Ok(ExitCode::SUCCESS)
        }
        Command::Key(args) => args.run(load, SAY),
        Command::Audit(args) => Ok(args.run(print, complain)),
        Command::Store(args) => store(args),
    };
    ended.unwrap_or_else(|error| {
        complain(&told(error.as_ref()));
        ExitCode::FAILURE
    })
}

/// Writes a command's output. A reader that has seen enough (`| head`) is no fault.
fn print(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", text.trim_end()).ok();
}

/// Says something beside a command's output, which scripts read.
fn aside(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").ok();
}

#[expect(clippy::print_stderr, reason = "this is a command's complaint")]
fn complain(text: &str) {
    eprintln!("taugate: {text}");
}

/// The configuration, or its faults on standard error.
fn load(file: Option<&PathBuf>) -> Result<Config, ExitCode> {
    Config::load(file.map(PathBuf::as_path)).map_err(|error| {
        complain(&told(&error));
        ExitCode::from(EXIT_CONFIG)
    })
}

// --- gateway ---

fn gateway(args: &GatewayArgs) -> Result<ExitCode, Failure> {
    let config = match load(args.config.as_ref()) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    if args.check {
        return Ok(check_config(&config));
    }
    let format = match config.telemetry.log {
        taugate::config::telemetry::LogFormat::Pretty => Format::Pretty,
        taugate::config::telemetry::LogFormat::Json => Format::Json,
    };
    start_logs(format, &config.telemetry.filter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let traces = runtime.block_on(async { start_traces() })?;
    let ended = runtime.block_on(run_gateway(config, args));
    traces.shutdown();
    ended
}

/// The effective configuration, or what would not let a gateway start here.
fn check_config(config: &Config) -> ExitCode {
    let faults = check::faults(config);
    faults.iter().for_each(|fault| complain(fault));
    if !faults.is_empty() {
        return ExitCode::from(EXIT_CONFIG);
    }
    check::remarks(config)
        .iter()
        .for_each(|remark| aside(remark));
    print(&taugate::config::effective(config));
    ExitCode::SUCCESS
}

async fn run_gateway(config: Config, args: &GatewayArgs) -> Result<ExitCode, Failure> {
    let config = Arc::new(config);
    for mark in config.development_marks() {
        tracing::warn!(%mark, "DEVELOPMENT");
    }
    let (opening, clock) = (Arc::clone(&config), Arc::new(SystemClock));
    let gateway = if args.freeze_period {
        Gateway::open_frozen(opening, clock).await?
    } else {
        Gateway::open(opening, clock).await?
    };
    gateway.begin().await;
    let mut reloading = tokio::task::JoinSet::new();
    if let Some(file) = args.config.clone() {
        let (reloader, changes) = Reloader::new(file, config);
        gateway.follow(changes);
        reloading.spawn(reloader.run());
    }
    let at = gateway.addresses();
    tracing::info!(public = %at.public, peer = %at.peer, admin = %at.admin, hotkey = %gateway.hotkey(), "ready");
    let (broken, died) = (gateway.broken(), gateway.died());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        ended = ctrl_c() => ended?,
        () = broken.cancelled() => {
            tracing::error!("the books are broken: ending at once, so that nothing more is booked wrongly");
            return Ok(ExitCode::FAILURE);
        }
        () = died.cancelled() => return Ok(ExitCode::FAILURE),
        Some(_) = reloading.join_next() => {
            tracing::error!("nobody looks at the configuration any more: ending");
            return Ok(ExitCode::FAILURE);
        }
    }
    let again = async { tokio::select!(_ = terminate.recv() => {}, _ = ctrl_c() => {}) };
    tokio::select! {
        ended = gateway.stop() => ended?,
        () = again => {
            tracing::warn!("a second signal: ending at once");
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

// --- demo ---

fn demo(args: DemoArgs) -> Result<ExitCode, Failure> {
    start_logs(Format::Pretty, "error")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("demo")
        .enable_all()
        .build()?;
    let traces = runtime.block_on(async { start_traces() })?;
    let ended = runtime.block_on(taugate::demo::run(args, &mut std::io::stdout()));
    traces.shutdown();
    Ok(if ended? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

// --- miner ---

fn miner(args: MinerArgs) -> Result<ExitCode, Failure> {
    let format = if args.json_logs {
        Format::Json
    } else {
        Format::Pretty
    };
    start_logs(format, "info")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("miner")
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let settings = args.settings(Arc::new(SystemClock)).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = CancellationToken::new();
        let running = taugate::sidecar::run(settings, stop.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return Ok(ended.map(|()| ExitCode::SUCCESS)?),
            _ = terminate.recv() => {}
            ended = ctrl_c() => ended?,
        }
        stop.cancel();
        running.await?;
        Ok(ExitCode::SUCCESS)
    })
}

// --- ask ---

fn ask(args: AskArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut out, mut aside) = (std::io::stdout(), std::io::stderr());
    let asking = taugate::client::ask::run(args, &mut out, &mut aside);
    Ok(match runtime.block_on(asking) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    })
}

// --- replay ---

fn replay(args: ReplayArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("replay")
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let stop = CancellationToken::new();
        let mut out = std::io::stdout();
        let replaying = taugate::client::replay::run(args, stop.clone(), &mut out);
        tokio::pin!(replaying);
        let ended = tokio::select! {
            ended = &mut replaying => ended,
            pressed = ctrl_c() => {
                pressed?;
                stop.cancel();
                replaying.await
            }
        };
        Ok(match ended {
            Ok(report) if report.whole > 0 => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(error.exit_code())
            }
        })
    })
}

// --- status ---

fn show_status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let address = match args.address(load) {
        Ok(address) => address,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let stop = CancellationToken::new();
        let mut out = std::io::stdout();
        let showing = status::run(args, &address, stop.clone(), &mut out);
        tokio::pin!(showing);
        let ended = tokio::select! {
            ended = &mut showing => ended,
            pressed = ctrl_c() => {
                pressed?;
                stop.cancel();
                showing.await
            }
        };
        Ok(match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_enough() => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(error.exit_code())
            }
        })
    })
}

// --- weights ---

fn show_weights(args: &WeightsArgs) -> Result<ExitCode, Failure> {
    let address = match args.address(load) {
        Ok(address) => address,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut out = std::io::stdout();
    let ended = runtime.block_on(weights::run(args, &address, &mut out));
    Ok(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_enough() => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    })
}

// --- store ---

fn store(args: StoreArgs) -> Result<ExitCode, Failure> {
    let config = match load(args.config.as_ref()) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let StoreCommand::Backup { file } = args.command;
    let bar = indicatif::ProgressBar::new(0);
    backup(&config.store.path, &file, |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    print(&format!("copied to {}", file.display()));
    Ok(ExitCode::SUCCESS)
}
