//! A sidecar and a real gateway: what the gateway holds of a miner follows its condition, and
//! a gateway that starts again with empty books learns of it without being asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate::clock::{SharedClock, SystemClock};
use taugate::config::Config;
use taugate::gateway::Gateway;
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::registry::snapshot::Availability;
use taugate::sidecar::declare::grpc::GrpcGateway;
use taugate::sidecar::model::Model;
use taugate::sidecar::sessions::Validators;
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use tokio_util::sync::CancellationToken;

use crate::declaring::Coming;

pub(crate) const ANY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(crate) async fn gateway(dir: &std::path::Path, peer: SocketAddr) -> Gateway {
    let mut config = Config::development();
    (config.listen.public, config.listen.admin) = (ANY, ANY);
    config.listen.peer = peer;
    config.store.path = dir.join("taugate.db");
    config.drain.delay = Duration::ZERO;
    config.planner.mode = taugate::synthetic::Mode::Off;
    config.gateway.shards = Some(1);
    Gateway::start(Arc::new(config), Arc::new(SystemClock))
        .await
        .unwrap()
}

/// Waits until this is what the gateway holds of the one miner; `None`: nothing.
pub(crate) async fn until(gateway: &Gateway, availability: Option<Availability>) {
    let mut changed = gateway.registry().subscribe();
    let waiting = async {
        loop {
            let snapshot = gateway.registry().snapshot();
            let market = snapshot.markets.get("m");
            let offer = market.and_then(|market| market.offers.first());
            if offer.map(|offer| offer.availability) == availability {
                return;
            }
            changed.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "never {availability:?}");
}

fn sidecar(model: &Arc<Coming>, peer: SocketAddr) -> SidecarSettings {
    let clock: SharedClock = Arc::new(SystemClock);
    let keypair = Arc::new(Keypair::from_secret("//Alice").unwrap());
    let signer = CallSigner::new(Arc::clone(&keypair), Arc::clone(&clock));
    let announce = GrpcGateway::new(&format!("http://{peer}"), signer).unwrap();
    SidecarSettings {
        validators: Arc::new(Validators::learned()),
        tls: None,
        listen: ANY,
        endpoint: None,
        tasks: vec![ServedTask {
            task: "m".into(),
            model: Arc::clone(model) as Arc<dyn Model>,
            units_per_hour: 1_000_000,
        }],
        concurrency: 3,
        gateways: vec![Arc::new(announce)],
        keypair,
        clock,
        drain: Duration::ZERO,
    }
}

#[tokio::test]
async fn what_a_gateway_holds_follows_the_miner() {
    let (dir, model) = (tempfile::tempdir().unwrap(), Arc::new(Coming::default()));
    let first = gateway(dir.path(), ANY).await;
    let peer = first.addresses().peer;
    let sidecar = Sidecar::bind(sidecar(&model, peer)).await.unwrap();
    let stop = CancellationToken::new();
    let told = async {
        model.set(true);
        until(&first, Some(Availability::Free)).await;
        model.set(false);
        until(&first, Some(Availability::Busy)).await;
        model.set(true);
        until(&first, Some(Availability::Free)).await;
        first.stop().await.unwrap();

        let emptied = tempfile::tempdir().unwrap();
        let second = gateway(emptied.path(), peer).await;
        until(&second, Some(Availability::Free)).await;
        model.set(false);
        until(&second, Some(Availability::Busy)).await;
        stop.cancel();
        until(&second, None).await;
        second.stop().await.unwrap();
    };
    tokio::join!(sidecar.run(stop.clone()), told);
}
