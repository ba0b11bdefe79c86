//! `InferenceService`: convert, call, convert.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use taugate_ledger::ids::{Origin, RequestId};
use taugate_ledger::period::Period;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::admission;

use super::deadline::Deadline;
use super::measured::Asked;
use super::status::{Delivered, FieldFault, Refusal, Scarce};
use crate::books::Slot;
use crate::call::whole::Whole;
use crate::call::{Admitted, Answer, CallError, Calls, Event};
use crate::identity::key_ring::Client;
use crate::miner_client::Pool;
use crate::proto::v1;
use crate::registry::snapshot::{Market, Snapshot};
use crate::synthetic::burst::BurstSettings;
use crate::synthetic::judge::Judge;
use crate::task::{Task, TaskKind};

/// Reads receipts of the past.
pub trait Receipts: Send + Sync + std::fmt::Debug {
    /// The receipt of a call, if there is one that this client made.
    fn receipt<'a>(
        &'a self,
        id: RequestId,
        client: &'a str,
    ) -> taugate_ledger::engine::BoxFuture<
        'a,
        Result<Option<v1::Receipt>, crate::identity::StoreAway>,
    >;
}

/// The service of one shard.
#[derive(Debug, Clone)]
pub struct Inference {
    calls: Arc<Calls>,
    pool: Arc<Pool>,
    receipts: Arc<dyn Receipts>,
    judge: Arc<Judge>,
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::StreamGenerateResponse, Status>> + Send>>;

// === impl Inference ===

impl Inference {
    /// The service of a shard with its own connections to miners.
    #[must_use]
    pub const fn new(
        calls: Arc<Calls>,
        pool: Arc<Pool>,
        receipts: Arc<dyn Receipts>,
        judge: Arc<Judge>,
    ) -> Self {
        Self {
            calls,
            pool,
            receipts,
            judge,
        }
    }

    fn begin(&self, request: Request<v1::GenerateRequest>) -> Result<(RequestId, Answer), Refusal> {
        let (_, extensions, request) = request.into_parts();
        let client = extensions.get::<Client>().cloned().unwrap_or_default();
        let deadline = extensions.get::<Deadline>().copied();
        admission::check_envelope(&request).map_err(Refusal::Invalid)?;
        let snapshot = self.calls.registry.snapshot();
        let task = snapshot
            .tasks
            .get(&request.task)
            .filter(|task| client.may_ask(&task.id));
        if let Some(asked) = extensions.get::<Asked>() {
            asked.name(task.map(|task| &task.id));
        }
        let task = Arc::clone(task.ok_or_else(|| Refusal::UnknownTask(request.task.clone()))?);
        if task.kind != TaskKind::Chat {
            return Err(Refusal::Unimplemented("tasks of this kind"));
        }
        if !request.idempotency_key.is_empty() {
            return Err(Refusal::Unimplemented("idempotency keys"));
        }
        let pinned = pinned(&request, &client, &snapshot)?;
        let proven_only = request.proven_only;
        let proven_only = proven_only.unwrap_or_else(|| client.proven_only());
        let order = admission::order(&task, request.payload.clone()).map_err(Refusal::Invalid)?;
        let books = &self.calls.books;
        let (table, admitted_ms) = books.admit();
        let slot = self.slot(table.period())?;
        let now = Instant::now();
        let latest = now + task.limits.total;
        let deadline = deadline.map_or(now + task.limits.default_deadline, Deadline::at);
        let id = books.next_call(table.period());
        // A check is there to be judged.
        let seen = pinned.is_some() || client.shows(id.call);
        let admitted = Admitted {
            id,
            admitted_ms,
            client: client.public_id(),
            payload: order.payload,
            prompt_bytes: order.prompt_bytes,
            prompt_units: order.prompt_units,
            output_units: order.output_units,
            output_units_max: order.output_units_max,
            choices: order.choices,
            deadline: deadline.min(latest),
            origin: if pinned.is_some() {
                Origin::Synthetic
            } else {
                Origin::Organic
            },
            pinned,
            proven_only: proven_only || snapshot.proving,
            due: None,
            witness: seen.then(|| self.judge.witness(shown(&request))),
            explain: request.explain,
            labels: sorted(&request),
            table,
            slot: Some(slot),
            task,
        };
        Ok((id, self.calls.start(&self.pool, admitted)))
    }

