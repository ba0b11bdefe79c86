//! Who sees a call's answer beside its client, so that it can be judged.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::ids::{CellId, Origin, RequestId};
use taugate_ledger::receipt::{Finish, Outcome};
use taugate_ledger::units::Units;

use super::record::Record;
use super::whole::Whole;
use crate::proto::v1;
use crate::task::Task;

/// Hears once how a call ended. It must neither wait nor panic: the call's books are closed,
/// but its client still waits for the last message.
type Tell = Box<dyn FnOnce(Seen) + Send + Sync>;

/// Sees one call.
pub struct Witness {
    whole: Whole,
    tell: Tell,
}

/// A call that has ended, as it was seen.
#[derive(Debug)]
pub struct Seen {
    /// Names it.
    pub id: RequestId,
    /// What was asked for.
    pub task: Arc<Task>,
    /// Where it came from.
    pub origin: Origin,
    /// How it ended.
    pub finish: Finish,
    /// Its last attempt; `None`: nothing was sent.
    pub attempt: Option<SeenAttempt>,
    /// Units charged for the prompt.
    pub prompt_units: Units,
    /// What was handed to the client, choice by choice; no usage.
    pub response: v1::GenerateResponse,
}

/// The attempt that made the answer.
#[derive(Clone, Debug)]
pub struct SeenAttempt {
    /// The miner's cell.
    pub cell: CellId,
    /// The miner's hotkey, ss58.
    pub hotkey: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
    /// Units booked, prompt included.
    pub units: Units,
    /// From dispatch to the first delta.
    pub first_chunk: Option<Duration>,
    /// From dispatch to the end.
    pub duration: Duration,
}

// === impl Witness ===

impl Witness {
    /// Tells what it saw when the call's books are closed.
    #[must_use]
    pub fn new(tell: impl FnOnce(Seen) + Send + Sync + 'static) -> Self {
        Self {
            whole: Whole::default(),
            tell: Box::new(tell),
        }
    }

    pub(super) fn delta(&mut self, delta: &v1::Delta) {
        self.whole.delta(delta);
    }

    pub(super) fn ends(&mut self, ends: &[v1::ChoiceEnd]) {
        self.whole.ends(ends.iter().copied());
    }

    pub(super) fn tell(self, record: &Record, finish: Finish) {
        let mut response = self.whole.into_response();
        response.request_id = record.id.to_string();
        let attempt = record.attempts.last().map(|attempt| SeenAttempt {
            cell: attempt.cell,
            hotkey: Arc::clone(&attempt.hotkey),
            outcome: attempt.outcome,
            units: attempt.units,
            first_chunk: attempt.to_first_chunk(),
            duration: attempt.duration(),
        });
        if let Some(attempt) = &attempt {
            response.miner = attempt.hotkey.to_string();
        }
        (self.tell)(Seen {
            id: record.id,
            task: Arc::clone(&record.task),
            origin: record.origin,
            finish,
            prompt_units: record.prompt_units,
            attempt,
            response,
        });
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}
