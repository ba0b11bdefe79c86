//! TLS on both ways between gateways and miners: who shows no certificate of the right
//! authority is not spoken to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use taugate::client;
use taugate::clock::{SharedClock, SystemClock};
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::Keypair;
use taugate::identity::tls::{ClientFiles, ServerFiles, Tls};
use taugate::sidecar::declare::Announce;
use taugate::sidecar::declare::grpc::GrpcGateway;
use taugate::sidecar::sessions::Validators;
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use taugate::sidecar::{ServedTask, Sidecar, SidecarSettings};
use tokio_util::sync::CancellationToken;

use crate::support::{TASK, TestGateway};

/// An authority, and the folder with what it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

// === impl Authority ===

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let dir = tempfile::tempdir().expect("a scratch directory");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("it is written");
        Self { issuer, dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for this machine, and its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("it signs");
        let path = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        std::fs::write(path("crt"), signed.pem()).expect("it is written");
        std::fs::write(path("key"), key.serialize_pem()).expect("it is written");
        (path("crt"), path("key"))
    }
}

/// A sidecar with that name, behind TLS, that declares with that certificate.
async fn sidecar(
    name: &str,
    (serving, client_ca): ((PathBuf, PathBuf), Option<PathBuf>),
    gateway: Arc<dyn Announce>,
) -> Sidecar {
    let (cert, key) = serving;
    let model = SimulatedModel::new(Simulation {
        tokens_per_s: 0.0,
        prefill_tokens_per_s: 0.0,
        ..Simulation::default()
    });
    let settings = SidecarSettings {
        validators: Arc::new(Validators::learned()),
        tls: Some(
            Tls::load(ServerFiles {
                cert,
                key,
                client_ca,
            })
            .expect("files"),
        ),
        listen: "127.0.0.1:0".parse().expect("an address"),
        endpoint: None,
        tasks: vec![ServedTask {
            task: TASK.into(),
            model: Arc::new(model),
            units_per_hour: 1_000_000,
        }],
        concurrency: 8,
        gateways: vec![gateway],
        keypair: Arc::new(Keypair::from_secret(name).expect("a key")),
        clock: Arc::new(SystemClock),
        drain: Duration::ZERO,
    };
    Sidecar::bind(settings).await.expect("a free port")
}

fn announce(name: &str, gateway: &TestGateway, files: ClientFiles) -> Arc<dyn Announce> {
    let clock: SharedClock = Arc::new(SystemClock);
    let key = Arc::new(Keypair::from_secret(name).expect("a key"));
    let at = format!("https://{}", gateway.gateway.addresses().peer);
    let tls = Tls::load(files).expect("files");
    let announce = GrpcGateway::trusting(&at, CallSigner::new(key, clock), tls);
    Arc::new(announce.expect("an address"))
}

/// Until calls can go to the one miner.
async fn until_offered(gateway: &TestGateway) {
    let known = || {
        let snapshot = gateway.gateway.registry().snapshot();
        let market = snapshot.markets.get(TASK);
        let offers = market.map_or(&[][..], |market| &market.offers);
        let router = &gateway.gateway.calls().router;
        offers.iter().any(|offer| router.knows(TASK, offer.cell))
    };
    gateway.until("the miner declared", known).await;
}

/// What becomes of a call, over TLS.
async fn ask(gateway: &TestGateway, ca: &Path) -> Result<(), String> {
    let at = format!("https://{}", gateway.gateway.addresses().public);
    let ca = std::fs::read(ca).expect("a file");
    let client = client::Client::connect_trusting(&at, None, Some(&ca)).await;
    let client = client.expect("the gateway is trusted");
    let answer = client
        .generate(&client::chat(TASK, "hello", Some(16)))
        .await;
    answer.map(drop).map_err(|refused| format!("{refused:?}"))
}

/// A gateway that shows certificates of `ours`, and wants them of everybody but clients.
async fn guarded(ours: &Authority) -> TestGateway {
    let (cert, key) = ours.sign("gateway");
    let (client_cert, client_key) = ours.sign("gateway-as-client");
    TestGateway::with(|config| {
        config.registry.unauthenticated_miners = false;
        (config.listen.cert_file, config.listen.key_file) = (Some(cert), Some(key));
        config.listen.peer_client_ca_file = Some(ours.ca());
        config.registry.miners_ca_file = Some(ours.ca());
        config.registry.miners_cert_file = Some(client_cert);
        config.registry.miners_key_file = Some(client_key);
    })
    .await
}

#[tokio::test]
async fn gateway_and_miner_show_each_other_certificates_both_ways() {
    let ours = Authority::new();
    let gateway = guarded(&ours).await;
    let (cert, key) = ours.sign("miner");
    let files = ClientFiles {
        ca: Some(ours.ca()),
        own: Some((cert.clone(), key.clone())),
    };
    let announce = announce("//One", &gateway, files);
    let sidecar = sidecar("//One", ((cert, key), Some(ours.ca())), announce).await;
    let stop = CancellationToken::new();
    let asking = async {
        until_offered(&gateway).await;
        let asked = ask(&gateway, &ours.ca()).await;
        stop.cancel();
        asked
    };
    let (asked, ()) = tokio::join!(asking, sidecar.run(stop.clone()));
    assert_eq!(asked, Ok(()));
}

#[tokio::test]
async fn who_shows_no_certificate_of_the_right_authority_is_not_spoken_to() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let gateway = guarded(&ours).await;
    let trusted = Some(ours.ca());
    for (what, files) in [
        (
            "none",
            ClientFiles {
                ca: trusted.clone(),
                own: None,
            },
        ),
        (
            "a foreign one",
            ClientFiles {
                ca: trusted.clone(),
                own: Some(theirs.sign("miner")),
            },
        ),
        (
            "ours, to whom it does not trust",
            ClientFiles {
                ca: Some(theirs.ca()),
                own: Some(ours.sign("miner")),
            },
        ),
    ] {
        let refused = announce("//One", &gateway, files).gateway().await;
        assert!(refused.is_err(), "{what}");
    }
    let files = ClientFiles {
        ca: trusted,
        own: Some(ours.sign("miner")),
    };
    let known = announce("//One", &gateway, files.clone()).gateway().await;
    assert!(known.is_ok(), "{known:?}");

    // A miner that shows another authority's certificate gets no request.
    let announced = announce("//Two", &gateway, files);
    let impostor = sidecar("//Two", (theirs.sign("impostor"), None), announced).await;
    let stop = CancellationToken::new();
    let asking = async {
        until_offered(&gateway).await;
        let asked = ask(&gateway, &ours.ca()).await;
        stop.cancel();
        asked
    };
    let (asked, ()) = tokio::join!(asking, impostor.run(stop.clone()));
    let refused = asked.expect_err("it is nobody's");
    assert!(refused.contains("ATTEMPTS_EXHAUSTED"), "{refused}");
}
