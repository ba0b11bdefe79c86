//! Case 16, the plain part: those who connect and then say nothing, or come too often.

use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Connection, TestGateway};

/// The limit of the design, with what a busy machine adds.
const CLOSED: Duration = Duration::from_secs(6);

/// A gateway with a certificate, and what trusts it.
async fn with_tls() -> (TestGateway, tempfile::TempDir, TlsConnector) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let made = made.expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("it is written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("it is written");
    let gateway = TestGateway::with(|config| {
        config.limits.handshake = Duration::from_millis(300);
        (config.listen.cert_file, config.listen.key_file) = (Some(cert), Some(key));
    })
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let mut trust = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    trust.alpn_protocols = vec![b"h2".to_vec()];
    (gateway, dir, TlsConnector::from(Arc::new(trust)))
}

/// A body is not looked at while its client takes nothing, so that no end of a method's own
/// is seen then.
#[tokio::test]
async fn a_connection_that_was_asked_to_go_and_takes_nothing_is_cut() {
    let gateway = TestGateway::with(|config| {
        let mut task = taugate::task::Task::open_chat(crate::support::TASK.into());
        task.limits.total = Duration::from_secs(1);
        config.tasks = Arc::new([task].into_iter().collect());
        // A task that a declaration opens could take longer.
        config.registry.open_tasks = false;
        config.limits.slow_consumer = Duration::from_secs(1);
        config.limits.connection_age = Duration::from_secs(1);
    })
    .await;
    let public = gateway.gateway.addresses().public;
    let stream = TcpStream::connect(public).await.expect("open");
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let driver = tokio::task::spawn(driver);
    let origin = format!("http://{public}").parse().expect("an address");
    let mut client = InferenceServiceClient::with_origin(Connection(sender), origin);
    // Its headers come; its one message never can.
    let asked = client.list_tasks(v1::ListTasksRequest {});
    let cut = async { tokio::join!(asked, driver) };
    let cut = tokio::time::timeout(Duration::from_secs(60), cut).await;
    let (answer, _) = cut.expect("it is cut");
    assert!(answer.is_err(), "{answer:?}");
}

/// Reads until the gateway closes; it must do so in time.
async fn closed(name: &str, stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let closed = stream.read_to_end(&mut rest);
    let closed = tokio::time::timeout(CLOSED, closed).await;
    // How it is closed is no matter: an end or a reset.
    drop(closed.unwrap_or_else(|_| panic!("{name} stays open")));
}

#[tokio::test]
async fn case_16_who_says_nothing_before_in_or_after_a_tls_handshake_is_closed() {
    let (gateway, _dir, trust) = with_tls().await;
    let public = gateway.gateway.addresses().public;
    let open = || async { TcpStream::connect(public).await.expect("open") };
    let name = || "localhost".try_into().expect("a name");
    // Greets first, so that it lives longest.
    let greeted = trust.connect(name(), open().await).await.expect("TLS");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(greeted));
    let (sender, driver) = handshake.await.expect("HTTP/2");
    tokio::task::spawn(driver);

    closed("a silent connection", &mut open().await).await;
    let mut half = open().await;
    // The head of a ClientHello of 512 bytes, and a few of them.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 40]].concat();
    half.write_all(&hello).await.expect("sent");
    closed("half a handshake", &mut half).await;
    let mut dripping = open().await;
    let drip = async {
        for byte in hello {
            if dripping.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        closed("a handshake that drips", &mut dripping).await;
    };
    tokio::time::timeout(CLOSED, drip)
        .await
        .expect("closed in time");
    let mut silent = trust.connect(name(), open().await).await.expect("TLS");
    closed("silence behind TLS", &mut silent).await;

    let origin = format!("https://{public}").parse().expect("an address");
    let mut client = InferenceServiceClient::with_origin(Connection(sender), origin);
    let listed = client.list_tasks(v1::ListTasksRequest {}).await;
    listed.expect("who greeted is served on");
}

#[tokio::test]
async fn case_16_one_address_has_so_many_connections_and_gets_its_places_back() {
    let gateway = TestGateway::with(|config| {
        config.limits.connections_per_address_max = 2;
        // Not for their silence.
        config.limits.handshake = Duration::from_secs(600);
    })
    .await;
    let public = gateway.gateway.addresses().public;
    let (first, _second) = (gateway.client().await, gateway.client().await);
    let instruments = &gateway.gateway.calls().instruments;
    let open = instruments.connections("public");
    gateway.until("both are counted", || open.get() == 2).await;
    for _ in 0..3 {
        let mut more = TcpStream::connect(public).await.expect("open");
        closed("one connection too many", &mut more).await;
    }
    drop(first);
    let deadline = tokio::time::Instant::now() + CLOSED;
    loop {
        let listed = async {
            let stream = TcpStream::connect(public).await.ok()?;
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, driver) = handshake.await.ok()?;
            tokio::task::spawn(driver);
            let origin = format!("http://{public}").parse().expect("an address");
            let mut client = InferenceServiceClient::with_origin(Connection(sender), origin);
            client.list_tasks(v1::ListTasksRequest {}).await.ok()
        };
        if listed.await.is_some() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no place came back");
    }
    gateway.until("the last left", || open.get() == 1).await;
    let text = instruments.text();
    let peer = "taugate_connections{listener=\"peer\"} 0";
    assert!(text.contains(peer), "{text}");
}
