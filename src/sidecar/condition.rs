//! How a miner is: which of its models answer, whether it turns requests away, whether it
//! stops. One value, watched by those who tell gateways and those who answer them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};

use super::model::Models;
use crate::proto::v1::Availability;
use crate::task::TaskId;

/// Between two looks at models that answer.
const LOOK: Duration = Duration::from_secs(3);

/// Between two looks while one does not.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// To the look that tells an accident from an absence.
const LOOK_SOON: Duration = Duration::from_millis(500);

/// So many looks in a row without an answer make a model absent: one may be an accident.
const MISSES: u32 = 2;

/// How a miner is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Whether its models were looked at.
    pub looked: bool,
    /// The tasks whose model does not answer.
    pub away: BTreeSet<TaskId>,
    /// How many tasks it has.
    pub tasks: usize,
    /// Whether it turned a request away and has had no slot free since.
    pub full: bool,
    /// Whether it stops.
    pub draining: bool,
}

/// Where the condition is kept.
#[derive(Debug)]
pub struct Conditions {
    now: watch::Sender<Condition>,
    stumbled: Notify,
}

// === impl Condition ===

impl Condition {
    /// What to tell of a task.
    #[must_use]
    pub fn of(&self, task: &str) -> Availability {
        if self.draining {
            Availability::Draining
        } else if self.full || self.away.contains(task) {
            Availability::Busy
        } else {
            Availability::Free
        }
    }

    /// Whether at least one model was seen to answer.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.looked && self.away.len() < self.tasks
    }
}

// === impl Conditions ===

impl Conditions {
    /// Of a miner with so many tasks; its models were not looked at.
    #[must_use]
    pub fn new(tasks: usize) -> Self {
        let condition = Condition {
            tasks,
            ..Condition::default()
        };
        Self {
            now: watch::Sender::new(condition),
            stumbled: Notify::new(),
        }
    }

    /// Sees every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Condition> {
        self.now.subscribe()
    }

    /// Whether a task's model is known not to answer.
    #[must_use]
    pub fn is_away(&self, task: &str) -> bool {
        self.now.borrow().away.contains(task)
    }

    /// A model did not answer a request: look at all of them now.
    pub fn stumbled(&self) {
        self.stumbled.notify_one();
    }

    /// The miner stops.
    pub fn drain(&self) {
        self.now.send_modify(|condition| condition.draining = true);
    }

    /// Whether it turns requests away.
    pub(super) fn full(&self, full: bool) {
        self.now.send_if_modified(|condition| {
            let changed = condition.full != full;
            condition.full = full;
            changed
        });
    }

    /// Looks at the models again and again; never ends.
    pub async fn look_after(&self, models: &Models) {
        let mut misses = vec![0_u32; models.len()];
        loop {
            let looks = models.values().map(|model| model.is_present());
            for (missed, present) in misses.iter_mut().zip(join_all(looks).await) {
                *missed = if present { 0 } else { missed.saturating_add(1) };
            }
            let first = !self.now.borrow().looked;
            let looked = models.keys().zip(&misses);
            let away = looked.filter(|(_, missed)| **missed >= if first { 1 } else { MISSES });
            let away: BTreeSet<TaskId> = away.map(|(task, _)| Arc::clone(task)).collect();
            self.publish(away);
            let pause = if misses.iter().any(|missed| (1..MISSES).contains(missed)) {
                LOOK_SOON
            } else if misses.iter().any(|missed| *missed > 0) {
                LOOK_AGAIN
            } else {
                LOOK
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Many requests may stumble at once.
                () = self.stumbled.notified() => tokio::time::sleep(LOOK_SOON).await,
            }
        }
    }

    /// As a look would find it.
    #[cfg(test)]
    pub(super) fn publish_for_test(&self, away: BTreeSet<TaskId>) {
        self.publish(away);
    }

    fn publish(&self, away: BTreeSet<TaskId>) {
        self.now.send_if_modified(|condition| {
            if condition.looked && condition.away == away {
                return false;
            }
            for task in away.difference(&condition.away) {
                tracing::warn!(%task, "the model does not answer");
            }
            for task in condition.away.difference(&away) {
                tracing::info!(%task, "the model answers again");
            }
            condition.looked = true;
            condition.away = away;
            true
        });
    }
}
