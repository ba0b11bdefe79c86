//! A sidecar declares, repeats equal bytes, is newer when it is stale, and withdraws.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taugate::clock::ManualClock;
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::proto::v1;
use taugate::sidecar::declare::{Announce, AnnounceError};
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use taugate_ledger::engine::BoxFuture;
use tokio_util::sync::CancellationToken;

use prost::Message as _;

/// A gateway that remembers what it was told.
#[derive(Debug, Default)]
struct Gateway {
    declared: Mutex<Vec<v1::DeclareRequest>>,
    withdrawn: Mutex<Vec<u64>>,
    told: tokio::sync::Notify,
}

impl Announce for Gateway {
    fn name(&self) -> &str {
        "test"
    }

    fn gateway(&self) -> BoxFuture<'_, Result<v1::GetGatewayResponse, AnnounceError>> {
        let answer = v1::GetGatewayResponse {
            network: "net".to_owned(),
            ..Default::default()
        };
        Box::pin(async { Ok(answer) })
    }

    /// The first one is stale.
    fn declare(
        &self,
        request: v1::DeclareRequest,
    ) -> BoxFuture<'_, Result<v1::DeclareResponse, AnnounceError>> {
        let mut declared = self.declared.lock();
        declared.push(request);
        let count = declared.len();
        drop(declared);
        self.told.notify_one();
        Box::pin(async move {
            if count == 1 {
                Err(AnnounceError::Stale)
            } else {
                Ok(v1::DeclareResponse::default())
            }
        })
    }

    fn withdraw(&self, request: v1::WithdrawRequest) -> BoxFuture<'_, Result<(), AnnounceError>> {
        self.withdrawn.lock().push(request.sequence);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_keeps_a_gateway_informed_and_withdraws_at_its_end() {
    let gateway = Arc::new(Gateway::default());
    let settings = SidecarSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        endpoint: None,
        tasks: vec![ServedTask {
            task: "m".into(),
            model: Arc::new(SimulatedModel::new(Simulation::default())),
            units_per_hour: 9,
        }],
        concurrency: 3,
        gateways: vec![Arc::clone(&gateway) as Arc<dyn Announce>],
        keypair: Arc::new(Keypair::from_secret("//Alice").unwrap()),
        clock: Arc::new(ManualClock::at(1_000)),
        drain: Duration::from_secs(1),
    };
    let sidecar = Sidecar::bind(settings).await.unwrap();
    let endpoint = format!("http://{}", sidecar.address());
    let stop = CancellationToken::new();
    let watching = async {
        while gateway.declared.lock().len() < 3 {
            gateway.told.notified().await;
        }
        // Between two declarations, not within one.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
    };
    tokio::join!(sidecar.run(stop.clone()), watching);

    let declared = gateway.declared.lock().clone();
    let mut sequences = Vec::new();
    for request in &declared {
        assert_eq!(request.endpoint, endpoint);
        let record = request.declaration.clone().unwrap();
        let hotkey: Hotkey = record.hotkey.parse().unwrap();
        hotkey
            .verify_record("declaration", &record.payload, &record.signature)
            .unwrap();
        let declaration = v1::Declaration::decode(record.payload.as_slice()).unwrap();
        assert_eq!(
            (declaration.network.as_str(), &declaration.hotkey),
            ("net", &record.hotkey)
        );
        assert_eq!(
            (
                declaration.tasks[0].units_per_hour,
                declaration.tasks[0].concurrency
            ),
            (9, 3)
        );
        sequences.push(declaration.sequence);
    }
    assert_eq!(sequences, [1_000, 1_001, 1_001]);
    assert_eq!(declared[1], declared[2], "equal bytes");
    assert_eq!(*gateway.withdrawn.lock(), [1_001]);
}
