//! What strangers send: deadlines of every shape, headers and names of every size, keys that
//! do not hold, and headers that are not for them to write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use opentelemetry::trace::TraceId;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use taugate::identity::api_key::KeyStore as _;
use taugate::identity::key_ring::{KeyGrant, NewKey};
use taugate::proto::v1;
use taugate::task::Task;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::miner::{Act, FakeMiner};
use crate::support::process::Place;
use crate::support::wire::{connect, fetch, frame, framed, reason, request, send, status};
use crate::support::{TASK, TestGateway, chat};

const STREAM: &str = "/taugate.v1.InferenceService/StreamGenerate";
const LIST: &str = "/taugate.v1.InferenceService/ListTasks";

fn answer() -> Vec<Act> {
    vec![Act::Say("whole".into()), Act::Complete(1)]
}

/// A gateway with one task and one miner.
async fn with_task(script: Vec<Act>, change: fn(&mut Task)) -> (TestGateway, FakeMiner) {
    let miner = FakeMiner::start(script).await;
    let gateway = TestGateway::with(|config| {
        let mut task = Task::open_chat(TASK.into());
        task.weight = 1.0;
        change(&mut task);
        config.tasks = Arc::new([task].into_iter().collect());
    })
    .await;
    gateway.declare("//One", &miner, 100_000, 8).await;
    (gateway, miner)
}

/// A call with these timeouts in its headers; how it ended.
async fn ask(gateway: &TestGateway, timeouts: &[&[u8]]) -> Status {
    let public = gateway.gateway.addresses().public;
    let mut request = request(public, STREAM);
    for timeout in timeouts {
        request = request.header("grpc-timeout", *timeout);
    }
    let request = request.body(framed(&chat("hello"))).expect("a request");
    status(send(public, request).await).await
}

/// What of the books a call leaves behind: its number, and how reservations ended.
fn trace_in_books(gateway: &TestGateway) -> (u64, usize) {
    let books = gateway.gateway.books();
    let number = books.next_call(books.table().period()).call;
    let text = gateway.gateway.calls().instruments.text();
    let ended = text.matches("\ntaugate_reservations_total{").count();
    (number, ended)
}

#[tokio::test]
async fn case_17_malformed_and_passed_deadlines_touch_no_books() {
    let (gateway, miner) = with_task(answer(), |_| {}).await;
    let malformed: [&[&[u8]]; 15] = [
        &[b"-1S"],
        &[b"+1S"],
        &[b"123456789S"],
        &[b"S"],
        &[b""],
        &[b"1"],
        &[b"1s"],
        &[b"1 S"],
        &[b"1.5S"],
        &[b"1S,1S"],
        &[b"0x1S"],
        &[b"1\xc3\xa9"],
        &[b"\xff\xfe"],
        &[b"1S", b"1S"],
        &[b"1S", b"-1S"],
    ];
    let before = trace_in_books(&gateway);
    for timeouts in malformed {
        let refused = ask(&gateway, timeouts).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{timeouts:?}");
        let fields = refused.get_details_bad_request().expect("fields");
        let field = &fields.field_violations[0].field;
        assert_eq!(field, "grpc-timeout", "{timeouts:?}");
    }
    for passed in [&b"1n"[..], b"0S", b"0H", b"999u", b"00000000m"] {
        let refused = ask(&gateway, &[passed]).await;
        let found = (refused.code(), reason(&refused));
        let expected = (Code::DeadlineExceeded, "DEADLINE".to_owned());
        assert_eq!(found, expected, "{passed:?}");
    }
    let after = trace_in_books(&gateway);
    assert_eq!(after, (before.0 + 1, before.1), "a call was begun");
    assert!(miner.seen().is_empty() && miner.metadata().is_empty());
    assert_eq!(gateway.posted().await, 0);
    // Miners' calls are held to the same.
    let peer = gateway.gateway.addresses().peer;
    let path = "/taugate.v1.CapacityService/GetGateway";
    let request = request(peer, path).header("grpc-timeout", "-1S");
    let request = request.body(framed(&v1::GetGatewayRequest {}));
    let refused = status(send(peer, request.expect("a request")).await).await;
    assert_eq!(reason(&refused), "INVALID_FIELD");
}

