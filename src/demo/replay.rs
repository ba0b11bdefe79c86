//! The client: replays recorded traffic and remembers what it was told.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DemoError;
use super::network::{Network, TASK};
use crate::client::{Client, Refused, chat};
use crate::proto::v1::stream_generate_response::Event;

/// The recorded hour.
const TRACE: &str = include_str!("../../data/azure_llm_code_2023.csv");

/// A prompt is cut here: the demo shows books, not how much text a loopback carries.
const PROMPT_WORDS_MAX: usize = 200;

/// One recorded call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recorded {
    at: Duration,
    context_tokens: u32,
    generated_tokens: u32,
}

/// How fast calls go out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) speed: f64,
    pub(super) concurrency: usize,
}

/// What the client was told.
#[derive(Debug)]
pub(super) struct Told {
    /// Units by request id, where `recorded` was true.
    pub(super) recorded: BTreeMap<String, u64>,
    /// Whole answers whose receipt was not durable when they ended.
    pub(super) unrecorded: u64,
    /// Calls that brought no whole answer, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// To the first delta, microseconds.
    pub(super) first_us: Histogram<u64>,
    /// To the end, microseconds.
    pub(super) total_us: Histogram<u64>,
}

/// What one call came to.
struct Heard {
    ended: Result<(String, u64, bool), Refused>,
    first: Option<Duration>,
    total: Duration,
}

// === impl Told ===

impl Told {
    pub(super) fn new() -> Result<Self, DemoError> {
        Ok(Self {
            recorded: BTreeMap::new(),
            unrecorded: 0,
            refused: BTreeMap::new(),
            first_us: Histogram::new_with_bounds(1, 600_000_000, 3)?,
            total_us: Histogram::new_with_bounds(1, 600_000_000, 3)?,
        })
    }

    /// Calls that ended, well or not.
    pub(super) fn calls(&self) -> u64 {
        let recorded = u64::try_from(self.recorded.len()).unwrap_or(u64::MAX);
        recorded + self.unrecorded + self.refused.values().sum::<u64>()
    }

    fn hear(&mut self, heard: Heard) {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        match heard.ended {
            Ok((id, units, true)) => drop(self.recorded.insert(id, units)),
            Ok((_, _, false)) => self.unrecorded += 1,
            Err(refused) => *self.refused.entry(refused.reason).or_default() += 1,
        }
        if let Some(first) = heard.first {
            self.first_us.saturating_record(micros(first).max(1));
        }
        self.total_us.saturating_record(micros(heard.total).max(1));
    }
}

/// The calls of the first minutes of the recorded hour.
pub(super) fn read(minutes: f64) -> Result<Vec<Recorded>, DemoError> {
    let mut rows = csv::Reader::from_reader(TRACE.as_bytes());
    let mut calls = Vec::new();
    let mut first = None;
    for row in rows.deserialize::<(String, u32, u32)>() {
        let (at, context_tokens, generated_tokens) = row?;
        let Some(at) = time_of_day(&at) else { continue };
        let at = at.saturating_sub(*first.get_or_insert(at));
        if at.as_secs_f64() > minutes * 60.0 {
            break;
        }
        calls.push(Recorded {
            at,
            context_tokens,
            generated_tokens,
        });
    }
    Ok(calls)
}

/// The time of `2023-11-16 18:17:03.9799600`.
fn time_of_day(text: &str) -> Option<Duration> {
    let mut parts = text.split(' ').nth(1)?.split(':');
    let hours: f64 = parts.next()?.parse().ok()?;
    let minutes: f64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    Duration::try_from_secs_f64(hours.mul_add(3600.0, minutes.mul_add(60.0, seconds))).ok()
}

/// One answer, written as it comes. A miner of the demo fails on purpose: whoever gets it
/// asks again, as a person would.
pub(super) async fn first_answer(
    client: &Client,
    told: &mut Told,
    out: &mut (impl Write + Send),
) -> Result<(), DemoError> {
    const TRIES: u32 = 5;
    let question = "What does a gateway keep?";
    writeln!(out, "> {question}")?;
    for _ in 1..TRIES {
        match answer(client, question, told, out).await {
            Err(DemoError::Refused(refused)) => {
                *told.refused.entry(refused.reason.clone()).or_default() += 1;
                writeln!(out, "\n({refused}; once more)")?;
            }
            ended => return ended,
        }
    }
    answer(client, question, told, out).await
}

