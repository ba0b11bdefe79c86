//! `CapacityService`: convert, call, convert.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use taugate_ledger::period::Period;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::seats::Seats;
use super::signed::Caller;
use super::status::{Excess, FieldFault, Refusal};
use crate::books::Books;
use crate::identity::hotkey::Hotkey;
use crate::proto::v1;
use crate::registry::Registry;
use crate::registry::availability::Change;
use crate::registry::checked::{DeclareError, Record};
use crate::registry::roll::LeftOut;
use crate::registry::snapshot::{Availability, Offer};

/// The service.
#[derive(Clone, Debug)]
pub struct Capacity {
    hotkey: Hotkey,
    books: Arc<Books>,
    registry: Arc<Registry>,
    stop: CancellationToken,
    /// A place for each watcher.
    watches: Arc<Semaphore>,
    /// And for each of one hotkey.
    watching: Arc<Seats<Hotkey>>,
}

/// How often a watcher hears of amounts that moved.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watchers at once: each looks at every offer once a second.
const WATCHES_MAX: usize = 256;

/// Watchers of one hotkey: a miner and its restarts, a validator's tools.
const WATCHES_EACH: usize = 8;

/// Tasks that a watcher names.
const TASKS_MAX: usize = 256;

/// Changes that wait for a watcher; one that does not read is left behind, not waited for.
const WATCH_MAX: usize = 256;

type Entries = Pin<Box<dyn Stream<Item = Result<v1::WatchCapacityResponse, Status>> + Send>>;

// === impl Capacity ===

impl Capacity {
    /// The service of the gateway with this hotkey.
    #[must_use]
    pub fn new(
        hotkey: Hotkey,
        books: Arc<Books>,
        registry: Arc<Registry>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            hotkey,
            books,
            registry,
            stop,
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            watching: Arc::new(Seats::new(WATCHES_EACH)),
        }
    }

    fn allotments(&self, hotkey: Hotkey) -> Vec<v1::Allotment> {
        let table = self.books.table();
        let standing = self.registry.standing(hotkey).into_iter();
        standing
            .map(|one| v1::Allotment {
                task: one.task.to_string(),
                declared: one.declared.get(),
                allotment: one.allotment.get(),
                posted: one.cell.map_or(0, |cell| table.posted_total(cell).get()),
                left_out: one.left_out.map_or("", LeftOut::as_str).to_owned(),
            })
            .collect()
    }

    /// What a hotkey may see now: its own cells; this gateway's own hotkey sees all.
    fn entries(&self, caller: Hotkey, tasks: &[String]) -> Vec<v1::CapacityEntry> {
        let snapshot = self.registry.snapshot();
        let name = caller.to_string();
        let table = self.books.table();
        let asked = |task: &str| tasks.is_empty() || tasks.iter().any(|one| one == task);
        let markets = snapshot.markets.iter().filter(|(task, _)| asked(task));
        let offers = markets.flat_map(|(task, market)| {
            let offers = market.offers.iter();
            let seen = offers.filter(|offer| caller == self.hotkey || *offer.miner.hotkey == *name);
            seen.map(move |offer| (task, offer))
        });
        offers
            .map(|(task, offer)| v1::CapacityEntry {
                miner: offer.miner.hotkey.to_string(),
                task: task.to_string(),
                period: Some(timestamp(table.period())),
                declared: offer.declared.get(),
                allotment: offer.allotment.get(),
                posted: table.posted_total(offer.cell).get(),
                reserved: table.reserved(offer.cell).get(),
                availability: to_wire(offer).into(),
                ejected: false,
            })
            .collect()
    }
}

#[tonic::async_trait]
impl v1::capacity_service_server::CapacityService for Capacity {
    async fn get_gateway(
        &self,
        _: Request<v1::GetGatewayRequest>,
    ) -> Result<Response<v1::GetGatewayResponse>, Status> {
        let settings = self.registry.settings();
        let now_ms = self.books.unix_ms();
        let tasks = self.registry.snapshot();
        Ok(Response::new(v1::GetGatewayResponse {
            hotkey: self.hotkey.to_string(),
            network: settings.network.to_string(),
            time: Some(prost_types::Timestamp {
                seconds: i64::try_from(now_ms / 1000).unwrap_or(i64::MAX),
                nanos: i32::try_from(now_ms % 1000).unwrap_or(0) * 1_000_000,
            }),
            period_s: self.books.length().secs(),
            period: Some(timestamp(self.books.table().period())),
            open_registration: settings.open_registration,
            open_tasks: settings.open_tasks,
            tasks: tasks
                .tasks
                .iter()
                .map(|task| v1::DeclarableTask {
                    id: task.id.to_string(),
                    kind: task.kind.to_proto().into(),
                    cap: task.cap.get(),
                    weight: task.weight,
                    model: task.model.to_string(),
                })
                .collect(),
        }))
    }

