//! `ConsumptionService`: convert, call, convert.

mod checks;
mod scores;
mod sessions;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use taugate_ledger::period::Period;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::checks::{Checkers, Plans};
use self::sessions::{Consumer, Session, Sessions};
use super::signed::Caller;
use super::status::{Excess, FieldFault, Refusal};
use crate::books::Books;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::identity::pace::Pace;
use crate::proto::v1;
use crate::report::cursor::{Cursor, Scope};
use crate::report::due::DueSource;
use crate::report::feed::{self, Feed, RoundError, Told, View};
use crate::report::readers::Readers;
use crate::report::{Reach, ReportStore, SealRow, wire};
use crate::scoring::scorer::{ScoreError, Scorer};
use crate::synthetic::finding::FindingStore;
use crate::synthetic::judge::Judge;

/// How often a consumer hears at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two rounds when there is more already: it bounds what a greedy consumer takes.
const BREATH: Duration = Duration::from_millis(20);

/// Messages that wait for a consumer; one that does not read lags alone.
const WAITING_MAX: usize = 64;

/// Streams, whole periods and acks that one hotkey may ask for at once.
const ASKS: u32 = 100;

/// Then one each while.
const ASK_EACH: Duration = Duration::from_millis(100);

/// Hotkeys whose pace is kept; those beyond share one.
const PACES_MAX: usize = 1024;

/// The longest name of a consumer, bytes.
const NAME_MAX: usize = 64;

/// What it works with.
#[derive(Clone, Debug)]
pub struct Reports {
    /// The durable books.
    pub store: Arc<dyn ReportStore>,
    /// Those of this process: they know the running period.
    pub books: Arc<Books>,
    /// Knows what of checks is due, where they are planned.
    pub due: Option<Arc<dyn DueSource>>,
    /// Who may read what.
    pub readers: Arc<Readers>,
    /// Scores miners.
    pub scorer: Arc<Scorer>,
    /// What judges answers.
    pub judge: Arc<Judge>,
    /// Where findings are kept.
    pub findings: Arc<dyn FindingStore>,
    /// Rises when much was consumed.
    pub news: watch::Sender<u64>,
    /// Ends all streams.
    pub stop: CancellationToken,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Consumption {
    with: Reports,
    sessions: Arc<Sessions>,
    checkers: Checkers,
    asks: Arc<Pace<Hotkey>>,
    /// One ack at a time: each is compared with the one before.
    acking: Arc<tokio::sync::Mutex<()>>,
}

type Entries = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

// === impl Consumption ===

impl Consumption {
    /// The service.
    #[must_use]
    pub fn new(with: Reports) -> Self {
        let (judge, findings) = (Arc::clone(&with.judge), Arc::clone(&with.findings));
        Self {
            checkers: Checkers::new(judge, findings, with.stop.clone()),
            with,
            sessions: Arc::default(),
            asks: Arc::new(Pace::new(ASK_EACH, ASKS, PACES_MAX)),
            acking: Arc::default(),
        }
    }

    /// Who asks, when it may ask once more.
    fn caller<T>(&self, request: &Request<T>) -> Result<Hotkey, Refusal> {
        let caller = request.extensions().get::<Caller>();
        let caller = caller.ok_or(Refusal::Unauthenticated)?.0;
        let stepped = self.asks.step(caller, self.with.books.unix_ms());
        stepped.map_err(|wait| Refusal::RateLimited(Excess::Reports, wait))?;
        Ok(caller)
    }

    /// Refuses whoever may not see everything.
    fn validator<T>(&self, request: &Request<T>) -> Result<(), Refusal> {
        let caller = self.caller(request)?;
        if self.with.readers.view(caller) == View::All {
            Ok(())
        } else {
            Err(Refusal::Forbidden)
        }
    }