    /// A place for the receipt, taken before anything else is held.
    fn slot(&self, period: Period) -> Result<Slot, Refusal> {
        let books = &self.calls.books;
        // Closed from the moment on when connections are asked to go.
        if self.calls.running.is_closed() || books.broken().is_cancelled() {
            return Err(Refusal::Draining);
        }
        match books.slot(period) {
            Some(slot) => Ok(slot),
            None if books.reachable() => Err(Refusal::Overloaded),
            None => Err(Refusal::EngineUnavailable),
        }
    }

    /// When a miner that is new may have passed its first burst.
    fn until_proven(&self) -> Duration {
        BurstSettings::newcomer_wait(self.calls.books.length())
    }

    fn refusal(&self, part: Delivered, task: &str, error: CallError) -> Refusal {
        let soon = Duration::from_millis(500);
        let period = self.calls.books.period_rest();
        match error {
            CallError::AllBusy => Refusal::NoCapacity(Scarce::Busy, soon),
            CallError::Displaced => Refusal::NoCapacity(Scarce::Displaced, soon),
            CallError::AllUnproven => Refusal::NoCapacity(Scarce::Unproven, self.until_proven()),
            CallError::AllSpent => Refusal::NoCapacity(Scarce::Spent, period),
            CallError::Ceiling => Refusal::TaskCeiling(period),
            CallError::NoMiner => Refusal::NoMiner,
            CallError::EngineAway => Refusal::EngineUnavailable,
            CallError::Crowded => Refusal::Overloaded,
            CallError::AttemptsExhausted => Refusal::AttemptsExhausted,
            CallError::Deadline(stage) => Refusal::Deadline(stage.as_str()),
            CallError::MinerLost => Refusal::MinerLost(part),
            CallError::MinerStalled => Refusal::MinerStalled(part),
            CallError::MinerProtocol => Refusal::MinerProtocol(part),
            CallError::SlowConsumer => Refusal::SlowConsumer,
            CallError::Draining => Refusal::Draining,
            // Clients are not asked.
            CallError::NotDue | CallError::Internal => {
                tracing::error!(id = %part.id, task, "a call ended by a bug");
                Refusal::Internal(Some(part.id))
            }
        }
    }
}

/// A request as who judges its answer sees it: without what speaks of the client.
fn shown(request: &v1::GenerateRequest) -> v1::GenerateRequest {
    v1::GenerateRequest {
        task: request.task.clone(),
        payload: request.payload.clone(),
        check: request.check.clone(),
        ..v1::GenerateRequest::default()
    }
}

fn sorted(request: &v1::GenerateRequest) -> Vec<(String, String)> {
    let mut labels: Vec<_> = request
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.sort_unstable();
    labels
}

/// The miner that a check is meant for.
fn pinned(
    request: &v1::GenerateRequest,
    client: &Client,
    snapshot: &Snapshot,
) -> Result<Option<Arc<str>>, Refusal> {
    let Some(check) = &request.check else {
        return Ok(None);
    };
    if !client.may_check() {
        return Err(Refusal::Forbidden);
    }
    let offers = snapshot
        .markets
        .get(request.task.as_str())
        .map(|market| market.offers.as_slice());
    let mut offers = offers.unwrap_or_default().iter();
    match offers.find(|offer| *offer.miner.hotkey == *check.miner) {
        Some(offer) => Ok(Some(Arc::clone(&offer.miner.hotkey))),
        None => Err(Refusal::Invalid(vec![FieldFault {
            field: "check.miner".to_owned(),
            fault: "offers nothing of this task".to_owned(),
        }])),
    }
}

#[tonic::async_trait]
impl v1::inference_service_server::InferenceService for Inference {
    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        let task = request.get_ref().task.clone();
        let (id, mut answer) = self.begin(request)?;
        let mut whole = Whole::default();
        // A refused unary call delivers nothing.
        let part = Delivered { id, chunks: 0 };
        while let Some(event) = answer.next().await {
            whole.add(event.map_err(|error| self.refusal(part, &task, error))?);
        }
        Ok(Response::new(whole.into_response()))
    }