    async fn declare(
        &self,
        request: Request<v1::DeclareRequest>,
    ) -> Result<Response<v1::DeclareResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let record = request.declaration.ok_or_else(|| missing("declaration"))?;
        if record.hotkey != caller.to_string() {
            return Err(Refusal::Forbidden.into());
        }
        let signed = Record {
            hotkey: caller,
            payload: &record.payload,
            signature: &record.signature,
        };
        self.registry
            .declare(signed, &request.endpoint)
            .await
            .map_err(refusal)?;
        // What is new may be spent in the running period at once.
        self.books
            .expect(self.books.table().period(), &self.registry.wanted());
        let allotments = self.allotments(caller);
        Ok(Response::new(v1::DeclareResponse { allotments }))
    }

    async fn withdraw(
        &self,
        request: Request<v1::WithdrawRequest>,
    ) -> Result<Response<v1::WithdrawResponse>, Status> {
        let caller = caller(&request)?;
        let sequence = request.into_inner().sequence;
        self.registry
            .withdraw(caller, sequence)
            .await
            .map_err(refusal)?;
        Ok(Response::new(v1::WithdrawResponse {}))
    }

    async fn set_availability(
        &self,
        request: Request<Streaming<v1::SetAvailabilityRequest>>,
    ) -> Result<Response<v1::SetAvailabilityResponse>, Status> {
        let caller = caller(&request)?;
        let mut changes = request.into_inner();
        let stream = self.registry.open_stream(caller);
        let mut counter = 0;
        loop {
            let change = tokio::select! {
                biased;
                () = stream.superseded() => return Err(Refusal::SessionSuperseded.into()),
                () = self.stop.cancelled() => return Err(Refusal::Draining.into()),
                change = changes.message() => change?,
            };
            // An upload that was cut off looks like one that ended: hence the last message.
            let Some(change) = change else {
                return Ok(Response::new(v1::SetAvailabilityResponse { counter }));
            };
            self.registry
                .may_say(caller)
                .map_err(|wait| Refusal::RateLimited(Excess::Changes, wait))?;
            let (number, last) = (change.counter, change.last);
            if stream.heed(heard(change)?) {
                counter = number;
            }
            if last {
                stream.finish();
                return Ok(Response::new(v1::SetAvailabilityResponse { counter }));
            }
        }
    }

    type WatchCapacityStream = Entries;

    async fn watch_capacity(
        &self,
        request: Request<v1::WatchCapacityRequest>,
    ) -> Result<Response<Entries>, Status> {
        let caller = caller(&request)?;
        let tasks = request.into_inner().tasks;
        if tasks.len() > TASKS_MAX {
            return Err(invalid("tasks", "at most 256").into());
        }
        let full = || Refusal::RateLimited(Excess::Watches, LOOK_EVERY);
        let seat = self.watching.take(caller).ok_or_else(full)?;
        let place = Arc::clone(&self.watches).try_acquire_owned();
        let place = place.map_err(|_| full())?;
        let (sender, receiver) = mpsc::channel(WATCH_MAX);
        let service = self.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its receiver or the gateway"
        )]
        tokio::task::spawn(async move {
            let _held = (place, seat);
            let watching = watch(&service, caller, &tasks, &sender);
            if service.stop.run_until_cancelled(watching).await.is_none() {
                // Nobody waits for a watcher that does not read.
                let _unread = sender.try_send(Err(Refusal::Draining.into()));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Sender = mpsc::Sender<Result<v1::WatchCapacityResponse, Status>>;

/// Sends all entries, then those that changed, until the watcher leaves.
async fn watch(service: &Capacity, caller: Hotkey, tasks: &[String], sender: &Sender) {
    use v1::watch_capacity_response::Event;
    let mut sent = HashMap::new();
    let mut whole = false;
    loop {
        let now = service.entries(caller, tasks);
        let mut events: Vec<Event> = changes(&mut sent, now).map(Event::Entry).collect();
        if !whole {
            events.push(Event::SnapshotEnd(v1::CapacitySnapshotEnd {}));
        }
        for event in events {
            let response = v1::WatchCapacityResponse { event: Some(event) };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
        whole = true;
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The entries that are new or changed, and those that are gone, with nothing left in them.
fn changes(
    sent: &mut HashMap<(String, String), v1::CapacityEntry>,
    now: Vec<v1::CapacityEntry>,
) -> impl Iterator<Item = v1::CapacityEntry> {
    let name = |entry: &v1::CapacityEntry| (entry.miner.clone(), entry.task.clone());
    let mut before = std::mem::take(sent);
    let mut changed = Vec::new();
    for entry in now {
        if before.remove(&name(&entry)).as_ref() != Some(&entry) {
            changed.push(entry.clone());
        }
        sent.insert(name(&entry), entry);
    }
    let gone = before.into_values().map(|entry| v1::CapacityEntry {
        miner: entry.miner,
        task: entry.task,
        period: entry.period,
        ..v1::CapacityEntry::default()
    });
    changed.into_iter().chain(gone)
}

fn caller<T>(request: &Request<T>) -> Result<Hotkey, Refusal> {
    let caller = request.extensions().get::<Caller>();
    caller
        .map(|caller| caller.0)
        .ok_or(Refusal::Unauthenticated)
}

fn missing(field: &str) -> Refusal {
    invalid(field, "is missing")
}

fn invalid(field: &str, fault: &str) -> Refusal {
    Refusal::Invalid(vec![FieldFault {
        field: field.to_owned(),
        fault: fault.to_owned(),
    }])
}

/// What a miner said of itself.
fn heard(change: v1::SetAvailabilityRequest) -> Result<Change, Refusal> {
    let availability = v1::Availability::try_from(change.availability).unwrap_or_default();
    Ok(Change {
        counter: change.counter,
        task: Some(change.task)
            .filter(|task| !task.is_empty())
            .map(Arc::from),
        availability: from_wire(availability).ok_or_else(|| missing("availability"))?,
        concurrency: change.concurrency,
    })
}

fn refusal(error: DeclareError) -> Refusal {
    match error {
        DeclareError::Malformed(_)
        | DeclareError::Network
        | DeclareError::Foreign
        | DeclareError::NotValidNow => invalid("declaration", &error.to_string()),
        DeclareError::Endpoint | DeclareError::Private => invalid("endpoint", &error.to_string()),
        DeclareError::TooOften(wait) => Refusal::RateLimited(Excess::Declarations, wait),
        DeclareError::Signature => Refusal::Unauthenticated,
        DeclareError::Stale => Refusal::Stale,
        DeclareError::NotRegistered => Refusal::NotRegistered,
        DeclareError::Full => Refusal::Overloaded,
        DeclareError::Away(_) => Refusal::EngineUnavailable,
    }
}

fn timestamp(period: Period) -> prost_types::Timestamp {
    let seconds = i64::try_from(period.start_s()).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: 0 }
}

const fn to_wire(offer: &Offer) -> v1::Availability {
    match offer.availability {
        Availability::Free => v1::Availability::Free,
        Availability::Busy => v1::Availability::Busy,
        Availability::Draining => v1::Availability::Draining,
    }
}

const fn from_wire(availability: v1::Availability) -> Option<Availability> {
    match availability {
        v1::Availability::Unspecified => None,
        v1::Availability::Free => Some(Availability::Free),
        v1::Availability::Busy => Some(Availability::Busy),
        v1::Availability::Draining => Some(Availability::Draining),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_hears_of_what_came_what_moved_and_what_is_gone() {
        let entry = |miner: &str, posted| v1::CapacityEntry {
            miner: miner.to_owned(),
            task: "tiny".to_owned(),
            allotment: 100,
            posted,
            ..v1::CapacityEntry::default()
        };
        let mut sent = HashMap::new();
        let mut hear = |now| -> Vec<(String, u64, u64)> {
            let changed = changes(&mut sent, now);
            changed
                .map(|entry| (entry.miner, entry.allotment, entry.posted))
                .collect()
        };
        let told = |miner: &str, allotment, posted| (miner.to_owned(), allotment, posted);
        let first = hear(vec![entry("a", 0), entry("b", 0)]);
        assert_eq!(first, [told("a", 100, 0), told("b", 100, 0)]);
        assert_eq!(hear(vec![entry("b", 0), entry("a", 0)]), []);
        assert_eq!(
            hear(vec![entry("a", 5), entry("b", 0)]),
            [told("a", 100, 5)]
        );
        assert_eq!(hear(vec![entry("b", 0)]), [told("a", 0, 0)]);
        assert_eq!(hear(vec![entry("b", 0)]), [], "it is gone once");
        assert_eq!(
            hear(vec![entry("a", 5), entry("b", 0)]),
            [told("a", 100, 5)]
        );
    }
}
