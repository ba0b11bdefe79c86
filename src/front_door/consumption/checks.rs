//! For who judges answers outside: the answers, and what was found of them.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use taugate_ledger::ids::RequestId;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::invalid;
use crate::front_door::status::{Excess, Refusal};
use crate::proto::v1;
use crate::proto::v1::watch_plan_response::Event;
use crate::synthetic::finding::{BUILT_IN, FindingStore, Submitted};
use crate::synthetic::judge::Judge;

/// Streams of answers at once.
const STREAMS_MAX: usize = 8;

/// When a place may be free.
const LATER: Duration = Duration::from_secs(5);

/// The longest name of a checker, bytes.
const CHECKER_MAX: usize = 64;

/// What a checker is sent.
pub(super) type Plans = Pin<Box<dyn Stream<Item = Result<v1::WatchPlanResponse, Status>> + Send>>;

/// Where answers come from and findings go.
#[derive(Clone, Debug)]
pub(super) struct Checkers {
    judge: Arc<Judge>,
    findings: Arc<dyn FindingStore>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

// === impl Checkers ===

impl Checkers {
    pub(super) fn new(
        judge: Arc<Judge>,
        findings: Arc<dyn FindingStore>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            judge,
            findings,
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
            stop,
        }
    }

    /// The answers that are kept, then those that come, until the gateway ends. Of these a
    /// checker that does not read misses the oldest.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the stream keeps its place until it ends"
    )]
    pub(super) fn watch(&self, tasks: Vec<String>) -> Result<Plans, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::RateLimited(Excess::Watches, LATER))?;
        let tasks: BTreeSet<String> = tasks.into_iter().collect();
        let (kept, news) = self.judge.answers();
        let news = stream::unfold((news, place), |(mut news, place)| async move {
            loop {
                match news.recv().await {
                    Ok(answer) => return Some((answer, (news, place))),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let wanted = move |answer: &Arc<v1::Answer>| {
            let task = answer.request.as_ref().map_or("", |request| &request.task);
            tasks.is_empty() || tasks.contains(task)
        };
        let answers = stream::iter(kept)
            .chain(news)
            .filter(move |answer| std::future::ready(wanted(answer)))
            .map(|answer| {
                let event = Some(Event::Answer(Arc::unwrap_or_clone(answer)));
                Ok(v1::WatchPlanResponse { event })
            })
            .take_until(self.stop.clone().cancelled_owned())
            .chain(stream::once(async { Err(Refusal::Draining.into()) }));
        Ok(Box::pin(answers))
    }

    /// Keeps what a checker found.
    pub(super) async fn submit(&self, found: v1::SubmitCheckRequest) -> Result<(), Refusal> {
        let unknown = || Refusal::UnknownReceipt(found.request_id.clone());
        let id: RequestId = found.request_id.parse().map_err(|_| unknown())?;
        // NaN is in no range.
        if !(0.0..=1.0).contains(&found.quality) {
            return Err(invalid("quality", "must be between 0 and 1"));
        }
        let named = (1..=CHECKER_MAX).contains(&found.checker.len());
        if !named || found.checker == BUILT_IN {
            return Err(invalid(
                "checker",
                "must be 1 to 64 bytes, and not the name of the built-in checks",
            ));
        }
        let checker = Arc::from(found.checker.as_str());
        match self.findings.submit(id, checker, found.quality).await? {
            Submitted::Kept => Ok(()),
            Submitted::Unknown => Err(unknown()),
            Submitted::NotWhole => {
                Err(invalid("request_id", "names a call without a whole answer"))
            }
        }
    }
}
