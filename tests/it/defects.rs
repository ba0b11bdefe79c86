//! Defects that systems before this one had: each test names the one that it keeps out.

mod books;
mod chaos;
mod panics;
mod periods;
mod restarts;
mod streams;
pub(crate) mod traces;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use taugate::proto::v1;
use taugate::task::Task;
use taugate_ledger::receipt::Outcome;

use crate::support::{Heard, TASK, TestGateway};

/// How often each outcome stands in the durable counters.
type Outcomes = BTreeMap<&'static str, u64>;

/// A gateway whose one task was changed.
async fn with_task(change: impl FnOnce(&mut Task)) -> TestGateway {
    let mut task = Task::open_chat(TASK.into());
    task.weight = 1.0;
    change(&mut task);
    TestGateway::with(|config| config.tasks = Arc::new([task].into_iter().collect())).await
}

/// The outcomes of all attempts, once nothing is reserved and every receipt is durable.
async fn outcomes(gateway: &TestGateway) -> Outcomes {
    gateway.posted().await;
    let period = gateway.gateway.books().table().period();
    let tallies = gateway.gateway.store().tallies(period).await;
    let mut outcomes = Outcomes::new();
    for row in tallies.expect("the store answers") {
        for (outcome, count) in Outcome::ALL.into_iter().zip(row.attempts) {
            if count > 0 {
                *outcomes.entry(outcome.as_str()).or_default() += count;
            }
        }
    }
    outcomes
}

/// What `later` has more than `before`.
fn since(before: &Outcomes, later: &Outcomes) -> Outcomes {
    let more = later.iter().filter_map(|(outcome, count)| {
        let more = count - before.get(outcome).copied().unwrap_or(0);
        (more > 0).then_some((*outcome, more))
    });
    more.collect()
}

/// Reads a stream until its first delta.
async fn first_delta(events: &mut tonic::Streaming<v1::StreamGenerateResponse>) -> Heard {
    let mut heard = Heard::default();
    while heard.text.is_empty() {
        let event = events.message().await.expect("no end yet");
        heard.add(event.expect("no end yet"));
    }
    heard
}

/// The units of a text by the rule of the task.
fn units(text: &str) -> u64 {
    text.chars().count().div_ceil(4) as u64
}

/// The payload of a chat.
fn payload(request: &mut v1::GenerateRequest) -> &mut v1::ChatPayload {
    match &mut request.payload {
        Some(v1::generate_request::Payload::Chat(chat)) => chat,
        Some(_) | None => panic!("a chat"),
    }
}

/// The receipts that the journal has room for.
fn free_slots(gateway: &TestGateway) -> usize {
    let books = gateway.gateway.books();
    let period = books.table().period();
    let slots: Vec<_> = std::iter::from_fn(|| books.slot(period)).collect();
    slots.len()
}

/// Long enough for a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);
