//! `taugate ask`: a client for the shell.

use std::io::{IsTerminal as _, Read as _, Write};

use clap::Args;
use serde::Serialize;

use super::reach::Reach;
use super::{Answer, ConnectError, Refused, chat, message};
use crate::proto::v1;
use crate::proto::v1::stream_generate_response::Event;

/// What stands in place of the tasks where there is none.
const NO_TASK: &str = "no task yet: no miner has declared one";

/// Asks a gateway; without a prompt it lists the tasks.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Ends with 0 when the whole answer came, 1 when it broke off or was refused, \
                  2 when an argument or the request was wrong, 3 when there was no capacity, 4 \
                  when no gateway answers."
)]
pub struct AskArgs {
    /// What to ask; `-` reads it from standard input. Without it the tasks are listed
    pub prompt: Option<String>,
    /// The task; may be left out where there is one only
    #[arg(long, short)]
    pub task: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub reach: Reach,
    /// The most tokens to write
    #[arg(long)]
    pub max_tokens: Option<u32>,
    /// How freely tokens are drawn, 0 to 2
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Repeats a draw where the model allows it
    #[arg(long)]
    pub seed: Option<i64>,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Say how the miner was chosen, on standard error
    #[arg(long)]
    pub explain: bool,
    /// Print one JSON object when the answer is whole, instead of the text as it comes
    #[arg(long)]
    pub json: bool,
}

/// An answer as JSON.
#[derive(Debug, Default, Serialize)]
struct Told {
    request_id: String,
    miner: String,
    content: String,
    reasoning: String,
    refusal: String,
    finish_reason: String,
    units: u64,
    prompt_units: u64,
    recorded: bool,
}

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No gateway.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Somebody answers, but no gateway: a proxy, or one that wants TLS.
    #[error("no gateway speaks there ({}); is it http:// or https://, and the port for clients?", bare(.0))]
    Stranger(Refused),
    /// The gateway refused, or the answer broke off.
    #[error("{}", advice(.0))]
    Refused(#[from] Refused),
    /// Which task is meant.
    #[error("there are {0} tasks; name one with --task")]
    WhichTask(usize),
    /// There is none yet.
    #[error("{NO_TASK}")]
    NoTask,
    /// The answer as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The terminal or standard input.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

// === impl AskError ===

impl AskError {
    /// The command's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Connect(error) => error.exit_code(),
            Self::Stranger(_) => 4,
            Self::WhichTask(_) => 2,
            Self::NoTask | Self::Io(_) | Self::Json(_) => 1,
            Self::Refused(refused) if refused.reason == "NO_CAPACITY" => 3,
            Self::Refused(refused) if !refused.fields.is_empty() => 2,
            Self::Refused(_) => 1,
        }
    }
}

/// What became of a call that did not begin.
fn refused(refused: Refused) -> AskError {
    if refused.has_reason() {
        AskError::Refused(refused)
    } else {
        AskError::Stranger(refused)
    }
}

/// What a stranger said, which is often nothing but a code.
fn bare(refused: &Refused) -> String {
    if refused.message.is_empty() {
        refused.reason.clone()
    } else {
        refused.to_string()
    }
}

/// A refusal with what to do about it.
fn advice(refused: &Refused) -> String {
    let mut text = format!("{} ({})", refused.message, refused.reason);
    for (field, fault) in &refused.fields {
        text.push_str(&format!("\n  {field}: {fault}"));
    }
    if let Some(hint) = hint(&refused.reason) {
        text.push_str(&format!("\n  {hint}"));
    }
    match refused.retry_after {
        Some(wait) if !wait.is_zero() => {
            text.push_str(&format!("\n  try again in {:.1} s", wait.as_secs_f64()));
        }
        Some(_) => text.push_str("\n  try again"),
        None => {}
    }
    text
}

/// What helps, where the message does not say it.
fn hint(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "UNAUTHENTICATED" => {
            "give a key that holds by --key or TAUGATE_KEY; the miners' port takes no keys"
        }
        "FORBIDDEN" => "the key does not allow this; ask who gave it",
        "TASK_NOT_FOUND" => "`taugate ask` without a prompt lists the tasks",
        "NO_MINER" => "a miner has to declare the task first: `taugate miner --help`",
        "DEADLINE" => "ask for less by --max-tokens",
        "MINER_LOST" | "MINER_STALLED" | "MINER_PROTOCOL" => {
            "what came was booked; ask again for a whole answer"
        }
        _ => return None,
    })
}

