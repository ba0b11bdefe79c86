//! What is known of one call: its instants, its attempts, its units. At settlement it
//! becomes the receipt, the metrics, the log line and the trace: views of one value.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::ids::{CellId, Origin, RequestId};
use taugate_ledger::receipt::{self, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;
use tokio::time::Instant;

use super::Admitted;
use super::delivery::Delivery;
use crate::routing::{Explanation, Sample};
use crate::task::Task;

/// One call, as far as it got.
#[derive(Debug)]
pub struct Record {
    /// Names it.
    pub id: RequestId,
    /// The public id of the client's key.
    pub client: Arc<str>,
    /// What was to be done.
    pub task: Arc<Task>,
    /// Where it came from.
    pub origin: Origin,
    /// When it was admitted, Unix milliseconds.
    pub admitted_ms: u64,
    /// The same instant, monotonic.
    pub admitted_at: Instant,
    /// Units of the prompt.
    pub prompt_units: Units,
    /// Size of the prompt, bytes.
    pub prompt_bytes: usize,
    /// The client's labels.
    pub labels: Vec<(String, String)>,
    /// The dispatches, in order.
    pub attempts: Vec<Attempt>,
    /// SHA-256 over what was delivered; zeros until the answer was whole.
    pub digest: [u8; 32],
}

/// One dispatch to one miner.
#[derive(Debug)]
pub struct Attempt {
    /// The miner's cell.
    pub cell: CellId,
    /// Its hotkey.
    pub hotkey: Arc<str>,
    /// Its number, for metrics.
    pub number: u32,
    /// The candidates that were looked at; only where the client asked.
    pub explanation: Option<Explanation>,
    /// When it was sent.
    pub sent: Instant,
    /// When its first delta came.
    pub first_chunk: Option<Instant>,
    /// When it ended.
    pub ended: Option<Instant>,
    /// What became of it.
    pub outcome: Outcome,
    /// Units booked.
    pub units: Units,
}

// === impl Record ===

impl Record {
    /// The record of a call that was just admitted.
    #[must_use]
    pub fn new(admitted: &Admitted) -> Self {
        Self {
            id: admitted.id,
            client: Arc::clone(&admitted.client),
            task: Arc::clone(&admitted.task),
            origin: admitted.origin,
            admitted_ms: admitted.admitted_ms,
            admitted_at: Instant::now(),
            prompt_units: admitted.prompt_units,
            prompt_bytes: admitted.prompt_bytes,
            labels: admitted.labels.clone(),
            attempts: Vec::new(),
            digest: [0; 32],
        }
    }

    /// The receipt of this call, or of the part of it until now.
    #[must_use]
    pub fn receipt(&self, finish: Finish, quality: Quality, held: &[CellId]) -> Receipt {
        let units = self
            .attempts
            .iter()
            .map(|attempt| attempt.units)
            .sum::<Units>();
        let prompt_units = if units.is_zero() {
            Units::ZERO
        } else {
            self.prompt_units.min(units)
        };
        Receipt {
            call: self.id.call,
            origin: self.origin,
            client: Arc::clone(&self.client),
            task: Arc::clone(&self.task.id),
            admitted_ms: self.admitted_ms,
            finish,
            quality,
            units,
            prompt_units,
            held: held.iter().copied().collect(),
            attempts: self.attempts.iter().map(Attempt::booked).collect(),
            digest: self.digest,
            labels: self.labels.clone(),
            claim: None,
        }
    }

    /// From admission to the last dispatch, milliseconds.
    #[must_use]
    pub fn waited_ms(&self) -> u64 {
        let sent = self.attempts.last().map(|attempt| attempt.sent);
        sent.map_or(0, |sent| micros(self.admitted_at, sent) / 1000)
    }

    /// A miner that refused what another one then answered was not asked anything invalid:
    /// its refusal was a failure.
    pub fn judge_refusals(&mut self) {
        let answered = self
            .attempts
            .iter()
            .any(|attempt| attempt.outcome == Outcome::Good);
        for attempt in self.attempts.iter_mut().filter(|_| answered) {
            if attempt.outcome == Outcome::Refused {
                attempt.outcome = Outcome::Protocol;
            }
        }
    }
}

// === impl Attempt ===

impl Attempt {
    /// From dispatch to the first delta.
    #[must_use]
    pub fn to_first_chunk(&self) -> Option<Duration> {
        self.first_chunk
            .map(|first| first.saturating_duration_since(self.sent))
    }

    /// From dispatch to the end, or until now.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let ended = self.ended.unwrap_or_else(Instant::now);
        ended.saturating_duration_since(self.sent)
    }

    /// What routing learns from this attempt.
    #[must_use]
    pub fn sample(&self, prompt_units: Units) -> Sample {
        Sample {
            first_chunk: self.to_first_chunk(),
            duration: self.duration(),
            units: self.units,
            output: self.units.saturating_sub(prompt_units),
        }
    }

    /// What it delivered, and when.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery {
            cell: self.cell,
            sent: self.sent,
            ended: self.ended.unwrap_or_else(Instant::now),
            units: self.units,
        }
    }

    fn booked(&self) -> receipt::Attempt {
        let ended = self.ended.unwrap_or_else(Instant::now);
        receipt::Attempt {
            cell: self.cell,
            outcome: self.outcome,
            units: self.units,
            first_chunk_us: self.first_chunk.map(|first| micros(self.sent, first)),
            duration_us: micros(self.sent, ended),
        }
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