#[tokio::test]
async fn case_17_a_missing_deadline_is_the_tasks_and_a_huge_one_is_clamped() {
    let short = Duration::from_millis(300);
    let hangs = || vec![Act::Say("half".into()), Act::Hang];
    // None: the task's own.
    let (gateway, _) = with_task(hangs(), |task| {
        task.limits.default_deadline = Duration::from_millis(300);
        task.limits.between_chunks = Duration::from_secs(600);
    })
    .await;
    let late = tokio::time::timeout(Duration::from_secs(30), ask(&gateway, &[])).await;
    let late = late.expect("it ends");
    assert_eq!(reason(&late), "DEADLINE");
    gateway.posted().await;
    // Too large: the task's longest.
    let (gateway, miner) = with_task(hangs(), |task| {
        task.limits.total = Duration::from_millis(300);
        task.limits.between_chunks = Duration::from_secs(600);
    })
    .await;
    for huge in [&b"99999999H"[..], b"99999999M", b"1H"] {
        let late = tokio::time::timeout(Duration::from_secs(30), ask(&gateway, &[huge])).await;
        assert_eq!(reason(&late.expect("it ends")), "DEADLINE", "{huge:?}");
    }
    let told: Vec<_> = miner.metadata();
    for metadata in told {
        let told = metadata.get("grpc-timeout").expect("the miner is told");
        let told = told.to_str().expect("text");
        let (amount, unit) = told.split_at(told.len() - 1);
        let amount: u64 = amount.parse().expect("a number");
        let ms = match unit {
            "n" => amount / 1_000_000,
            "u" => amount / 1_000,
            "m" => amount,
            _ => panic!("{told}"),
        };
        assert!(u128::from(ms) <= short.as_millis(), "{told}");
    }
    gateway.posted().await;
    // And with time enough, it is an answer like any other.
    let (gateway, _) = with_task(answer(), |_| {}).await;
    for plenty in [&b"99999999H"[..], b"10000000S", b"60000m"] {
        assert_eq!(ask(&gateway, &[plenty]).await.code(), Code::Ok);
    }
}

/// How many series the metrics have.
fn series(gateway: &TestGateway) -> usize {
    let text = gateway.gateway.calls().instruments.text();
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test]
async fn case_20_ten_thousand_names_make_no_series_and_fill_no_map() {
    let (gateway, miner) = with_task(answer(), |_| {}).await;
    let client = gateway.client().await;
    let named = |number: usize| {
        let mut request = chat("hello");
        request.task = match number % 5 {
            0 => format!("task-{number}"),
            1 => format!("../../{number}/etc/passwd"),
            2 => format!("{TASK}\0{number}"),
            3 => format!("\u{1b}[31m{number}\u{202e}"),
            _ => format!("{number}{}", "n".repeat(5_000)),
        };
        request
    };
    let refuse = |number: usize| {
        let (mut client, request) = (client.clone(), named(number));
        async move {
            let refused = client.generate(request).await.expect_err("no such task");
            assert_eq!(reason(&refused), "TASK_NOT_FOUND", "{number}");
            assert!(refused.message().len() <= 256 && refused.details().len() <= 4096);
        }
    };
    refuse(0).await;
    gateway.ask(chat("hello")).await;
    let before = series(&gateway);
    let names = futures_util::stream::iter(1..=10_000);
    names.for_each_concurrent(64, refuse).await;
    let calls = gateway.gateway.calls();
    gateway
        .until("all are measured", || {
            calls.instruments.inflight_streams.get() == 0
        })
        .await;
    assert_eq!(series(&gateway), before);
    assert_eq!(calls.waiting.len(), 0);
    assert_eq!(calls.capacity.load().len(), 1);
    assert_eq!(
        gateway.gateway.registry().snapshot().tasks.iter().count(),
        1
    );
    assert_eq!(miner.seen().len(), 1);
    gateway.posted().await;
}