/// Asks, and writes the answer to `out` and what is said about it to `aside`.
///
/// # Errors
/// When no whole answer came.
pub async fn run(
    args: AskArgs,
    out: &mut (impl Write + Send),
    aside: &mut (impl Write + Send),
) -> Result<(), AskError> {
    let client = args.reach.connect().await?;
    let Some(prompt) = &args.prompt else {
        let tasks = client.tasks().await.map_err(refused)?;
        return Ok(writeln!(out, "{}", table(&tasks))?);
    };
    let task = match &args.task {
        Some(task) => task.clone(),
        None => only_task(client.tasks().await.map_err(refused)?)?,
    };
    let prompt = if prompt == "-" {
        read_all()?
    } else {
        prompt.clone()
    };
    let mut request = chat(&task, &prompt, args.max_tokens);
    request.explain = args.explain;
    if let Some(v1::generate_request::Payload::Chat(chat)) = &mut request.payload {
        chat.sampling = Some(v1::Sampling {
            temperature: args.temperature,
            seed: args.seed,
            ..v1::Sampling::default()
        });
        if let Some(system) = &args.system {
            chat.messages.insert(0, message(v1::Role::System, system));
        }
    }
    let answer = client.stream(&request).await.map_err(refused)?;
    if args.json {
        let told = fold(answer).await?;
        Ok(writeln!(out, "{}", serde_json::to_string(&told)?)?)
    } else {
        relay(answer, out, aside).await
    }
}

/// All of an answer.
async fn fold(mut answer: Answer) -> Result<Told, AskError> {
    let mut told = Told::default();
    while let Some(event) = answer.next().await? {
        match event {
            Event::Progress(_) => {}
            Event::Started(started) => {
                (told.request_id, told.miner) = (started.request_id, started.miner);
            }
            Event::Delta(delta) => {
                told.content.push_str(&delta.content);
                told.reasoning.push_str(&delta.reasoning);
                told.refusal.push_str(&delta.refusal);
            }
            Event::Completed(completed) => {
                let finish = completed.choices.first().map(v1::ChoiceEnd::finish_reason);
                told.finish_reason =
                    word(finish.unwrap_or_default().as_str_name(), "FINISH_REASON_");
                let usage = completed.usage.unwrap_or_default();
                (told.units, told.prompt_units) = (usage.units, usage.prompt_units);
                told.recorded = completed.recorded;
            }
        }
    }
    Ok(told)
}

async fn relay(
    mut answer: Answer,
    out: &mut (impl Write + Send),
    aside: &mut (impl Write + Send),
) -> Result<(), AskError> {
    while let Some(event) = answer.next().await? {
        match event {
            Event::Progress(_) => {}
            Event::Started(started) => {
                if let Some(explanation) = &started.explanation {
                    writeln!(aside, "{}", explained(explanation))?;
                }
            }
            Event::Delta(delta) => {
                write!(out, "{}{}", delta.content, delta.refusal)?;
                out.flush()?;
            }
            Event::Completed(completed) => {
                writeln!(out)?;
                let units = completed.usage.map_or(0, |usage| usage.units);
                let recorded = if completed.recorded {
                    "recorded"
                } else {
                    "not recorded yet"
                };
                writeln!(aside, "{units} units, {recorded}")?;
            }
        }
    }
    Ok(())
}

fn only_task(mut tasks: Vec<v1::TaskInfo>) -> Result<String, AskError> {
    match (tasks.pop(), tasks.is_empty()) {
        (Some(task), true) => Ok(task.id),
        (Some(_), false) => Err(AskError::WhichTask(tasks.len() + 1)),
        (None, _) => Err(AskError::NoTask),
    }
}

fn read_all() -> std::io::Result<String> {
    let mut text = String::new();
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(text);
    }
    // As much as a request may hold.
    stdin.lock().take(1024 * 1024).read_to_string(&mut text)?;
    Ok(text)
}

fn table(tasks: &[v1::TaskInfo]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(["task", "kind", "units", "largest", "miners", "left"]);
    for task in tasks {
        table.add_row([
            task.id.clone(),
            word(task.kind().as_str_name(), "TASK_KIND_"),
            task.unit_rule.clone(),
            task.largest_request.to_string(),
            task.miners.to_string(),
            word(task.capacity_left().as_str_name(), "CAPACITY_LEFT_"),
        ]);
    }
    if tasks.is_empty() {
        NO_TASK.to_owned()
    } else {
        table.to_string()
    }
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix)
        .to_lowercase()
        .replace("unspecified", "unknown")
}

fn explained(explanation: &v1::Explanation) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(["miner", "score", "units left", "in flight", "verdict"]);
    for candidate in &explanation.candidates {
        table.add_row([
            candidate.miner.clone(),
            candidate
                .score
                .map_or_else(|| "-".to_owned(), |score| format!("{score:.3}")),
            candidate.units_free.to_string(),
            candidate.in_flight.to_string(),
            candidate.verdict.clone(),
        ]);
    }
    format!(
        "chosen by {} after {} ms\n{table}",
        explanation.policy, explanation.waited_ms
    )
}
