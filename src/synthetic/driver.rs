//! Sends checks the way of clients' requests: through the same calls, over the same connections.
//!
//! A shard's connections to miners carry its clients' requests. A connection that carried checks
//! alone would give them away, so that a check goes through the pool of the request whose shape
//! it has.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use taugate_ledger::ids::Origin;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::judge::Judge;
use super::prompt::{self, Prompts};
use super::{Check, CheckEnd, Checks};
use crate::call::order::{Order, Prompt as Measured};
use crate::call::witness::{Seen, Witness};
use crate::call::{Admitted, Answer, Calls};
use crate::miner_client::Pool;
use crate::proto::v1;

/// Checks that wait for a shard.
const WAITING_MAX: usize = 256;

/// A check that a shard is to start.
struct Errand {
    admitted: Admitted,
    started: oneshot::Sender<Answer>,
}

/// The ways to the shards, in the order of their pools.
#[derive(Debug, Default)]
pub struct Lanes(Mutex<Vec<Lane>>);

#[derive(Debug)]
struct Lane {
    pool: u32,
    errands: mpsc::Sender<Errand>,
}

/// Sends checks.
#[derive(Debug)]
pub struct Driver {
    calls: Arc<Calls>,
    prompts: Prompts,
    lanes: Arc<Lanes>,
    judge: Arc<Judge>,
}

// === impl Lanes ===

impl Lanes {
    /// Opens the way to a shard; to be called on its runtime, with its pool.
    pub fn open(&self, calls: &Arc<Calls>, pool: &Arc<Pool>) {
        let (errands, mut waiting) = mpsc::channel::<Errand>(WAITING_MAX);
        let (calls, way) = (Arc::clone(calls), Arc::clone(pool));
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its runtime, which a shard owns"
        )]
        tokio::task::spawn(async move {
            while let Some(errand) = waiting.recv().await {
                let answer = calls.start(&way, errand.admitted);
                // Who does not wait any more drops the answer, and that cancels the call.
                drop(errand.started.send(answer));
            }
        });
        self.0.lock().push(Lane {
            pool: pool.number(),
            errands,
        });
    }

    /// The way to the shard of that pool, or to any.
    fn to(&self, pool: Option<u32>) -> Option<mpsc::Sender<Errand>> {
        let lanes = self.0.lock();
        let same = |lane: &&Lane| Some(lane.pool) == pool;
        let lane = lanes.iter().find(same).or_else(|| lanes.first());
        let errands = lane.map(|lane| lane.errands.clone());
        drop(lanes);
        errands
    }
}

// === impl Driver ===

impl Driver {
    /// A driver over these calls. What its checks bring is judged.
    #[must_use]
    pub const fn new(
        calls: Arc<Calls>,
        prompts: Prompts,
        lanes: Arc<Lanes>,
        judge: Arc<Judge>,
    ) -> Self {
        Self {
            calls,
            prompts,
            lanes,
            judge,
        }
    }

    /// The same with other prompts.
    #[must_use]
    pub fn with(&self, prompts: Prompts) -> Self {
        Self {
            calls: Arc::clone(&self.calls),
            prompts,
            lanes: Arc::clone(&self.lanes),
            judge: Arc::clone(&self.judge),
        }
    }

    async fn send(&self, check: Check) -> Option<CheckEnd> {
        let books = &self.calls.books;
        if self.calls.running.is_closed() || books.broken().is_cancelled() {
            return None;
        }
        let period = books.table().period();
        let prompt = self.prompts.make(&check, period, &self.calls.shapes).await;
        let lane = self.lanes.to(prompt.pool)?;
        let request = v1::GenerateRequest {
            task: check.task.id.to_string(),
            payload: Some(v1::generate_request::Payload::Chat(prompt.chat.clone())),
            check: Some(v1::CheckTarget {
                miner: check.hotkey.to_string(),
            }),
            ..v1::GenerateRequest::default()
        };
        let (admitted, told) = self.admit(check, prompt)?;
        let (started, answer) = oneshot::channel();
        lane.send(Errand { admitted, started }).await.ok()?;
        let mut answer = answer.await.ok()?;
        // Read as it comes, as a client does.
        while let Some(Ok(_)) = answer.next().await {}
        drop(answer);
        let seen = told.await.ok()?;
        let end = seen.attempt.as_ref().map(|attempt| CheckEnd {
            outcome: Some(attempt.outcome),
            units: attempt.units,
        });
        self.judge.answered(seen, request);
        end
    }

    /// Admits a check as the front door admits a request; `None`: no room for its receipt.
    fn admit(
        &self,
        check: Check,
        prompt: prompt::Prompt,
    ) -> Option<(Admitted, oneshot::Receiver<Seen>)> {
        let books = &self.calls.books;
        let (table, admitted_ms) = books.admit();
        let slot = books.slot(table.period())?;
        let measured = Measured::of(&prompt.chat);
        let order = Order::chat(&check.task, prompt.chat, &measured);
        let (tell, told) = oneshot::channel();
        let admitted = Admitted {
            id: books.next_call(table.period()),
            admitted_ms,
            client: Arc::from(""),
            payload: order.payload,
            prompt_bytes: order.prompt_bytes,
            prompt_units: order.prompt_units,
            output_units: order.output_units,
            output_units_max: order.output_units_max,
            choices: order.choices,
            deadline: Instant::now() + prompt.deadline,
            origin: Origin::Synthetic,
            pinned: Some(check.hotkey),
            proven_only: false,
            due: Some(check.due),
            // Nobody waits any more when the check was cancelled.
            witness: Some(Witness::new(|seen| drop(tell.send(seen)))),
            explain: false,
            labels: Vec::new(),
            table,
            slot: Some(slot),
            task: check.task,
        };
        Some((admitted, told))
    }
}

impl Checks for Driver {
    fn check(&self, check: Check) -> BoxFuture<'_, CheckEnd> {
        Box::pin(async move { self.send(check).await.unwrap_or(CheckEnd::UNSENT) })
    }
}

impl std::fmt::Debug for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}