#[tokio::test]
async fn case_20_headers_and_methods_of_every_size_are_refused_cheaply() {
    let (gateway, miner) = with_task(answer(), |_| {}).await;
    let public = gateway.gateway.addresses().public;
    let mut sender = connect(public).await;
    let unknown = |number: usize| {
        let path = format!("/taugate.v1.InferenceService/..%2F{number}");
        request(public, &path)
            .body(Body::empty())
            .expect("a request")
    };
    let first = sender.send_request(unknown(0)).await.expect("an answer");
    assert_eq!(reason(&status(first).await), "METHOD_NOT_FOUND");
    let before = series(&gateway);
    for number in 1..200 {
        let refused = sender.send_request(unknown(number)).await;
        let refused = status(refused.expect("an answer")).await;
        assert_eq!(reason(&refused), "METHOD_NOT_FOUND");
    }
    // Larger than what is taken: refused by HTTP, before anything of ours sees it.
    let large = |kib: usize| {
        let large = request(public, LIST).header("x-large", "x".repeat(kib * 1024));
        let large = large.body(framed(&v1::ListTasksRequest {}));
        large.expect("a request")
    };
    let refused = sender.send_request(large(20)).await.expect("an answer");
    let too_large = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    assert_eq!(refused.status(), too_large);
    // Far larger: its connection ends, and no other.
    let far = connect(public).await.send_request(large(64)).await;
    assert!(far.is_err_and(|error| !error.is_user()), "it was taken");
    // No text at all, in a header and in a name.
    let mut odd = request(public, LIST)
        .body(framed(&v1::ListTasksRequest {}))
        .expect("a request");
    let bytes = http::HeaderValue::from_bytes(b"\xff\xfe\x80").expect("a value");
    odd.headers_mut().insert("x-odd", bytes.clone());
    odd.headers_mut().insert("authorization", bytes);
    let refused = sender.send_request(odd).await.expect("an answer");
    assert_eq!(reason(&status(refused).await), "UNAUTHENTICATED");
    let name = frame(0, None, b"\x0a\x03\xff\xfe\x80");
    let nameless = request(public, STREAM).body(name).expect("a request");
    let refused = sender.send_request(nameless).await.expect("an answer");
    assert_eq!(reason(&status(refused).await), "INVALID_FIELD");
    // The connection lives, and nothing was counted by a stranger's words.
    let fine = request(public, LIST).body(framed(&v1::ListTasksRequest {}));
    let fine = sender.send_request(fine.expect("a request")).await;
    assert_eq!(status(fine.expect("an answer")).await.code(), Code::Ok);
    let text = gateway.gateway.calls().instruments.text();
    assert!(!text.contains("..%2F"), "{text}");
    // ListTasks with two ends and StreamGenerate with one were new.
    let per_method = text
        .lines()
        .filter(|line| line.starts_with("taugate_request_duration_seconds"))
        .filter(|line| line.contains(LIST.trim_start_matches('/')))
        .count();
    assert!(series(&gateway) <= before + 2 * per_method + 3);
    assert!(miner.seen().is_empty());
}

