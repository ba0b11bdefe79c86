//! What clients saw and miners handed over, over all starts of the program.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use taugate_ledger::ids::RequestId;

/// A call as its client saw it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// Code points that came.
    pub(crate) code_points: u64,
    /// Of the final message: units, and whether the receipt was said to be durable.
    pub(crate) last: Option<(u64, bool)>,
    /// The round in which it began.
    pub(crate) round: usize,
}

#[derive(Default)]
pub(crate) struct History {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    round: usize,
    calls: HashMap<RequestId, Call>,
    /// Code points that miners handed over for a call.
    sent: HashMap<RequestId, u64>,
    /// Acknowledged since the round began, and in all.
    of_round: usize,
    acknowledged: usize,
    /// Why the last call failed that did.
    failed: String,
}

// === impl Call ===

impl Call {
    /// Whether the client was told that its receipt is durable.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.last.is_some_and(|(_, recorded)| recorded)
    }
}

// === impl History ===

impl History {
    /// A call has begun.
    pub(crate) fn begin(&self, id: RequestId) {
        let mut state = self.state.lock();
        let call = Call {
            round: state.round,
            ..Call::default()
        };
        let before = state.calls.insert(id, call);
        drop(state);
        assert!(before.is_none(), "{id} came twice");
    }

    /// A piece of an answer has come.
    pub(crate) fn got(&self, id: RequestId, code_points: u64) {
        let mut state = self.state.lock();
        state.calls.entry(id).or_default().code_points += code_points;
    }

    /// The final message has come.
    pub(crate) fn completed(&self, id: RequestId, units: u64, recorded: bool) {
        let mut state = self.state.lock();
        state.calls.entry(id).or_default().last = Some((units, recorded));
        if recorded {
            state.of_round += 1;
            state.acknowledged += 1;
        }
    }

    /// A call has failed.
    pub(crate) fn failed(&self, why: &tonic::Status) {
        self.state.lock().failed = format!("{:?} {}", why.code(), why.message());
    }

    /// A miner is about to hand over a piece.
    pub(crate) fn sent(&self, id: RequestId, code_points: u64) {
        *self.state.lock().sent.entry(id).or_default() += code_points;
    }

    /// The program was started again.
    pub(crate) fn begin_round(&self) {
        let mut state = self.state.lock();
        state.round += 1;
        state.of_round = 0;
    }

    /// Receipts that clients were told of.
    pub(crate) fn acknowledged(&self) -> usize {
        self.state.lock().acknowledged
    }

    fn of_round(&self) -> usize {
        self.state.lock().of_round
    }

    /// All calls, with what miners handed over for each.
    pub(crate) fn calls(&self) -> (HashMap<RequestId, Call>, HashMap<RequestId, u64>) {
        let state = self.state.lock();
        (state.calls.clone(), state.sent.clone())
    }

    /// Waits until so many receipts were acknowledged in this round.
    pub(crate) async fn until_acknowledged(&self, wanted: usize, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        while self.of_round() < wanted {
            assert!(
                tokio::time::Instant::now() < deadline,
                "only {} receipts were acknowledged: {}",
                self.of_round(),
                self.state.lock().failed
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
