//! A sidecar declares, repeats equal bytes, is newer when it is stale, and withdraws; its
//! calls are signed for the gateway that they go to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use prost::Message as _;
use taugate::clock::{ManualClock, SharedClock};
use taugate::identity::StoreAway;
use taugate::identity::call::{CallSigner, CallVerifier, Registered};
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::identity::nonce::{Nonce, NonceStore};
use taugate::proto::v1;
use taugate::proto::v1::capacity_service_server::{CapacityService, CapacityServiceServer};
use taugate::sidecar::declare::grpc::GrpcGateway;
use taugate::sidecar::declare::{Announce, AnnounceError};
use taugate::sidecar::model::{Events, Model};
use taugate::sidecar::sessions::Validators;
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use taugate_ledger::engine::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A gateway that remembers what it was told.
#[derive(Debug, Default)]
struct Gateway {
    declared: Mutex<Vec<v1::DeclareRequest>>,
    withdrawn: Mutex<Vec<u64>>,
    said: Mutex<Vec<(v1::Availability, bool)>>,
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
        self.told.notify_one();
        Box::pin(async { Ok(()) })
    }

    fn tell(
        &self,
        mut changes: BoxStream<'static, v1::SetAvailabilityRequest>,
    ) -> BoxFuture<'_, Result<(), AnnounceError>> {
        Box::pin(async move {
            while let Some(change) = changes.next().await {
                self.said.lock().push((change.availability(), change.last));
                self.told.notify_one();
            }
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_keeps_a_gateway_informed_and_withdraws_at_its_end() {
    let gateway = Arc::new(Gateway::default());
    let settings = SidecarSettings {
        validators: Arc::new(Validators::anyone()),
        tls: None,
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
    let said = [
        (v1::Availability::Free, false),
        (v1::Availability::Draining, true),
    ];
    assert_eq!(*gateway.said.lock(), said);
}

/// A model that is there or not, as the test says.
#[derive(Debug, Default)]
pub(crate) struct Coming(std::sync::atomic::AtomicBool);

impl Coming {
    pub(crate) fn set(&self, present: bool) {
        self.0.store(present, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Model for Coming {
    fn chat(&self, _: v1::ChatPayload) -> Events {
        futures_util::stream::empty().boxed()
    }

    fn is_present(&self) -> BoxFuture<'_, bool> {
        let present = self.0.load(std::sync::atomic::Ordering::SeqCst);
        Box::pin(async move { present })
    }
}

impl Gateway {
    /// Waits until it was told so much.
    async fn until(&self, told: impl Fn(&Self) -> bool) {
        while !told(self) {
            self.told.notified().await;
        }
    }

    fn sequences(&self) -> Vec<u64> {
        let declared = self.declared.lock().clone();
        let sequence = |request: v1::DeclareRequest| {
            let record = request.declaration.unwrap();
            let declaration = v1::Declaration::decode(record.payload.as_slice());
            declaration.unwrap().sequence
        };
        declared.into_iter().map(sequence).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_declared_for_models_that_are_gone() {
    let (gateway, model) = (Arc::new(Gateway::default()), Arc::new(Coming::default()));
    let sidecar = Sidecar::bind(SidecarSettings {
        validators: Arc::new(Validators::anyone()),
        tls: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        endpoint: None,
        tasks: vec![ServedTask {
            task: "m".into(),
            model: Arc::clone(&model) as Arc<dyn Model>,
            units_per_hour: 9,
        }],
        concurrency: 3,
        gateways: vec![Arc::clone(&gateway) as Arc<dyn Announce>],
        keypair: Arc::new(Keypair::from_secret("//Alice").unwrap()),
        clock: Arc::new(ManualClock::at(1_000)),
        drain: Duration::ZERO,
    });
    let (sidecar, stop) = (sidecar.await.unwrap(), CancellationToken::new());
    let told = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(gateway.declared.lock().is_empty(), "it is not there yet");

        model.set(true);
        gateway
            .until(|gateway| gateway.said.lock().len() == 1)
            .await;
        assert_eq!(gateway.sequences(), [1_000, 1_001], "the first is stale");
        assert_eq!(gateway.said.lock()[0].0, v1::Availability::Free);

        // Away for a moment: no work, but still declared.
        model.set(false);
        gateway
            .until(|gateway| gateway.said.lock().len() == 2)
            .await;
        assert_eq!(gateway.said.lock()[1].0, v1::Availability::Busy);
        model.set(true);
        gateway
            .until(|gateway| gateway.said.lock().len() == 3)
            .await;
        assert_eq!(gateway.said.lock()[2].0, v1::Availability::Free);
        assert!(gateway.withdrawn.lock().is_empty());

        // Away for long.
        model.set(false);
        gateway
            .until(|gateway| !gateway.withdrawn.lock().is_empty())
            .await;
        let declared = gateway.sequences().len();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(gateway.sequences().len(), declared);
        model.set(true);
        gateway
            .until(|gateway| gateway.sequences().len() > declared)
            .await;
        assert_eq!(
            gateway.sequences()[declared],
            1_002,
            "newer than the one taken back"
        );
        stop.cancel();
    };
    tokio::join!(sidecar.run(stop.clone()), told);
    assert_eq!(*gateway.withdrawn.lock(), [1_001, 1_002]);
}

/// A gateway's door that verifies calls and calls a declaration without an endpoint stale.
#[derive(Debug)]
struct Door {
    verifier: CallVerifier,
    hotkey: Hotkey,
    said: Arc<Mutex<Vec<u64>>>,
}

/// Takes every nonce for new.
#[derive(Debug)]
struct Nonces;

impl Registered for Nonces {
    fn is_registered(&self, _: &Hotkey) -> bool {
        true
    }
}

impl NonceStore for Nonces {
    fn spend_nonce(&self, _: Hotkey, _: Nonce, _: u64) -> BoxFuture<'_, Result<bool, StoreAway>> {
        Box::pin(async { Ok(true) })
    }
}

impl Door {
    async fn caller<M: prost::Message>(
        &self,
        method: &str,
        request: &Request<M>,
    ) -> Result<Hotkey, Status> {
        let path = format!("/taugate.v1.CapacityService/{method}");
        let bytes = request.get_ref().encode_to_vec();
        let caller = self
            .verifier
            .verify(request.metadata(), &path, &bytes)
            .await;
        caller.map_err(|error| Status::unauthenticated(error.to_string()))
    }
}

#[tonic::async_trait]
impl CapacityService for Door {
    async fn get_gateway(
        &self,
        _: Request<v1::GetGatewayRequest>,
    ) -> Result<Response<v1::GetGatewayResponse>, Status> {
        let hotkey = self.hotkey.to_string();
        Ok(Response::new(v1::GetGatewayResponse {
            hotkey,
            ..Default::default()
        }))
    }

    async fn declare(
        &self,
        request: Request<v1::DeclareRequest>,
    ) -> Result<Response<v1::DeclareResponse>, Status> {
        let caller = self.caller("Declare", &request).await?;
        assert_eq!(caller, Keypair::from_secret("//Alice").unwrap().hotkey());
        if request.get_ref().endpoint.is_empty() {
            let details = ErrorDetails::with_error_info("STALE", "taugate", HashMap::new());
            return Err(Status::with_error_details(
                Code::InvalidArgument,
                "older",
                details,
            ));
        }
        Ok(Response::new(v1::DeclareResponse::default()))
    }

    async fn withdraw(
        &self,
        request: Request<v1::WithdrawRequest>,
    ) -> Result<Response<v1::WithdrawResponse>, Status> {
        self.caller("Withdraw", &request).await?;
        Ok(Response::new(v1::WithdrawResponse {}))
    }

    async fn set_availability(
        &self,
        request: Request<Streaming<v1::SetAvailabilityRequest>>,
    ) -> Result<Response<v1::SetAvailabilityResponse>, Status> {
        let path = "/taugate.v1.CapacityService/SetAvailability";
        let caller = self.verifier.verify(request.metadata(), path, &[]).await;
        caller.map_err(|error| Status::unauthenticated(error.to_string()))?;
        let mut changes = request.into_inner();
        while let Some(change) = changes.message().await? {
            self.said.lock().push(change.counter);
            if change.last {
                return Ok(Response::new(v1::SetAvailabilityResponse::default()));
            }
            if self.said.lock().len() == 3 {
                return Err(Status::aborted("another stream is newer"));
            }
        }
        Err(Status::cancelled("it ended without a word"))
    }

    type WatchCapacityStream = tokio_stream::Empty<Result<v1::WatchCapacityResponse, Status>>;

    async fn watch_capacity(
        &self,
        _: Request<v1::WatchCapacityRequest>,
    ) -> Result<Response<Self::WatchCapacityStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

#[tokio::test]
async fn calls_to_a_gateway_are_signed_for_it() {
    let receiver = Keypair::from_secret("//Bob").unwrap().hotkey();
    let clock: SharedClock = Arc::new(ManualClock::at(1_000_000));
    let said: Arc<Mutex<Vec<u64>>> = Arc::default();
    let door = |hotkey| Door {
        verifier: CallVerifier::new(
            receiver,
            Arc::clone(&clock),
            Arc::new(Nonces),
            Arc::new(Nonces),
        ),
        hotkey,
        said: Arc::clone(&said),
    };
    let alice = Arc::new(Keypair::from_secret("//Alice").unwrap());
    let signer = CallSigner::new(Arc::clone(&alice), Arc::clone(&clock));
    let declare = |endpoint: &str| v1::DeclareRequest {
        endpoint: endpoint.to_owned(),
        declaration: None,
    };

    let (address, _serving) = serve(door(receiver)).await;
    let gateway = GrpcGateway::new(&address, signer.clone()).unwrap();
    assert!(gateway.declare(declare("http://a:1")).await.is_ok());
    assert_eq!(
        gateway.declare(declare("")).await,
        Err(AnnounceError::Stale)
    );
    assert_eq!(
        gateway.withdraw(v1::WithdrawRequest { sequence: 1 }).await,
        Ok(())
    );

    // A whole stream, then one that the gateway ends while the miner has more to say.
    let change = |counter, last| v1::SetAvailabilityRequest {
        counter,
        last,
        ..Default::default()
    };
    let whole = futures_util::stream::iter([change(1, false), change(2, true)]);
    assert_eq!(gateway.tell(whole.boxed()).await, Ok(()));
    let silent = futures_util::stream::iter([change(3, false)]);
    let silent = silent.chain(futures_util::stream::pending()).boxed();
    assert_eq!(gateway.tell(silent).await, Err(AnnounceError::Refused));
    assert_eq!(*said.lock(), [1, 2, 3]);

    // One that gives itself out for another.
    let (address, _serving) = serve(door(alice.hotkey())).await;
    let gateway = GrpcGateway::new(&address, signer.clone()).unwrap();
    assert_eq!(
        gateway.declare(declare("http://a:1")).await,
        Err(AnnounceError::Refused)
    );

    let nobody = GrpcGateway::new("http://127.0.0.1:1", signer.clone()).unwrap();
    assert_eq!(nobody.gateway().await, Err(AnnounceError::Away));
    assert!(GrpcGateway::new("https://127.0.0.1:1", signer).is_err());
}

async fn serve(door: Door) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(CapacityServiceServer::new(door));
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        connection.await.unwrap();
    };
    #[expect(clippy::disallowed_methods, reason = "ends with the handle")]
    let serving = AbortOnDropHandle::new(tokio::spawn(serving));
    (address, serving)
}