    /// Takes a consumer's ack when it is its own, was sent, and is no step back.
    async fn take(&self, consumer: &Consumer, cursor: &[u8]) -> Result<(), Refusal> {
        let _one = self.acking.lock().await;
        let store = &self.with.store;
        let standing = store.standing().await?;
        let scope = Scope::of(standing.store, consumer.0, &consumer.1);
        let new = Cursor::decode(cursor, scope).ok_or(Refusal::BadCursor("foreign"))?;
        let sent = self.sessions.sent(consumer);
        let beyond = sent.is_some_and(|sent| !sent.is_as_far_as(&new));
        if beyond || !new.is_within(&standing) {
            return Err(Refusal::BadCursor("future"));
        }
        let old = store.acked(consumer.0, &consumer.1).await?;
        let old = old.and_then(|old| Cursor::decode(&old, scope));
        // One beyond the books is of before they lost commits.
        let old = old.filter(|old| old.is_within(&standing));
        if old.is_some_and(|old| !new.is_as_far_as(&old)) {
            return Err(Refusal::BadCursor("regressing"));
        }
        let put = store.put_ack(consumer.0, &consumer.1, new.encode());
        Ok(put.await?)
    }

    async fn period(&self, view: View, period: Period) -> Result<v1::GetPeriodResponse, Refusal> {
        let store = &self.with.store;
        let standing = store.standing().await?;
        let open = period >= self.with.books.table().period();
        let reaches = standing.reaches.into_iter();
        let reaches: Vec<_> = reaches.filter(|reach| reach.period == period).collect();
        let seals = store.seals(period).await?;
        if reaches.is_empty() && seals.is_empty() && !open {
            return Err(Refusal::UnknownPeriod(period.to_string()));
        }
        let seals = match view {
            View::All => seals.iter().map(SealRow::to_wire).collect(),
            // They name every miner's totals.
            View::Own(_) => Vec::new(),
        };
        let mut consumption = Vec::new();
        for reach in reaches {
            consumption.extend(self.consumption(view, reach, open).await?);
        }
        Ok(v1::GetPeriodResponse {
            period: Some(wire::period(period)),
            open,
            consumption,
            seals,
        })
    }

    /// A miner learns of its own cells what was a check only once the period is closed.
    async fn consumption(
        &self,
        view: View,
        reach: Reach,
        open: bool,
    ) -> Result<Vec<v1::Consumption>, StoreAway> {
        let miner = match view {
            View::All => None,
            View::Own(miner) => Some(miner),
        };
        let rows = feed::counters(&*self.with.store, reach, miner).await?;
        if miner.is_some() && open {
            let rows = feed::together(rows).into_iter();
            let hidden = v1::Origin::Unspecified;
            return Ok(rows.map(|row| wire::consumption(&row, hidden)).collect());
        }
        let known = rows.iter();
        Ok(known
            .map(|row| wire::consumption(row, wire::origin(row.origin)))
            .collect())
    }
}

#[tonic::async_trait]
impl v1::consumption_service_server::ConsumptionService for Consumption {
    type WatchStream = Entries;
    type WatchPlanStream = Plans;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Entries>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let view = self.with.readers.view(caller);
        if view != View::All && request.receipts {
            return Err(Refusal::Forbidden.into());
        }
        let consumer = (caller, named(request.consumer)?);
        let session = self.sessions.open(&consumer)?;
        let (outlet, messages) = mpsc::channel(WAITING_MAX);
        let (ending, ended) = oneshot::channel();
        let feed = Feed {
            store: Arc::clone(&self.with.store),
            view,
            receipts: request.receipts,
            consumer: consumer.clone(),
            resume: request.cursor,
            sent: Arc::clone(&session.sent),
            outlet,
            due: self.with.due.clone(),
            told: Told::default(),
        };
        let service = self.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its receiver or the gateway"
        )]
        tokio::task::spawn(async move {
            let end = service.serve(feed, &session).await;
            service.sessions.close(&consumer, &session);
            if let Some(end) = end {
                // Nobody reads it when the consumer left.
                drop(ending.send(end));
            }
        });
        // Why it ended comes behind what waits, also for one that did not read.
        let end =
            stream::once(ended).filter_map(|end| async { end.ok().map(|end| Err(end.into())) });
        let entries = ReceiverStream::new(messages).chain(end);
        Ok(Response::new(Box::pin(entries)))
    }

    async fn ack(
        &self,
        request: Request<v1::AckRequest>,
    ) -> Result<Response<v1::AckResponse>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let consumer = (caller, named(request.consumer)?);
        self.take(&consumer, &request.cursor).await?;
        Ok(Response::new(v1::AckResponse {}))
    }

    async fn get_period(
        &self,
        request: Request<v1::GetPeriodRequest>,
    ) -> Result<Response<v1::GetPeriodResponse>, Status> {
        let caller = self.caller(&request)?;
        let period = match request.into_inner().period {
            Some(start) => asked(&self.with.books, &start)?,
            None => self.with.books.table().period(),
        };
        let view = self.with.readers.view(caller);
        Ok(Response::new(self.period(view, period).await?))
    }

    async fn watch_plan(
        &self,
        request: Request<v1::WatchPlanRequest>,
    ) -> Result<Response<Plans>, Status> {
        self.validator(&request)?;
        let answers = self.checkers.watch(request.into_inner().tasks)?;
        Ok(Response::new(answers))
    }

    async fn submit_check(
        &self,
        request: Request<v1::SubmitCheckRequest>,
    ) -> Result<Response<v1::SubmitCheckResponse>, Status> {
        self.validator(&request)?;
        self.checkers.submit(request.into_inner()).await?;
        Ok(Response::new(v1::SubmitCheckResponse {}))
    }

    async fn get_scores(
        &self,
        request: Request<v1::GetScoresRequest>,
    ) -> Result<Response<v1::GetScoresResponse>, Status> {
        let caller = self.caller(&request)?;
        if self.with.readers.view(caller) != View::All {
            return Err(Refusal::Forbidden.into());
        }
        let name = request.into_inner().profile;
        let name = Some(&*name).filter(|name| !name.is_empty());
        let scorer = &self.with.scorer;
        let standing = scorer.standing(name).await;
        let standing = standing.map_err(Refusal::from)?;
        Ok(Response::new(scores::told(&standing, |miner| {
            scorer.uid(miner)
        })))
    }
}

