//! What consumers are told of what was consumed, over real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use taugate::clock::SystemClock;
use taugate::config::Config;
use taugate::identity::call::CallSigner;
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::proto::v1;
use taugate::proto::v1::consumption_service_client::ConsumptionServiceClient;
use taugate::proto::v1::watch_response::Event;
use taugate::report::seal;
use taugate::synthetic::Mode;
use taugate::synthetic::draw::{Draw, Draws};
use taugate::task::Task;
use taugate_ledger::consumed::Consumed;
use taugate_ledger::period::PeriodLength;
use taugate_ledger::units::Units;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::miner::{Act, FakeMiner};
use crate::support::wire::fetch;
use crate::support::{TASK, TestGateway, chat};

const PATH: &str = "/taugate.v1.ConsumptionService/";

/// Long enough for a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Incarnation, period, miner, task, origin.
type Counter = (u64, i64, String, String, i32);

/// Somebody with a hotkey who reads reports.
struct Reader {
    signer: CallSigner,
    receiver: Hotkey,
    client: ConsumptionServiceClient<Channel>,
}

/// What a consumer keeps.
#[derive(Default)]
struct Kept {
    cursor: Vec<u8>,
    counters: Consumed<Counter>,
    /// The newest of each request: parts repeat their units.
    receipts: BTreeMap<String, (u64, u64)>,
    offsets: BTreeMap<(u64, i64), Vec<u64>>,
    seals: Vec<v1::Seal>,
    snapshots: usize,
    gaps: Vec<v1::RetentionGap>,
    beats: usize,
    /// (period, miner, task) to (target, due), the newest.
    dues: BTreeMap<(i64, String, String), (u64, u64)>,
    /// How many were told.
    dues_told: usize,
}

// === impl Reader ===

impl Reader {
    async fn new(name: &str, gateway: &TestGateway) -> Self {
        let address = gateway.gateway.addresses().peer;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("the gateway listens");
        let key = Arc::new(Keypair::from_secret(name).expect("a key"));
        Self {
            signer: CallSigner::new(key, Arc::new(SystemClock)),
            receiver: gateway.gateway.hotkey(),
            client: ConsumptionServiceClient::new(channel),
        }
    }

    fn request<M: Message>(&self, method: &str, message: M) -> Request<M> {
        let (path, bytes) = (format!("{PATH}{method}"), message.encode_to_vec());
        let mut metadata = MetadataMap::new();
        let signed = self
            .signer
            .sign(&mut metadata, &path, self.receiver, &bytes);
        signed.expect("random bytes");
        Request::from_parts(metadata, Extensions::default(), message)
    }

