//! A whole gateway on loopback, scripted miners, a client.

pub(crate) mod keys;
pub(crate) mod miner;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use taugate::clock::{Clock as _, SystemClock};
use taugate::config::Config;
use taugate::gateway::Gateway;
use taugate::identity::hotkey::Keypair;
use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::registry::checked::{RECORD_KIND, Record};
use taugate::synthetic::Mode;
use taugate_ledger::period::PeriodLength;
use tonic::Status;

use self::miner::FakeMiner;

pub(crate) const TASK: &str = "tiny";

/// A gateway with a store of its own.
pub(crate) struct TestGateway {
    pub(crate) gateway: Gateway,
    dir: tempfile::TempDir,
}

/// What a streamed call came to.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) started: Option<v1::Started>,
    pub(crate) text: String,
    pub(crate) completed: Option<v1::Completed>,
    pub(crate) status: Option<Status>,
}

impl TestGateway {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A gateway with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let opened = Self::open(change).await;
        opened.gateway.begin().await;
        opened
    }

    /// A gateway that is not ready yet.
    pub(crate) async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let mut config = Self::config(&dir.path().join("taugate.db"));
        change(&mut config);
        let gateway = Gateway::open(Arc::new(config), Arc::new(SystemClock)).await;
        Self::over(gateway.expect("the gateway starts"), dir)
    }

    /// A gateway that a test started on a store in that directory.
    pub(crate) const fn over(gateway: Gateway, dir: tempfile::TempDir) -> Self {
        Self { gateway, dir }
    }

    /// Ends it as an operator does; its directory stays.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.gateway.stop().await.expect("the store answers");
        self.dir
    }

    /// How a test's gateway is configured.
    pub(crate) fn config(store: &std::path::Path) -> Config {
        let mut config = Config::development();
        let any = "127.0.0.1:0".parse().expect("an address");
        (
            config.listen.public,
            config.listen.peer,
            config.listen.admin,
        ) = (any, any, any);
        config.store.path = store.to_owned();
        config.period.length = PeriodLength::from_secs(3600).expect("not zero");
        config.drain.delay = Duration::ZERO;
        config.drain.deadline = Duration::from_secs(1);
        config.gateway.shards = Some(1);
        // Tests that are about something else count calls.
        config.planner.mode = Mode::Off;
        config
    }

    /// Declares a miner: its name is a development key, such as `//One`.
    pub(crate) async fn declare(
        &self,
        name: &str,
        miner: &FakeMiner,
        units: u64,
        concurrency: u32,
    ) {
        self.declare_at(name, miner.address, units, concurrency)
            .await;
    }

    /// Declares a miner at an address.
    pub(crate) async fn declare_at(
        &self,
        name: &str,
        address: std::net::SocketAddr,
        units: u64,
        concurrency: u32,
    ) {
        let key = Keypair::from_secret(name).expect("a key");
        let now_ms = SystemClock.unix_ms();
        let declaration = v1::Declaration {
            network: self.gateway.registry().settings().network.to_string(),
            hotkey: key.hotkey().to_string(),
            sequence: now_ms,
            valid_from_ms: now_ms - 1000,
            valid_until_ms: now_ms + 3_600_000,
            tasks: vec![v1::DeclaredTask {
                task: TASK.to_owned(),
                units_per_hour: units,
                concurrency,
                kind: v1::TaskKind::Chat.into(),
            }],
        };
        let payload = declaration.encode_to_vec();
        let signature = key.sign_record(RECORD_KIND, &payload);
        let record = Record {
            hotkey: key.hotkey(),
            payload: &payload,
            signature: &signature,
        };
        let endpoint = format!("http://{address}");
        let registry = self.gateway.registry();
        registry
            .declare(record, &endpoint)
            .await
            .expect("the declaration is taken");
        let cell = self.cell(&key.hotkey().to_string());
        self.until("the router knows the miner", || {
            let table = self.gateway.books().table();
            !table.left(cell).is_zero() && self.gateway.calls().router.knows(TASK, cell)
        })
        .await;
    }

    /// Keeps what a checker would have found of an answer of a miner, quality in millionths.
    pub(crate) fn find(&self, name: &str, quality: u32) {
        let hotkey = Keypair::from_secret(name).expect("a key").hotkey();
        let cell = self.cell(&hotkey.to_string());
        let period = self.gateway.books().table().period();
        process::find(
            &self.dir.path().join("taugate.db"),
            (cell.0, period.start_s()),
            quality,
        );
    }

    /// The cell of a miner.
    pub(crate) fn cell(&self, hotkey: &str) -> taugate_ledger::ids::CellId {
        let snapshot = self.gateway.registry().snapshot();
        let offers = &snapshot.markets[TASK].offers;
        offers
            .iter()
            .find(|offer| *offer.miner.hotkey == *hotkey)
            .expect("an offer")
            .cell
    }

    pub(crate) async fn client(&self) -> InferenceServiceClient<Connection> {
        let address = self.gateway.addresses().public;
        let origin = format!("http://{address}").parse().expect("an address");
        InferenceServiceClient::with_origin(Connection::open(address).await, origin)
    }

    /// Streams a chat to its end.
    pub(crate) async fn ask(&self, request: v1::GenerateRequest) -> Heard {
        Heard::of(self.client().await.stream_generate(request).await).await
    }

    /// Waits for a condition; the test fails when it does not come.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !reached() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: did not happen"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The books close: nothing reserved, no receipt waits, each row agrees. Says the
    /// posted units of all miners.
    pub(crate) async fn posted(&self) -> u64 {
        let books = self.gateway.books();
        let table = books.table();
        self.until("nothing is reserved", || {
            table.touched().all(|cell| table.reserved(cell).is_zero()) && books.pending() == 0
        })
        .await;
        assert_eq!(books.audit(), [], "the books diverge");
        let rows = self
            .gateway
            .book_rows(table.period())
            .await
            .expect("the store answers");
        for row in &rows {
            assert!(row.closes(), "{row:?}");
        }
        rows.iter()
            .flat_map(|row| row.posted)
            .map(taugate_ledger::units::Units::get)
            .sum()
    }
}

