//! `taugate replay`: recorded traffic against any gateway.
//!
//! The loop is open: a call leaves at its recorded time, whatever became of those before it.
//! Only the bound on calls at once holds it back, and then the report says by how much.

pub mod report;
pub mod trace;
mod words;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::report::{Report, Tally};
use self::trace::{Part, Recorded, TraceError};
use super::reach::Reach;
use super::{Client, ConnectError, Refused, Retries, chat};
use crate::proto::v1;
use crate::proto::v1::stream_generate_response::Event;

/// Replays recorded traffic against a gateway, and says what came of it. Refusals are a
/// result, not a failure.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Ends with 0 when answers came, 1 when not one did, 2 when an argument, the \
                  trace or the task is wrong, 4 when no gateway answers."
)]
pub struct ReplayArgs {
    /// The trace, CSV with TIMESTAMP,ContextTokens,GeneratedTokens; without it, an hour of a
    /// coding service that is shipped
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The task; the first chat task if not given
    #[arg(long, short)]
    pub task: Option<String>,
    /// How many times faster than recorded
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub speed: f64,
    /// Minute of the trace to begin at
    #[arg(long, value_name = "MINUTE", value_parser = not_negative)]
    pub from: Option<f64>,
    /// Minutes of the trace to replay
    #[arg(long, value_parser = positive)]
    pub minutes: Option<f64>,
    /// Calls at most
    #[arg(long, value_name = "CALLS")]
    pub limit: Option<usize>,
    /// Calls at once, at most
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: u32,
    /// Cut prompts to so many tokens
    #[arg(long, value_name = "TOKENS")]
    pub prompt_max: Option<u32>,
    /// Seconds that a call may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = positive)]
    pub deadline_s: f64,
    /// Try a refused call again so often, when the refusal says that it helps
    #[arg(long, default_value_t = 0)]
    pub retries: u32,
    /// Decides the words of prompts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Where it is.
    #[command(flatten)]
    pub reach: Reach,
}

/// Why there was no replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No gateway.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The gateway does not list its tasks.
    #[error("the gateway does not list its tasks: {0}")]
    Tasks(Refused),
    /// No chat task of that name, or none at all.
    #[error("the gateway has no such chat task; it has: {0}")]
    NoTask(String),
    /// The trace's file.
    #[error("cannot open {}: {source}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A call's task ended by a bug.
    #[error("a call ended by a bug: {0}")]
    Bug(#[from] JoinError),
    /// The histogram's precision.
    #[error(transparent)]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The report as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What is replayed, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The task that is asked for.
    pub task: Arc<str>,
    /// The calls, in order of time.
    pub calls: Vec<Recorded>,
    /// How many times faster than recorded; above 0.
    pub speed: f64,
    /// Calls at once, at most; at least 1.
    pub concurrency: usize,
    /// Prompts are cut to so many tokens.
    pub prompt_tokens_max: u32,
    /// Decides the words of prompts.
    pub seed: u64,
}

/// What one call came to.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The gateway's name of the call; empty when no answer began.
    pub request_id: String,
    /// The hotkey of the miner that answered; empty when no answer began.
    pub miner: String,
    /// From the time at which the call was due to its dispatch.
    pub late: Duration,
    /// From its dispatch to the first delta, if there was one.
    pub first_delta: Option<Duration>,
    /// From its dispatch to its end.
    pub total: Duration,
    /// Unicode code points of text that came.
    pub code_points: u64,
    /// What the whole answer cost, or why there is none.
    pub ended: Result<Cost, Refused>,
}

/// What a client was told that a whole answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Units booked.
    pub units: u64,
    /// Of these, charged for the prompt.
    pub prompt_units: u64,
    /// Whether the receipt was durable.
    pub recorded: bool,
}

// === impl ReplayError ===

impl ReplayError {
    /// The command's exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Connect(error) => error.exit_code(),
            Self::NoTask(_) | Self::File { .. } | Self::Trace(_) => 2,
            Self::Tasks(_) | Self::Bug(_) | Self::Histogram(_) | Self::Json(_) | Self::Io(_) => 1,
        }
    }
}

/// Replays, and writes the report to `out`. `stop` ends it early; what runs then is
/// cancelled, and the report says so.
///
/// # Errors
/// When it could not begin, or the report not be written.
pub async fn run(
    args: ReplayArgs,
    stop: CancellationToken,
    out: &mut (impl Write + Send),
) -> Result<Report, ReplayError> {
    let calls = match &args.trace {
        Some(file) => trace::read(std::fs::File::open(file).map_err(|source| {
            let file = file.clone();
            ReplayError::File { file, source }
        })?)?,
        None => trace::shipped()?,
    };
    let calls = trace::cut(calls, args.part())?;
    let client = args
        .reach
        .connect()
        .await?
        .with_deadline(Duration::try_from_secs_f64(args.deadline_s).unwrap_or(Duration::MAX))
        .with_retries(Retries {
            most: args.retries,
            ..Retries::default()
        });
    let task = chat_task(&client, args.task.as_deref()).await?;
    let plan = Plan {
        task,
        calls,
        speed: args.speed,
        concurrency: usize::try_from(args.concurrency).unwrap_or(usize::MAX),
        prompt_tokens_max: args.prompt_max.unwrap_or(u32::MAX),
        seed: args.seed,
    };
    let bar = progress(plan.calls.len());
    let mut tally = Tally::new()?;
    let began = Instant::now();
    let ended = drive(&client, plan, &stop, |heard| {
        tally.add(heard);
        let (calls, without) = tally.progress();
        bar.set_position(calls);
        bar.set_message(format!("{without} without a whole answer"));
    });
    ended.await?;
    bar.finish_and_clear();
    let report = tally.report(began.elapsed(), stop.is_cancelled());
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{}", report.table())?;
    }
    Ok(report)
}