    type StreamGenerateStream = Events;

    async fn stream_generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Events>, Status> {
        let task = request.get_ref().task.clone();
        let (id, mut answer) = self.begin(request)?;
        // No header before there is something to say: a refusal stays a plain status.
        let first = answer.next().await.ok_or(Refusal::Internal(Some(id)))?;
        let mut part = Delivered { id, chunks: 0 };
        let first = first.map_err(|error| self.refusal(part, &task, error))?;
        part.count(&first);
        let service = self.clone();
        let rest = answer.map(move |event| {
            let event = event.inspect(|event| part.count(event));
            event
                .map(message)
                .map_err(|error| Status::from(service.refusal(part, &task, error)))
        });
        let events = futures_util::stream::once(async { Ok(message(first)) }).chain(rest);
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let client = request
            .extensions()
            .get::<Client>()
            .cloned()
            .unwrap_or_default();
        let snapshot = self.calls.registry.snapshot();
        let tasks = snapshot
            .tasks
            .iter()
            .filter(|task| client.may_ask(&task.id));
        let tasks = tasks
            .map(|task| {
                let left = self.calls.capacity_left(&task.id);
                task_info(
                    task,
                    snapshot.markets.get(&task.id).map(AsRef::as_ref),
                    left,
                )
            })
            .collect();
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        let client = request
            .extensions()
            .get::<Client>()
            .cloned()
            .unwrap_or_default();
        let asked = request.into_inner().request_id;
        let unknown = || Refusal::UnknownReceipt(asked.clone());
        let id = asked.parse().map_err(|_| unknown())?;
        let receipt = self.receipts.receipt(id, &client.public_id()).await;
        let receipt = receipt.map_err(|_| Refusal::EngineUnavailable)?;
        let receipt = receipt.ok_or_else(unknown)?;
        Ok(Response::new(v1::GetReceiptResponse {
            receipt: Some(receipt),
        }))
    }
}

// === impl Delivered ===

impl Delivered {
    fn count(&mut self, event: &Event) {
        self.chunks += u64::from(matches!(event, Event::Delta(_)));
    }
}

fn message(event: Event) -> v1::StreamGenerateResponse {
    use v1::stream_generate_response::Event as Wire;
    let event = match event {
        Event::Progress(progress) => Wire::Progress(progress),
        Event::Started(started) => Wire::Started(started),
        Event::Delta(delta) => Wire::Delta(delta),
        Event::Completed(completed) => Wire::Completed(completed),
    };
    v1::StreamGenerateResponse { event: Some(event) }
}

fn task_info(task: &Task, market: Option<&Market>, left: v1::CapacityLeft) -> v1::TaskInfo {
    let miners = market.map_or(0, |market| market.offers.len());
    v1::TaskInfo {
        id: task.id.to_string(),
        kind: task.kind.to_proto().into(),
        unit_rule: task.unit_rule.as_str().to_owned(),
        context_tokens: task.context_tokens,
        default_request: task.default_request,
        largest_request: task.largest_request,
        longest: prost_types::Duration::try_from(task.limits.total).ok(),
        miners: u32::try_from(miners).unwrap_or(u32::MAX),
        capacity_left: left.into(),
    }
}