/// A gateway that asks for keys, and keys of it: one that holds, one that is revoked.
async fn with_keys() -> (TestGateway, NewKey, NewKey) {
    let gateway = TestGateway::with(|config| config.keys.required = true).await;
    let make = || NewKey::make("test", KeyGrant::default(), 0).expect("randomness");
    let (good, revoked) = (make(), make());
    let store = gateway.gateway.store();
    let kept = store.put_key(revoked.stored.clone()).await;
    kept.expect("it is kept");
    let id = Arc::clone(&revoked.stored.public_id);
    assert!(store.revoke_key(id, 1).await.expect("it is kept"));
    // Last, so that once it counts the other counts as revoked.
    let kept = store.put_key(good.stored.clone()).await;
    kept.expect("it is kept");
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while list(&gateway, Some(good.text())).await.code() != Code::Ok {
        let late = tokio::time::Instant::now() > limit;
        assert!(!late, "a new key is never let in");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (gateway, good, revoked)
}

/// ListTasks with that key.
async fn list(gateway: &TestGateway, key: Option<&str>) -> Status {
    let public = gateway.gateway.addresses().public;
    let mut request = request(public, LIST);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(framed(&v1::ListTasksRequest {}));
    status(send(public, request.expect("a request")).await).await
}

#[tokio::test]
async fn case_21_keys_that_do_not_hold_are_refused_with_one_text() {
    let (gateway, good, revoked) = with_keys().await;
    let unknown = NewKey::make("test", KeyGrant::default(), 0).expect("randomness");
    // The public id of the good key, and the secret of another, in a form that is right.
    let forged = {
        let (mut good, mut other) = (good.text().split('_'), unknown.text().split('_'));
        let id = good.nth(2).expect("an id");
        let rest = other.next_back().expect("a secret");
        let body = format!("tgk_test_{id}_{}", &rest[..43]);
        let mut check = crc32fast::hash(body.as_bytes());
        let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut six = [0; 6];
        for digit in six.iter_mut().rev() {
            *digit = digits[usize::try_from(check % 62).expect("small")];
            check /= 62;
        }
        format!("{body}{}", String::from_utf8_lossy(&six))
    };
    let mistyped = good.text().replace("tgk_", "tgk-");
    let long = "x".repeat(10_000);
    let cases = [
        None,
        Some(""),
        Some("nonsense"),
        Some("tgk_test__"),
        Some(mistyped.as_str()),
        Some(long.as_str()),
        Some(unknown.text()),
        Some(forged.as_str()),
        Some(revoked.text()),
    ];
    let mut said = BTreeSet::new();
    for key in cases {
        let refused = list(&gateway, key).await;
        assert_ne!(refused.code(), Code::Ok, "{key:?}");
        let retry = refused.metadata().get("grpc-retry-pushback-ms").cloned();
        said.insert((
            refused.code() as i32,
            refused.message().to_owned(),
            reason(&refused),
            refused.details().to_vec(),
            retry.expect("said").to_str().expect("text").to_owned(),
        ));
    }
    assert_eq!(said.len(), 1, "{said:?}");
    let (code, ..) = said.first().expect("one");
    assert_eq!(*code, Code::Unauthenticated as i32);
    assert_eq!(list(&gateway, Some(good.text())).await.code(), Code::Ok);
}

#[tokio::test]
async fn case_21_who_guesses_is_slowed_and_shuts_nobody_out() {
    let (gateway, good, _) = with_keys().await;
    let mut refused = Vec::new();
    for _ in 0..300 {
        let guess = NewKey::make("test", KeyGrant::default(), 0).expect("randomness");
        let status = list(&gateway, Some(guess.text())).await;
        if status.code() == Code::ResourceExhausted {
            refused.push(status);
            break;
        }
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    let status = refused.pop().expect("guesses are not slowed");
    assert_eq!(reason(&status), "RATE_LIMITED");
    let violation = status.get_details_quota_failure().expect("what it was");
    assert_eq!(violation.violations[0].subject, "address");
    let wait = status.get_details_retry_info().expect("when to try again");
    assert!(wait.retry_delay.expect("a time") > Duration::ZERO);
    // From the same address, as behind a balancer.
    for _ in 0..10 {
        assert_eq!(list(&gateway, Some(good.text())).await.code(), Code::Ok);
    }
}

#[tokio::test]
async fn case_21_no_log_metric_or_file_holds_a_key() {
    let place = Place::new(
        "[keys]\nrequired = true\n[registry]\nopen_registration = true\nopen_tasks = true\nunauthenticated_miners = true\n",
    );
    place.log_everything();
    let made = place.run(&["key", "create", "app"]).await;
    let key = String::from_utf8(made.stdout).expect("text");
    let key = key.trim().to_owned();
    let gateway = place.start().await;
    let miner = FakeMiner::start(answer()).await;
    gateway.declare("//One", miner.address, 100_000).await;
    // A key that holds, and one that is a digit away from it.
    let wrong = format!("{}x", &key[..key.len() - 1]);
    for (key, holds) in [(&key, true), (&wrong, false)] {
        let mut client = gateway.client(key).await;
        let answer = client.generate(chat("hello")).await;
        assert_eq!(answer.is_ok(), holds, "{answer:?}");
    }
    let metrics = fetch(gateway.admin(), "/metrics").await;
    assert!(metrics.contains("taugate_requests_total"), "{metrics}");
    let logged = gateway.logged();
    assert!(logged.contains("TRACE") && logged.contains("call ended"));
    gateway.stop().await;
    let secret = key.rsplit('_').next().expect("a secret");
    let holds = |text: &[u8]| {
        let part = &secret.as_bytes()[..secret.len() - 8];
        text.windows(part.len()).any(|window| window == part)
    };
    assert!(holds(key.as_bytes()), "the search finds what is there");
    assert!(!holds(logged.as_bytes()), "a log line holds the key");
    assert!(!holds(metrics.as_bytes()), "a metric holds the key");
    for file in std::fs::read_dir(place.store().parent().expect("a directory")).expect("files") {
        let file = file.expect("a file").path();
        if file.is_file() {
            let kept = std::fs::read(&file).expect("it is read");
            assert!(!holds(&kept), "{} holds the key", file.display());
        }
    }
}

#[tokio::test]
async fn case_21_headers_that_are_not_for_clients_change_nothing_and_go_nowhere() {
    let spans = Spans::install();
    let forged = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{forged}-b7ad6b7169203331-01");
    for (ratio, kept) in [(0.0, false), (1.0, true)] {
        let miner = FakeMiner::start(answer()).await;
        let gateway = TestGateway::with(|config| {
            config.telemetry.trace_ratio = ratio;
            // A slow call is always traced, and on a busy machine any call may be one.
            config.telemetry.trace_slow = Duration::from_secs(600);
        })
        .await;
        gateway.declare("//One", &miner, 100_000, 8).await;
        let mut request = tonic::Request::new(chat("hello"));
        let baggage = "x".repeat(8 * 1024);
        let headers = [
            ("traceparent", parent.as_str()),
            ("tracestate", "forged=1"),
            ("baggage", baggage.as_str()),
            ("x-forwarded-for", "203.0.113.7"),
            ("forwarded", "for=203.0.113.7"),
            ("x-real-ip", "203.0.113.7"),
            ("x-request-id", "tg-e10-1-2"),
            ("taugate-origin", "synthetic"),
            ("taugate-client", "somebody"),
            ("taugate-hotkey", "5forged"),
            ("taugate-reason", "INTERNAL"),
            ("grpc-previous-rpc-attempts", "4242424242"),
        ];
        for (name, value) in headers {
            let value = value.parse().expect("a value");
            request.metadata_mut().insert(name, value);
        }
        let answer = gateway.client().await.generate(request).await;
        let answer = answer.expect("an answer").into_inner();
        assert_ne!(answer.request_id, "tg-e10-1-2");
        gateway.posted().await;
        let sent = &miner.metadata()[0];
        for (name, value) in headers {
            assert!(sent.get(name).is_none(), "{name} reached the miner");
            assert!(!format!("{sent:?}").contains(value), "{name}");
        }
        let text = gateway.gateway.calls().instruments.text();
        assert!(text.contains(r#"origin="organic""#) && !text.contains("synthetic"));
        let traced = spans.of(&answer.request_id);
        assert_eq!(!traced.is_empty(), kept, "sampled by the client's wish");
        let forged = TraceId::from_hex(forged).expect("an id");
        assert!(!traced.contains(&forged), "the client's trace was joined");
    }
}

/// The traces that were exported, by the call's id.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Vec<(String, TraceId)>>>);

impl Spans {
    fn install() -> Self {
        let spans = Self::default();
        let exporter = spans.clone();
        let pipeline = SdkTracerProvider::builder().with_simple_exporter(exporter);
        opentelemetry::global::set_tracer_provider(pipeline.build());
        spans
    }

    fn of(&self, call: &str) -> Vec<TraceId> {
        let spans = self.0.lock().clone();
        let found = spans.into_iter().filter(|(id, _)| id == call);
        found.map(|(_, trace)| trace).collect()
    }
}

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        for span in batch {
            let id = span
                .attributes
                .iter()
                .find(|attribute| attribute.key.as_str() == "gen_ai.response.id");
            if let Some(id) = id {
                let trace = span.span_context.trace_id();
                self.0.lock().push((id.value.to_string(), trace));
            }
        }
        Ok(())
    }
}