/// Sends the calls of a plan at their times and says what each came to, in the order in
/// which they end. Ends early, and cancels what runs, when `stop` is cancelled.
///
/// # Errors
/// When a call's task panicked.
pub async fn drive(
    client: &Client,
    plan: Plan,
    stop: &CancellationToken,
    mut heard: impl FnMut(Heard),
) -> Result<(), JoinError> {
    let room = Arc::new(Semaphore::new(plan.concurrency));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (seed, call) in (plan.seed..).zip(plan.calls) {
        let due = began + call.at.div_f64(plan.speed);
        let place = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(ended) = running.join_next() => heard(ended?),
                place = at_its_time(due, &room) => break place,
            }
        };
        let tokens = call.context_tokens.min(plan.prompt_tokens_max);
        let (client, task) = (client.clone(), Arc::clone(&plan.task));
        running.spawn(async move {
            let prompt = words::prompt(seed, tokens);
            let request = chat(&task, &prompt, Some(call.generated_tokens.max(1)));
            let late = due.elapsed();
            let heard = ask(&client, &request, late, |_| ()).await;
            drop(place);
            heard
        });
    }
    while let Some(Some(ended)) = stop.run_until_cancelled(running.join_next()).await {
        heard(ended?);
    }
    Ok(())
}

/// A place among the calls at once, not before its time. `None` is never: the semaphore is
/// not closed.
async fn at_its_time(
    due: Instant,
    room: &Arc<Semaphore>,
) -> Option<tokio::sync::OwnedSemaphorePermit> {
    tokio::time::sleep_until(due).await;
    Arc::clone(room).acquire_owned().await.ok()
}

/// One call, from its dispatch to its end; `read` gets the text as it comes.
pub async fn ask(
    client: &Client,
    request: &v1::GenerateRequest,
    late: Duration,
    read: impl FnMut(&str),
) -> Heard {
    let sent = Instant::now();
    let mut heard = Heard {
        request_id: String::new(),
        miner: String::new(),
        late,
        first_delta: None,
        total: Duration::ZERO,
        code_points: 0,
        ended: Ok(Cost::default()),
    };
    heard.ended = listen(client, request, &mut heard, read).await;
    heard.total = sent.elapsed();
    heard
}

async fn listen(
    client: &Client,
    request: &v1::GenerateRequest,
    heard: &mut Heard,
    mut read: impl FnMut(&str),
) -> Result<Cost, Refused> {
    let sent = Instant::now();
    let mut answer = client.stream(request).await?;
    let mut cost = Cost::default();
    while let Some(event) = answer.next().await? {
        match event {
            Event::Progress(_) => {}
            Event::Started(started) => {
                heard.request_id = started.request_id;
                heard.miner = started.miner;
            }
            Event::Delta(delta) => {
                heard.first_delta.get_or_insert_with(|| sent.elapsed());
                for text in [&delta.reasoning, &delta.content, &delta.refusal] {
                    let code_points = text.chars().count();
                    heard.code_points += u64::try_from(code_points).unwrap_or(u64::MAX);
                }
                read(&delta.content);
            }
            Event::Completed(completed) => {
                let usage = completed.usage.unwrap_or_default();
                cost = Cost {
                    units: usage.units,
                    prompt_units: usage.prompt_units,
                    recorded: completed.recorded,
                };
            }
        }
    }
    Ok(cost)
}

/// The chat task of that name, or the first one.
async fn chat_task(client: &Client, name: Option<&str>) -> Result<Arc<str>, ReplayError> {
    let tasks = client.tasks().await.map_err(ReplayError::Tasks)?;
    let mut chats = tasks
        .iter()
        .filter(|task| task.kind() == v1::TaskKind::Chat);
    let found = chats.find(|task| name.is_none_or(|name| task.id == name));
    found
        .map(|task| Arc::from(task.id.as_str()))
        .ok_or_else(|| {
            let ids: Vec<_> = tasks.iter().map(|task| task.id.as_str()).collect();
            ReplayError::NoTask(if ids.is_empty() {
                "none".to_owned()
            } else {
                ids.join(", ")
            })
        })
}

fn progress(calls: usize) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(u64::try_from(calls).ok(), target);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} calls, {msg}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A number above 0, of an argument.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = not_negative(text)?;
    if number > 0.0 {
        Ok(number)
    } else {
        Err("must be above 0".to_owned())
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1e6).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err("must be a number from 0 to 1000000".to_owned()),
    }
}

// === impl ReplayArgs ===

impl ReplayArgs {
    fn part(&self) -> Part {
        // The arguments' bounds leave nothing that a duration cannot hold.
        let minutes =
            |minutes: f64| Duration::try_from_secs_f64(minutes * 60.0).unwrap_or_default();
        Part {
            from: self.from.map_or(Duration::ZERO, minutes),
            length: self.minutes.map(minutes),
            limit: self.limit,
        }
    }
}
