//! The tasks that a gateway cannot do without. One that ends before it was asked to is an
//! alarm, and the end of the process: a gateway whose periods no longer turn, or whose receipts
//! no longer go out, looks well from outside and is not.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns tasks, and tells when one died.
#[derive(Clone, Debug, Default)]
pub(super) struct Supervisor {
    tasks: TaskTracker,
    died: CancellationToken,
}

// === impl Supervisor ===

impl Supervisor {
    /// Runs a task that may end once `stop` is cancelled, and not before.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stop, died) = (stop.clone(), self.died.clone());
        self.tasks.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let panicked = ended.is_err();
            if panicked || !stop.is_cancelled() {
                tracing::error!(task = name, panicked, "a background task died");
                died.cancel();
            }
        });
    }

    /// Cancelled when a task died.
    pub(super) const fn died(&self) -> &CancellationToken {
        &self.died
    }

    /// Waits until every task has ended; they were asked to before.
    pub(super) async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn n31_a_task_that_panics_or_just_ends_is_told() {
        // N31: pools died in silence and were never there again.
        let stop = CancellationToken::new();
        let panics = Supervisor::default();
        panics.spawn("panics", &stop, async { panic!("a bug") });
        panics.died().cancelled().await;
        panics.join().await;
        let ends = Supervisor::default();
        ends.spawn("ends", &stop, async {});
        ends.died().cancelled().await;
    }

    #[tokio::test]
    async fn a_task_that_ends_when_it_was_asked_to_is_no_alarm() {
        let (supervisor, stop) = (Supervisor::default(), CancellationToken::new());
        let stopped = stop.clone();
        supervisor.spawn("good", &stop, async move { stopped.cancelled().await });
        stop.cancel();
        supervisor.join().await;
        assert!(!supervisor.died().is_cancelled());
    }
}