async fn answer(
    client: &Client,
    question: &str,
    told: &mut Told,
    out: &mut (impl Write + Send),
) -> Result<(), DemoError> {
    let mut answer = client.stream(&chat(TASK, question, Some(40))).await?;
    let mut id = String::new();
    while let Some(event) = answer.next().await? {
        match event {
            Event::Started(started) => id = started.request_id,
            Event::Delta(delta) => {
                write!(out, "{}", delta.content)?;
                out.flush()?;
            }
            Event::Completed(completed) => {
                let units = completed.usage.map_or(0, |usage| usage.units);
                writeln!(out, "\n({units} units, recorded: {})", completed.recorded)?;
                if completed.recorded {
                    told.recorded.insert(id.clone(), units);
                } else {
                    told.unrecorded += 1;
                }
            }
            Event::Progress(_) => {}
        }
    }
    Ok(())
}

/// Sends the calls at their times, so many at once at most.
pub(super) async fn run(
    (client, network): (&Client, &Network),
    calls: Vec<Recorded>,
    pace: Pace,
    told: &mut Told,
    out: &mut (impl Write + Send),
) -> Result<(), DemoError> {
    let bar = progress(calls.len());
    let (started, room) = (Instant::now(), Arc::new(Semaphore::new(pace.concurrency)));
    let mut running = JoinSet::new();
    let mut said = Instant::now();
    for call in calls {
        tokio::time::sleep_until(started + call.at.div_f64(pace.speed.max(0.01))).await;
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            break;
        };
        let client = client.clone();
        running.spawn(async move {
            let heard = one(&client, call).await;
            drop(place);
            heard
        });
        while let Some(ended) = running.try_join_next() {
            told.hear_ended(ended);
        }
        bar.set_position(told.calls());
        if bar.is_hidden() && said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            let period = network.gateway().books().table().period();
            writeln!(
                out,
                "  {} calls, {} refused, period {period}",
                told.calls(),
                told.refused.values().sum::<u64>()
            )?;
        }
    }
    while let Some(ended) = running.join_next().await {
        told.hear_ended(ended);
        bar.set_position(told.calls());
    }
    bar.finish_and_clear();
    Ok(())
}

impl Told {
    fn hear_ended(&mut self, ended: Result<Heard, tokio::task::JoinError>) {
        match ended {
            Ok(heard) => self.hear(heard),
            Err(_) => {
                *self
                    .refused
                    .entry("CLIENT_PANICKED".to_owned())
                    .or_default() += 1;
            }
        }
    }
}

fn progress(calls: usize) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(u64::try_from(calls).ok(), target);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} calls, {per_sec}, {eta} left");
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

async fn one(client: &Client, call: Recorded) -> Heard {
    let sent = Instant::now();
    let words = (call.context_tokens as usize).clamp(1, PROMPT_WORDS_MAX);
    let request = chat(
        TASK,
        &"lorem ".repeat(words),
        Some(call.generated_tokens.max(1)),
    );
    let mut first = None;
    let ended = hear(client, &request, &mut first).await;
    let first = first.map(|at: Instant| at.saturating_duration_since(sent));
    Heard {
        ended,
        first,
        total: sent.elapsed(),
    }
}

async fn hear(
    client: &Client,
    request: &crate::proto::v1::GenerateRequest,
    first: &mut Option<Instant>,
) -> Result<(String, u64, bool), Refused> {
    let mut answer = client.stream(request).await?;
    let (mut id, mut last) = (String::new(), (0, false));
    while let Some(event) = answer.next().await? {
        match event {
            Event::Started(started) => id = started.request_id,
            Event::Delta(_) => drop(first.get_or_insert_with(Instant::now)),
            Event::Completed(completed) => {
                last = (
                    completed.usage.map_or(0, |usage| usage.units),
                    completed.recorded,
                );
            }
            Event::Progress(_) => {}
        }
    }
    Ok((id, last.0, last.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_hour_is_read_whole_and_in_order() {
        let calls = read(60.0).unwrap();
        assert_eq!(calls.len(), 8_819);
        assert!(calls.is_sorted_by_key(|call| call.at));
        assert_eq!(
            calls
                .iter()
                .map(|call| u64::from(call.generated_tokens))
                .sum::<u64>(),
            245_896
        );
    }
}
