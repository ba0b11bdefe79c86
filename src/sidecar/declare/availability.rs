//! What a miner says of its condition, as the messages of one stream to a gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, unfold};
use tokio::sync::watch;

use crate::clock::SharedClock;
use crate::proto::v1;
use crate::proto::v1::Availability;
use crate::sidecar::condition::Condition;

/// A condition that got worse has to stay so for this long: a miner whose slots are all taken
/// for a moment is not worth a word.
const SETTLE: Duration = Duration::from_millis(250);

/// Numbers the messages of a miner to all gateways; above those of its earlier processes.
#[derive(Debug)]
pub(super) struct Counter {
    clock: SharedClock,
    last: AtomicU64,
}

/// The messages of one stream.
struct Telling {
    condition: watch::Receiver<Condition>,
    counter: Arc<Counter>,
    tasks: Arc<[String]>,
    said: Option<Vec<Availability>>,
    ready: Vec<v1::SetAvailabilityRequest>,
}

// === impl Counter ===

impl Counter {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            last: AtomicU64::new(0),
        }
    }

    fn next(&self) -> u64 {
        let now_ms = self.clock.unix_ms();
        let above = |last: u64| now_ms.max(last.saturating_add(1));
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(above(last))
            });
        above(last.unwrap_or_else(|last| last))
    }
}

/// How the miner is, at once and whenever it changes; ends behind the word that it stops.
pub(super) fn changes(
    condition: watch::Receiver<Condition>,
    tasks: Arc<[String]>,
    counter: Arc<Counter>,
) -> BoxStream<'static, v1::SetAvailabilityRequest> {
    let telling = Telling {
        condition,
        counter,
        tasks,
        said: None,
        ready: Vec::new(),
    };
    unfold(telling, |mut telling| async {
        let message = telling.next().await?;
        Some((message, telling))
    })
    .boxed()
}

// === impl Telling ===

impl Telling {
    async fn next(&mut self) -> Option<v1::SetAvailabilityRequest> {
        loop {
            if let Some(message) = self.ready.pop() {
                return Some(message);
            }
            let drained = |said: &Vec<_>| said.contains(&Availability::Draining);
            if self.said.as_ref().is_some_and(drained) {
                return None;
            }
            let now = self.changed().await?;
            self.say(now);
        }
    }

    /// The next condition that is worth a word.
    async fn changed(&mut self) -> Option<Vec<Availability>> {
        loop {
            let now = self.look();
            let Some(said) = &self.said else {
                return Some(now);
            };
            let worse = now.contains(&Availability::Busy);
            if *said == now {
                self.condition.changed().await.ok()?;
            } else if !worse {
                return Some(now);
            } else {
                let drains = self.condition.wait_for(|condition| condition.draining);
                let ended = tokio::time::timeout(SETTLE, drains).await;
                drop(ended);
                let settled = self.look();
                if self.said.as_ref() != Some(&settled) {
                    return Some(settled);
                }
            }
        }
    }

    fn look(&mut self) -> Vec<Availability> {
        let condition = self.condition.borrow_and_update();
        self.tasks.iter().map(|task| condition.of(task)).collect()
    }

    /// One message where all tasks are alike, else one for each.
    fn say(&mut self, now: Vec<Availability>) {
        let alike = now
            .first()
            .filter(|first| now.iter().all(|one| one == *first));
        let messages: Vec<(&str, Availability)> = match alike {
            Some(all) => vec![("", *all)],
            None => {
                let tasks = self.tasks.iter().map(String::as_str);
                tasks.zip(now.iter().copied()).collect()
            }
        };
        let numbered =
            messages
                .into_iter()
                .map(|(task, availability)| v1::SetAvailabilityRequest {
                    counter: self.counter.next(),
                    availability: availability.into(),
                    task: task.to_owned(),
                    concurrency: None,
                    last: availability == Availability::Draining,
                });
        let mut ready: Vec<_> = numbered.collect();
        ready.reverse();
        self.ready = ready;
        self.said = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::ManualClock;
    use crate::sidecar::condition::Conditions;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_not_worth_a_word_and_the_end_is() {
        let conditions = Conditions::new(2);
        let tasks: Arc<[String]> = ["a".to_owned(), "b".to_owned()].into();
        let counter = Arc::new(Counter::new(Arc::new(ManualClock::at(7))));
        let mut told = changes(conditions.watch(), tasks, counter);
        let mut next = async || {
            let told = told.next().await?;
            Some((
                told.counter,
                told.task.clone(),
                told.availability(),
                told.last,
            ))
        };
        let all = |counter, availability, last| Some((counter, String::new(), availability, last));
        assert_eq!(next().await, all(7, Availability::Free, false));

        conditions.full(true);
        assert!(next().now_or_never().is_none());
        conditions.full(false);
        let waited = tokio::time::timeout(SETTLE * 4, next()).await;
        assert!(waited.is_err(), "it was full for a moment: {waited:?}");

        conditions.full(true);
        assert_eq!(next().await, all(8, Availability::Busy, false));
        conditions.full(false);
        assert_eq!(
            next().now_or_never().unwrap(),
            all(9, Availability::Free, false)
        );

        conditions.publish_for_test(["b".into()].into());
        let (a, b) = (next().await.unwrap(), next().await.unwrap());
        assert_eq!(a, (10, "a".to_owned(), Availability::Free, false));
        assert_eq!(b, (11, "b".to_owned(), Availability::Busy, false));
        conditions.drain();
        assert_eq!(next().await, all(12, Availability::Draining, true));
        assert_eq!(next().await, None);
    }
}