    async fn watch(
        &self,
        consumer: &str,
        cursor: &[u8],
        receipts: bool,
    ) -> Result<Streaming<v1::WatchResponse>, Status> {
        let request = v1::WatchRequest {
            consumer: consumer.to_owned(),
            cursor: cursor.to_vec(),
            receipts,
        };
        let request = self.request("Watch", request);
        let answer = self.client.clone().watch(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn ack(&self, consumer: &str, cursor: &[u8]) -> Result<(), Status> {
        let request = v1::AckRequest {
            consumer: consumer.to_owned(),
            cursor: cursor.to_vec(),
        };
        let request = self.request("Ack", request);
        self.client.clone().ack(request).await.map(drop)
    }

    async fn scores(&self, profile: &str) -> Result<v1::GetScoresResponse, Status> {
        let profile = profile.to_owned();
        let request = self.request("GetScores", v1::GetScoresRequest { profile });
        let answer = self.client.clone().get_scores(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn period(&self, start_s: Option<i64>) -> Result<v1::GetPeriodResponse, Status> {
        let period = start_s.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        let request = self.request("GetPeriod", v1::GetPeriodRequest { period });
        let answer = self.client.clone().get_period(request).await;
        answer.map(tonic::Response::into_inner)
    }
}

// === impl Kept ===

impl Kept {
    /// Reads to the next heartbeat.
    async fn batch(&mut self, stream: &mut Streaming<v1::WatchResponse>) -> Result<(), Status> {
        loop {
            let next = tokio::time::timeout(PATIENCE, stream.message()).await;
            let next = next.expect("a consumer hears each second")?;
            let next = next.expect("it goes on");
            assert_eq!(
                next.cursor.is_empty(),
                !matches!(next.event, Some(Event::Heartbeat(_)))
            );
            match next.event.expect("an event") {
                Event::Heartbeat(_) => {
                    self.cursor = next.cursor;
                    self.beats += 1;
                    return Ok(());
                }
                Event::Consumption(entry) => self.heed(entry),
                Event::SnapshotStart(_) => {
                    self.snapshots += 1;
                    self.counters = Consumed::default();
                }
                Event::SnapshotEnd(_) => {}
                Event::Seal(seal) => self.seals.push(seal),
                Event::Gap(gap) => self.gaps.push(gap),
                Event::Due(due) => {
                    let period = due.period.expect("a period").seconds;
                    let key = (period, due.miner, due.task);
                    self.dues.insert(key, (due.target, due.due));
                    self.dues_told += 1;
                }
                Event::Receipt(placed) => {
                    let receipt = placed.receipt.expect("a receipt");
                    let period = receipt.period.expect("a period").seconds;
                    let offsets = self.offsets.entry((placed.incarnation, period));
                    offsets.or_default().push(placed.offset);
                    let newest = self.receipts.entry(receipt.request_id).or_default();
                    *newest = (placed.offset, receipt.units).max(*newest);
                }
            }
        }
    }

    fn heed(&mut self, entry: v1::Consumption) {
        let period = entry.period.expect("a period").seconds;
        let key = (
            entry.incarnation,
            period,
            entry.miner,
            entry.task,
            entry.origin,
        );
        self.counters.heed(key, entry.rev, Units::new(entry.units));
    }

    fn total(&self) -> u64 {
        self.counters.total().get()
    }
}

fn reason(status: &Status) -> (Code, String) {
    let reason = status.get_details_error_info().map(|info| info.reason);
    (status.code(), reason.unwrap_or_default())
}

fn cause(status: &Status) -> String {
    let info = status.get_details_error_info().expect("a reason");
    info.metadata.get("cause").cloned().unwrap_or_default()
}

fn bad(cause: &str) -> (Code, String, String) {
    (Code::OutOfRange, "BAD_CURSOR".into(), cause.into())
}

fn told(acked: Result<(), Status>) -> (Code, String, String) {
    let status = acked.expect_err("it was taken");
    let (code, reason) = reason(&status);
    (code, reason, cause(&status))
}

/// A miner that answers at once, and a gateway whose readers are listed.
async fn closed(more: impl FnOnce(&mut Config)) -> (FakeMiner, TestGateway) {
    let script = vec![Act::Say("twelve chars".into()), Act::Complete(3)];
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::with(|config| {
        config.reports.open = false;
        let hotkey = |name| Keypair::from_secret(name).expect("a key").hotkey();
        config.reports.readers = vec![hotkey("//Reader").to_string()];
        config.registry.open_registration = false;
        config.registry.hotkeys = vec![hotkey("//One").to_string(), hotkey("//Two").to_string()];
        more(config);
    })
    .await;
    gateway.declare("//One", &miner, 1_000_000, 8).await;
    (miner, gateway)
}

async fn calls(gateway: &TestGateway, count: usize) {
    for _ in 0..count {
        let heard = gateway.ask(chat("hello")).await;
        assert!(heard.completed.expect("a whole answer").recorded);
    }
}

#[tokio::test]
async fn a_consumer_that_is_cut_off_anywhere_ends_with_the_stores_totals() {
    let (_miner, gateway) = closed(|_| {}).await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut kept = Kept::default();
    for round in 0..10 {
        calls(&gateway, 3).await;
        let mut stream = reader
            .watch("a", &kept.cursor, true)
            .await
            .expect("a stream");
        if round % 3 == 1 {
            // It heard some and had no time to write it down.
            let _heard = stream.message().await.expect("no error");
            continue;
        }
        kept.batch(&mut stream).await.expect("a batch");
    }
    let posted = gateway.posted().await;
    let mut stream = reader
        .watch("a", &kept.cursor, true)
        .await
        .expect("a stream");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kept.total() < posted || kept.receipts.len() < 30 {
        assert!(tokio::time::Instant::now() < deadline, "{}", kept.total());
        kept.batch(&mut stream).await.expect("a batch");
    }
    assert_eq!(kept.total(), posted);
    assert_eq!(
        kept.receipts.values().map(|(_, units)| units).sum::<u64>(),
        posted
    );
    assert_eq!(kept.snapshots, 1, "a known cursor needs none");
    for offsets in kept.offsets.values_mut() {
        offsets.sort_unstable();
        offsets.dedup();
        let whole: Vec<u64> = (0..30).collect();
        assert_eq!(*offsets, whole, "offsets have no gap");
    }
    let whole = reader.period(None).await.expect("the running period");
    assert!(whole.open && whole.seals.is_empty());
    assert_eq!(
        whole.consumption.iter().map(|one| one.units).sum::<u64>(),
        posted
    );
    let (entry, one) = (&whole.consumption[0], "//One");
    let one = Keypair::from_secret(one).expect("a key").hotkey();
    assert_eq!((&*entry.miner, &*entry.task), (&*one.to_string(), TASK));
    assert_eq!((entry.origin(), entry.good), (v1::Origin::Organic, 30));
}

#[tokio::test]
async fn what_is_consumed_reaches_a_stream_that_is_open() {
    let (_miner, gateway) = closed(|_| {}).await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut stream = reader.watch("a", &[], false).await.expect("a stream");
    let mut kept = Kept::default();
    kept.batch(&mut stream).await.expect("a batch");
    let small = FakeMiner::start(vec![Act::Say("x".repeat(200)), Act::Complete(50)]).await;
    gateway.declare("//Two", &small, 200, 8).await;
    let mut beats = 0;
    calls(&gateway, 2).await;
    while kept.total() < gateway.posted().await {
        kept.batch(&mut stream).await.expect("a batch");
        beats += 1;
        assert!(beats < 30);
    }
}

#[tokio::test]
async fn a_turned_period_comes_with_a_seal_that_holds_and_sums_up() {
    let (_miner, gateway) = closed(|config| {
        config.period.length = PeriodLength::from_secs(2).expect("not zero");
    })
    .await;
    let reader = Reader::new("//Reader", &gateway).await;
    calls(&gateway, 5).await;
    let mut stream = reader.watch("a", &[], true).await.expect("a stream");
    let mut kept = Kept::default();
    let sealed = |kept: &Kept| -> u64 {
        let mut newest: BTreeMap<u64, v1::SealPayload> = BTreeMap::new();
        for one in &kept.seals {
            let said = seal::verify(one.record.as_ref().expect("a record")).expect("it holds");
            assert_eq!(said.validator, gateway.gateway.hotkey().to_string());
            newest.insert(said.period_s, said);
        }
        let totals = newest.values().flat_map(|said| &said.totals);
        totals.map(|row| row.units).sum()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kept.receipts.len() < 5 || sealed(&kept) < kept.total() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no seal: {}",
            kept.seals.len()
        );
        kept.batch(&mut stream).await.expect("a batch");
    }
    assert_eq!(sealed(&kept), kept.total());
    assert_eq!(
        kept.receipts.values().map(|(_, units)| units).sum::<u64>(),
        kept.total()
    );
    let named = seal::verify(kept.seals[0].record.as_ref().expect("a record")).expect("it holds");
    let start_s = i64::try_from(named.period_s).expect("a time");
    let whole = reader.period(Some(start_s)).await.expect("it is kept");
    assert!(!whole.open);
    assert_eq!(whole.seals[0], kept.seals[0]);
    let odd = reader
        .period(Some(start_s + 1))
        .await
        .expect_err("no start");
    assert_eq!(odd.code(), Code::InvalidArgument);
    let unknown = reader.period(Some(2)).await.expect_err("long ago");
    assert_eq!(
        reason(&unknown),
        (Code::NotFound, "PERIOD_NOT_FOUND".into())
    );
}

#[tokio::test]
async fn case_23_a_consumer_that_neither_reads_nor_acknowledges_harms_nobody() {
    let (_miner, gateway) = closed(|_| {}).await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut idle = Vec::new();
    for number in 0..8 {
        let name = format!("idle-{number}");
        idle.push(reader.watch(&name, &[], true).await.expect("a stream"));
    }
    let one_more = reader
        .watch("idle-8", &[], true)
        .await
        .expect_err("a ninth");
    assert_eq!(one_more.code(), Code::ResourceExhausted);
    calls(&gateway, 40).await;
    drop(idle.pop());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut stream = loop {
        // Its place is free once the gateway heard that it left.
        match reader.watch("other", &[], true).await {
            Ok(stream) => break stream,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut kept = Kept::default();
    let posted = gateway.posted().await;
    while kept.receipts.len() < 40 {
        kept.batch(&mut stream).await.expect("a batch");
    }
    assert_eq!(kept.total(), posted, "the others are told all");
    // Who reads at last is told all, too.
    let mut late = Kept::default();
    let mut stream = idle.pop().expect("one");
    while late.receipts.len() < 40 || late.total() < posted {
        late.batch(&mut stream).await.expect("a batch");
    }
    assert_eq!(late.total(), posted);
}

#[tokio::test]
async fn case_23_what_retention_dropped_is_said_and_the_seals_come() {
    let (_miner, gateway) = closed(|config| {
        config.period.length = PeriodLength::from_secs(1).expect("not zero");
        config.period.grace = Duration::ZERO;
        config.store.retention_periods = 1;
        config.registry.open_tasks = false;
        let mut task = Task::open_chat(TASK.into());
        task.limits.total = Duration::from_secs(2);
        task.limits.default_deadline = Duration::from_secs(2);
        config.tasks = Arc::new([task].into_iter().collect());
    })
    .await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut stream = reader.watch("a", &[], true).await.expect("a stream");
    let mut kept = Kept::default();
    kept.batch(&mut stream).await.expect("a batch");
    drop(stream);
    calls(&gateway, 4).await;
    let whole = reader.period(None).await.expect("the running period");
    let start_s = whole.period.expect("a period").seconds;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let store = gateway.gateway.store();
    while store
        .periods()
        .await
        .expect("periods")
        .iter()
        .any(|period| i64::try_from(period.start_s()).expect("a time") <= start_s)
    {
        assert!(tokio::time::Instant::now() < deadline, "nothing is dropped");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut stream = reader
        .watch("a", &kept.cursor, true)
        .await
        .expect("a stream");
    kept.batch(&mut stream).await.expect("a batch");
    assert_eq!((kept.snapshots, kept.gaps.len()), (1, 1));
    assert!(kept.gaps[0].oldest.expect("a period").seconds > start_s);
    let sealed: u64 = kept
        .seals
        .iter()
        .map(|one| seal::verify(one.record.as_ref().expect("a record")).expect("it holds"))
        .flat_map(|said| said.totals)
        .map(|row| row.units)
        .sum();
    // Twelve code points, and a part for the prompt.
    assert_eq!(sealed, 4 * 4);
    kept.batch(&mut stream).await.expect("a batch");
    assert_eq!(kept.gaps.len(), 1, "it is said once");
}

#[tokio::test]
async fn case_24_an_ack_that_cannot_be_is_refused_and_a_doubled_one_is_not() {
    let (_miner, gateway) = closed(|_| {}).await;
    let reader = Reader::new("//Reader", &gateway).await;
    calls(&gateway, 2).await;
    let mut stream = reader.watch("a", &[], true).await.expect("a stream");
    let mut kept = Kept::default();
    kept.batch(&mut stream).await.expect("a batch");
    let first = kept.cursor.clone();
    calls(&gateway, 2).await;
    while kept.receipts.len() < 4 {
        kept.batch(&mut stream).await.expect("a batch");
    }
    let second = kept.cursor.clone();
    assert_eq!(told(reader.ack("a", b"made up").await), bad("foreign"));
    assert_eq!(told(reader.ack("b", &second).await), bad("foreign"));
    reader.ack("a", &second).await.expect("it was sent");
    reader.ack("a", &second).await.expect("again");
    assert_eq!(told(reader.ack("a", &first).await), bad("regressing"));
    // One of another stream of the same consumer is beyond what this one sent.
    let mut other = reader.watch("a", &first, false).await.expect("a stream");
    let mut behind = Kept::default();
    behind.batch(&mut other).await.expect("a batch");
    assert_eq!(told(reader.ack("a", &second).await), bad("future"));
    let unnamed = reader.ack("", &second).await.expect_err("no name");
    assert_eq!(unnamed.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn case_24_of_two_streams_of_one_consumer_the_newest_lives() {
    let (_miner, gateway) = closed(|_| {}).await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut older = reader.watch("a", &[], false).await.expect("a stream");
    let mut kept = Kept::default();
    kept.batch(&mut older).await.expect("a batch");
    let mut newer = reader
        .watch("a", &kept.cursor, false)
        .await
        .expect("a stream");
    let status = loop {
        if let Err(status) = kept.batch(&mut older).await {
            break status;
        }
    };
    assert_eq!(
        reason(&status),
        (Code::Aborted, "SESSION_SUPERSEDED".into())
    );
    kept.batch(&mut newer).await.expect("the newer lives");
    let mut third = reader.watch("b", &[], false).await.expect("another name");
    kept.batch(&mut third).await.expect("both live");
    kept.batch(&mut newer).await.expect("both live");
}

#[tokio::test]
async fn case_25_a_miner_sees_its_own_cells_and_not_what_was_a_check() {
    let (_miner, gateway) = closed(|_| {}).await;
    let other = FakeMiner::start(vec![Act::Say("four".into()), Act::Complete(1)]).await;
    gateway.declare("//Two", &other, 1_000_000, 8).await;
    calls(&gateway, 20).await;
    let posted = gateway.posted().await;
    let mut sum = 0;
    for name in ["//One", "//Two"] {
        let miner = Reader::new(name, &gateway).await;
        let mut stream = miner.watch("a", &[], false).await.expect("a stream");
        let mut kept = Kept::default();
        kept.batch(&mut stream).await.expect("a batch");
        let own = Keypair::from_secret(name)
            .expect("a key")
            .hotkey()
            .to_string();
        for ((_, _, hotkey, _, origin), units) in kept.counters.iter() {
            assert_eq!((hotkey, *origin), (&own, 0));
            assert!(!units.is_zero());
        }
        sum += kept.total();
        let whole = miner.period(None).await.expect("the running period");
        assert_eq!(whole.consumption.len(), 1);
        assert_eq!(whole.consumption[0].origin(), v1::Origin::Unspecified);
        let receipts = miner.watch("b", &[], true).await.expect_err("receipts");
        assert_eq!(receipts.code(), Code::PermissionDenied);
    }
    assert_eq!(sum, posted);
    let stranger = Reader::new("//Stranger", &gateway).await;
    let refused = stranger.period(None).await.expect_err("a stranger");
    assert_eq!(
        reason(&refused),
        (Code::PermissionDenied, "NOT_REGISTERED".into())
    );
}

#[tokio::test]
async fn case_25_who_asks_too_often_waits_and_no_text_is_told() {
    let (_miner, gateway) = closed(|_| {}).await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut request = chat("a secret prompt");
    request
        .labels
        .insert("team".into(), "a secret label".into());
    let heard = gateway.ask(request).await;
    assert!(heard.completed.expect("whole").recorded);
    let mut stream = reader.watch("a", &[], true).await.expect("a stream");
    let mut seen = Vec::new();
    loop {
        let next = stream
            .message()
            .await
            .expect("no error")
            .expect("it goes on");
        let ends = matches!(next.event, Some(Event::Receipt(_)));
        seen.extend(next.encode_to_vec());
        if ends {
            break;
        }
    }
    let seen = String::from_utf8_lossy(&seen);
    for secret in ["secret", "twelve chars"] {
        assert!(!seen.contains(secret), "{secret}");
    }
    let mut refused = None;
    for _ in 0..500 {
        if let Err(status) = reader.period(None).await {
            refused = Some(status);
            break;
        }
    }
    let status = refused.expect("five hundred were answered");
    assert_eq!(
        reason(&status),
        (Code::ResourceExhausted, "RATE_LIMITED".into())
    );
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test]
async fn scores_are_told_to_validators_and_weigh_what_was_delivered_and_found_good() {
    let (miner, gateway) = closed(|config| {
        config.scores.profile = "vision-4.0";
    })
    .await;
    gateway.declare("//Two", &miner, 1_000_000, 8).await;
    let reader = Reader::new("//Reader", &gateway).await;
    let before = reader.scores("").await.expect("they are told");
    assert_eq!(before.profile, "vision-4.0");
    assert_eq!(before.scores.len(), 2, "who offers something is named");
    assert!(before.scores.iter().all(|one| one.weight.abs() < 1e-12));

    calls(&gateway, 10).await;
    for (name, quality) in [("//One", 1_000_000), ("//Two", 250_000)] {
        gateway.find(name, quality);
    }
    let told = reader.scores("vision-4.0").await.expect("they are told");
    let sum: f64 = told.scores.iter().map(|one| one.weight).sum();
    assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    let of = |name: &str| {
        let hotkey = Keypair::from_secret(name).expect("a key").hotkey();
        let mut all = told.scores.iter();
        let found = all.find(|one| one.miner == hotkey.to_string());
        found.expect("it is scored").clone()
    };
    let (one, two) = (of("//One"), of("//Two"));
    assert!((one.weight - 4.0 * two.weight).abs() < 1e-9, "{told:?}");
    assert_eq!(one.uid, None, "no metagraph says it");
    let task = &one.tasks[0];
    assert_eq!((&*task.task, task.capacity), (TASK, 1_000_000));
    assert!((task.reliability - 1.0).abs() < 1e-12 && (task.quality - 1.0).abs() < 1e-12);
    let strict = reader.scores("nineteen-6.3").await.expect("they are told");
    assert_eq!(strict.profile, "nineteen-6.3");

    let unknown = reader.scores("vision").await.expect_err("there is none");
    assert_eq!(
        reason(&unknown),
        (Code::NotFound, "PROFILE_NOT_FOUND".into())
    );
    let miner = Reader::new("//One", &gateway).await;
    let refused = miner.scores("").await.expect_err("it is a miner");
    assert_eq!(
        reason(&refused),
        (Code::PermissionDenied, "FORBIDDEN".into())
    );
}

/// A gateway whose validator sends checks itself: a tenth of each allotment.
async fn with_external_checks() -> (FakeMiner, TestGateway) {
    closed(|config| {
        config.planner.mode = Mode::External;
        config.planner.draws = Draws::new(vec![Draw::of(1.0, 0.1, 0.1)]).expect("rows");
        config.planner.floor = false;
    })
    .await
}

/// What is due of the one cell, as an operator is shown it (P8: from the same books).
async fn shown_due(gateway: &TestGateway) -> u64 {
    let answer = fetch(gateway.gateway.addresses().admin, "/v1/status").await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let told: serde_json::Value = serde_json::from_str(body).expect("JSON");
    told["cells"][0]["due"].as_u64().expect("it is planned")
}

#[tokio::test]
async fn validators_hear_what_of_checks_is_due_and_how_clients_shrink_it() {
    let (_miner, gateway) = with_external_checks().await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut stream = reader.watch("a", &[], false).await.expect("a stream");
    let mut kept = Kept::default();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kept.dues.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nothing is due");
        kept.batch(&mut stream).await.expect("a batch");
    }
    let one = Keypair::from_secret("//One").expect("a key").hotkey();
    let ((_, miner, task), due) = kept.dues.first_key_value().expect("one");
    assert_eq!((&**miner, &**task), (&*one.to_string(), TASK));
    assert_eq!(*due, (100_000, 100_000));
    assert_eq!(shown_due(&gateway).await, 100_000);
    let told = kept.dues_told;
    kept.batch(&mut stream).await.expect("a batch");
    assert_eq!(kept.dues_told, told, "what did not change is not told");
    calls(&gateway, 5).await;
    let posted = gateway.posted().await;
    assert_eq!(shown_due(&gateway).await, 100_000 - posted);
    let now = |kept: &Kept| *kept.dues.first_key_value().expect("one").1;
    while now(&kept) != (100_000, 100_000 - posted) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", now(&kept));
        kept.batch(&mut stream).await.expect("a batch");
    }
    // A cursor that goes on is told all of it anew: what is due has no cursor.
    let mut again = Kept::default();
    let mut stream = reader
        .watch("a", &kept.cursor, false)
        .await
        .expect("a stream");
    again.batch(&mut stream).await.expect("a batch");
    assert_eq!((again.snapshots, again.dues), (0, kept.dues));
}

#[tokio::test]
async fn miners_hear_nothing_of_checks() {
    let (_miner, gateway) = with_external_checks().await;
    let reader = Reader::new("//Reader", &gateway).await;
    let mut stream = reader.watch("a", &[], false).await.expect("a stream");
    let mut kept = Kept::default();
    while kept.dues.is_empty() {
        kept.batch(&mut stream).await.expect("a batch");
    }
    let miner = Reader::new("//One", &gateway).await;
    let mut stream = miner.watch("a", &[], false).await.expect("a stream");
    let mut kept = Kept::default();
    calls(&gateway, 2).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kept.total() < gateway.posted().await {
        assert!(tokio::time::Instant::now() < deadline);
        kept.batch(&mut stream).await.expect("a batch");
    }
    assert_eq!(kept.dues_told, 0);
}
