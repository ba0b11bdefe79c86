//! Follows how the store is. With too little space left for the receipts of new grants the
//! gateway says that it is not ready, before it refuses anything: what was granted is still
//! spent and booked. A store that is damaged is the end: nothing that it acknowledges from then
//! on can be believed.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::build::SERVICES;
use crate::store::Health;
use crate::telemetry::Instruments;

/// Where it is told how the store is.
pub(super) struct Teller {
    pub(super) health: HealthReporter,
    pub(super) instruments: Arc<Instruments>,
}

// === impl Teller ===

impl Teller {
    /// Tells until `leave`, from which on the drain says how the gateway is, or until the store
    /// is damaged or gone.
    pub(super) async fn run(self, mut store: watch::Receiver<Health>, leave: CancellationToken) {
        loop {
            let now = *store.borrow_and_update();
            if now == Health::Damaged {
                break;
            }
            if leave.run_until_cancelled(self.tell(now)).await.is_none() {
                return;
            }
            match leave.run_until_cancelled(store.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) => break,
                None => return,
            }
        }
        tracing::error!("the store is damaged or its writer ended");
    }

    async fn tell(&self, health: Health) {
        let full = health == Health::Full;
        self.instruments.store_full.set(i64::from(full));
        let status = if full {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        for service in SERVICES {
            self.health.set_service_status(service, status).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_stream::StreamExt as _;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Told;
    use tonic_health::pb::health_server::Health as _;
    use tonic_health::server::HealthService;

    use super::*;

    /// Follows a store; what is said of it comes out of the stream.
    struct Bench {
        store: watch::Sender<Health>,
        instruments: Arc<Instruments>,
        leave: CancellationToken,
        telling: tokio::task::JoinHandle<()>,
        told: tonic_health::server::WatchStream,
    }

    impl Bench {
        async fn new() -> Self {
            let health = HealthReporter::new();
            for service in SERVICES {
                let serving = ServingStatus::Serving;
                health.set_service_status(service, serving).await;
            }
            let request = tonic::Request::new(HealthCheckRequest {
                service: String::new(),
            });
            let watch = HealthService::from_health_reporter(health.clone())
                .watch(request)
                .await;
            let (store, followed) = watch::channel(Health::Ready);
            let (instruments, leave) = (Arc::new(Instruments::new()), CancellationToken::new());
            let teller = Teller {
                health,
                instruments: Arc::clone(&instruments),
            };
            #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
            let telling = tokio::task::spawn(teller.run(followed, leave.clone()));
            let mut bench = Self {
                store,
                instruments,
                leave,
                telling,
                told: watch.unwrap().into_inner(),
            };
            assert_eq!(bench.told().await, Told::Serving);
            bench
        }

        async fn told(&mut self) -> Told {
            let told = tokio::time::timeout(Duration::from_secs(20), self.told.next()).await;
            told.unwrap().unwrap().unwrap().status()
        }
    }

    #[tokio::test]
    async fn case_28_a_full_disk_is_told_before_anything_is_refused() {
        let mut bench = Bench::new().await;
        bench.store.send_replace(Health::Full);
        assert_eq!(bench.told().await, Told::NotServing);
        assert_eq!(bench.instruments.store_full.get(), 1);
        bench.store.send_replace(Health::Ready);
        assert_eq!(bench.told().await, Told::Serving);
        assert_eq!(bench.instruments.store_full.get(), 0);
        // From then on it is the drain that tells.
        bench.leave.cancel();
        bench.telling.await.unwrap();
    }

    #[tokio::test]
    async fn n31_a_store_that_is_damaged_or_gone_is_not_followed_any_more() {
        let bench = Bench::new().await;
        bench.store.send_replace(Health::Damaged);
        bench.telling.await.unwrap();
        let bench = Bench::new().await;
        drop(bench.store);
        bench.telling.await.unwrap();
    }
}