impl Consumption {
    /// Feeds a consumer until it leaves or is told why not.
    async fn serve(&self, mut feed: Feed, session: &Session) -> Option<Refusal> {
        let feeding = self.feed(&mut feed);
        tokio::select! {
            biased;
            () = session.superseded.cancelled() => Some(Refusal::SessionSuperseded),
            () = self.with.stop.cancelled() => Some(Refusal::Draining),
            () = feeding => None,
        }
    }

    async fn feed(&self, feed: &mut Feed) {
        let mut news = self.with.news.subscribe();
        loop {
            news.mark_unchanged();
            let more = match feed.round().await {
                Ok(more) => more,
                Err(RoundError::Left) => return,
                // Its watermark stands still meanwhile: that says so.
                Err(RoundError::Away(_)) => false,
            };
            let pause = if more { BREATH } else { LOOK_EVERY };
            tokio::select! {
                () = feed.outlet.closed() => return,
                () = tokio::time::sleep(pause) => {}
                _ = news.changed() => {}
            }
        }
    }
}

impl From<ScoreError> for Refusal {
    fn from(error: ScoreError) -> Self {
        match error {
            ScoreError::UnknownProfile { name } => Self::UnknownProfile(name),
            ScoreError::Away(away) => away.into(),
        }
    }
}

impl From<StoreAway> for Refusal {
    fn from(_: StoreAway) -> Self {
        Self::EngineUnavailable
    }
}

fn named(consumer: String) -> Result<String, Refusal> {
    if (1..=NAME_MAX).contains(&consumer.len()) {
        Ok(consumer)
    } else {
        Err(invalid("consumer", "must be 1 to 64 bytes"))
    }
}

fn asked(books: &Books, start: &prost_types::Timestamp) -> Result<Period, Refusal> {
    let no_start = || invalid("period", "must be the start of a period");
    let start_s = u64::try_from(start.seconds).map_err(|_| no_start())?;
    let period = books.length().period_at(start_s.saturating_mul(1000));
    if start.nanos == 0 && period == Period::starting_at(start_s) {
        Ok(period)
    } else {
        Err(no_start())
    }
}

fn invalid(field: &str, fault: &str) -> Refusal {
    Refusal::Invalid(vec![FieldFault {
        field: field.to_owned(),
        fault: fault.to_owned(),
    }])
}