impl Heard {
    /// All that an answer says, to its end.
    pub(crate) async fn of(
        answer: Result<tonic::Response<tonic::Streaming<v1::StreamGenerateResponse>>, Status>,
    ) -> Self {
        let mut heard = Self::default();
        match answer {
            Err(status) => heard.status = Some(status),
            Ok(answer) => {
                let mut events = answer.into_inner();
                loop {
                    match events.message().await {
                        Ok(Some(event)) => heard.add(event),
                        Ok(None) => break,
                        Err(status) => {
                            heard.status = Some(status);
                            break;
                        }
                    }
                }
            }
        }
        heard
    }

    pub(crate) fn add(&mut self, event: v1::StreamGenerateResponse) {
        use v1::stream_generate_response::Event;
        match event.event.expect("an event") {
            Event::Progress(_) => {}
            Event::Started(started) => {
                assert!(self.started.replace(started).is_none(), "started twice");
            }
            Event::Delta(delta) => self.text.push_str(&delta.content),
            Event::Completed(completed) => {
                assert!(
                    self.completed.replace(completed).is_none(),
                    "completed twice"
                );
            }
        }
    }

    /// The reason of the refusal.
    pub(crate) fn reason(&self) -> String {
        use tonic_types::StatusExt as _;
        let status = self.status.as_ref().expect("a refusal");
        status.get_details_error_info().expect("a reason").reason
    }
}

/// A chat of one message.
pub(crate) fn chat(text: &str) -> v1::GenerateRequest {
    let part = v1::content_part::Part::Text(text.to_owned());
    let message = v1::ChatMessage {
        role: v1::Role::User.into(),
        parts: vec![v1::ContentPart { part: Some(part) }],
        ..v1::ChatMessage::default()
    };
    let chat = v1::ChatPayload {
        messages: vec![message],
        max_tokens: Some(64),
        ..v1::ChatPayload::default()
    };
    v1::GenerateRequest {
        task: TASK.to_owned(),
        payload: Some(v1::generate_request::Payload::Chat(chat)),
        ..v1::GenerateRequest::default()
    }
}

/// A client's connection.
#[derive(Clone)]
pub(crate) struct Connection(pub(crate) http2::SendRequest<tonic::body::Body>);

impl Connection {
    /// Opens one to a public listener.
    pub(crate) async fn open(address: std::net::SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("the gateway listens");
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::task::spawn(driver);
        Self(sender)
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<
        Box<
            dyn Future<Output = Result<http::Response<hyper::body::Incoming>, hyper::Error>> + Send,
        >,
    >;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
