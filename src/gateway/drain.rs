//! The end of a gateway, in order: not ready, no new connections, streams to their end, cut,
//! receipts durable, slices given back, incarnation closed.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::engine::ExchangeError;

use super::{Gateway, build};

/// The longest that receipts are waited for once nothing runs.
const SETTLE: Duration = Duration::from_secs(5);

/// The longest that connections have to send what calls said last.
const FLUSH: Duration = Duration::from_secs(2);

pub(super) async fn run(mut gateway: Gateway) -> Result<(), ExchangeError> {
    let drain = gateway.config.drain;
    gateway.stops.drain.cancel();
    gateway.instruments.draining.set(1);
    for service in build::SERVICES {
        let not = tonic_health::ServingStatus::NotServing;
        gateway.health.set_service_status(service, not).await;
    }
    tracing::info!(delay_s = drain.delay.as_secs(), "draining");
    // Load balancers in front need this long to notice.
    tokio::time::sleep(drain.delay).await;
    for service in build::SERVICES {
        // Ends Watch streams, which would otherwise keep their connections open.
        gateway.health.clear_service_status(service).await;
    }
    gateway.stops.accept.cancel();
    gateway.calls.running.close();
    if tokio::time::timeout(drain.deadline, gateway.calls.running.wait())
        .await
        .is_err()
    {
        tracing::warn!("streams are cut at the drain's deadline");
    }
    gateway.stops.cut.cancel();
    gateway.calls.running.wait().await;
    flush(&gateway).await;
    gateway.stops.gone.cancel();
    if !gateway.books.settle(SETTLE).await {
        tracing::error!(
            receipts = gateway.books.pending(),
            "receipts were not durable in time"
        );
    }
    gateway.stops.control.cancel();
    gateway.supervisor.join().await;
    let closed = gateway.books.close().await;
    let joined = tokio::task::spawn_blocking(move || {
        for door in gateway.doors {
            if let Ok(shards) = Arc::try_unwrap(door) {
                shards.join();
            }
        }
    });
    if joined.await.is_err() {
        tracing::error!("a shard did not end well");
    }
    closed
}

/// Waits until connections, which were asked to go, are gone by themselves.
async fn flush(gateway: &Gateway) {
    const LOOK: Duration = Duration::from_millis(10);
    let gone = async {
        while gateway.doors.iter().any(|door| door.connections() > 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(FLUSH, gone).await.is_err() {
        tracing::info!("connections are cut");
    }
}
