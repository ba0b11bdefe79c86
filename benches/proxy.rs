//! CPU time of a call through the gateway, as a ratio to plain tonic forwarding of the same
//! messages: one miner, the same clients, in turn, in one run.
//!
//! Miner, gateway and forwarder are processes of their own. What counts is the time that a
//! process had a processor, user and system, all threads and the store's included. The system
//! tells it per thread in `/proc/PID/task/*/schedstat`.

#[path = "harness/promise.rs"]
mod promise;
#[path = "harness/servers.rs"]
mod servers;
#[path = "harness/table.rs"]
mod table;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use taugate::proto::v1;
use taugate::proto::v1::inference_service_client::InferenceServiceClient;
use taugate::proto::v1::stream_generate_response::Event;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use self::promise::promise;
use self::servers::{PIECE_BYTES, PIECES, Role, TASK, WHOLE_BYTES, WHOLE_TOKENS_MAX};
use self::table::{Samples, print, row};

const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 9;
/// Calls of one sample.
const UNARY: usize = 4_096;
const STREAMS: usize = 512;

/// A server in a process of its own. Ends with this one.
struct Server {
    child: Child,
    address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unary,
    Stream,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let role = arguments.first().and_then(|word| Role::named(word));
    if let Some(role) = role {
        return role.run(arguments.get(1).map(String::as_str)).await;
    }
    let miner = Server::start(Role::Miner, None);
    let plain = Server::start(Role::Plain, Some(&miner.address));
    let taugate = Server::start(Role::Taugate, Some(&miner.address));
    let mut rows = vec![row([
        "CPU of the process a call, µs",
        "taugate",
        "plain tonic",
        "taugate / plain",
    ])];
    for (kind, told) in [
        (Kind::Unary, "unary, 1 KiB each way"),
        (Kind::Stream, "stream of 200 messages of 58 bytes"),
    ] {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        let (through, beside) = (taugate.clients().await, plain.clients().await);
        // The first samples pay for connections, first slices and cold caches.
        taugate.sample(&through, kind).await;
        plain.sample(&beside, kind).await;
        for _ in 0..ROUNDS {
            ours.add(taugate.sample(&through, kind).await);
            theirs.add(plain.sample(&beside, kind).await);
        }
        let ratio = ours.over(&theirs);
        rows.push(row([told, &ours.told(1), &theirs.told(1), &ratio.told(2)]));
    }
    print(
        "A call through the gateway, 64 in flight on 8 connections, one shard",
        &rows,
    );
    drop((plain, taugate, miner));
    sessions().await;
}

/// What a session costs: the same gateway and the same miner, with and without.
async fn sessions() {
    let mut rows = vec![row([
        "CPU a call, µs, in a session",
        "with",
        "without",
        "with / without",
    ])];
    let ways = [Role::Proven, Role::Open].map(|role| {
        let miner = Server::start(role, None);
        let gateway = Server::start(Role::Taugate, Some(&miner.address));
        (miner, gateway)
    });
    let [(with_miner, with), (without_miner, without)] = &ways;
    let mut dearest = 0.0_f64;
    for (kind, told) in [
        (Kind::Unary, "unary, 1 KiB each way"),
        (Kind::Stream, "stream of 200 messages of 58 bytes"),
    ] {
        let mut samples = <[Samples; 6]>::default();
        let clients = [with.clients().await, without.clients().await];
        with.sample(&clients[0], kind).await;
        without.sample(&clients[1], kind).await;
        for _ in 0..ROUNDS {
            let pairs = [(with_miner, with), (without_miner, without)];
            for (at, (miner, gateway)) in pairs.into_iter().enumerate() {
                let miners = miner.cpu_ns();
                let gateways = gateway.sample(&clients[at], kind).await;
                let miners = miner.cpu_ns().saturating_sub(miners);
                let miners = float(miners) / 1000.0 / float(calls(kind) as u64);
                samples[at].add(gateways);
                samples[2 + at].add(miners);
                samples[4 + at].add(gateways + miners);
            }
        }
        for (at, who) in ["gateway", "miner", "both"].into_iter().enumerate() {
            let (ours, theirs) = (&samples[2 * at], &samples[2 * at + 1]);
            let told = format!("{told}: {who}");
            let ratio = ours.over(theirs);
            if who == "both" {
                dearest = dearest.max(ratio.median());
            }
            rows.push(row([&told, &ours.told(1), &theirs.told(1), &ratio.told(2)]));
        }
    }
    print("A call in a session, checked by the miner", &rows);
    promise(
        dearest <= 1.1,
        &format!("a session costs a call at most 1.10 of one without ({dearest:.2})"),
    );
}

/// Calls of one sample.
const fn calls(kind: Kind) -> usize {
    match kind {
        Kind::Unary => UNARY,
        Kind::Stream => STREAMS,
    }
}

// === impl Server ===

impl Server {
    fn start(role: Role, miner: Option<&str>) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .arg(role.as_str())
            .args(miner)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let out = child.stdout.take().expect("its output");
        let mut address = String::new();
        BufReader::new(out)
            .read_line(&mut address)
            .expect("it says where it listens");
        Self {
            child,
            address: address.trim().to_owned(),
        }
    }

    async fn clients(&self) -> Vec<InferenceServiceClient<Channel>> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(self.address.clone()).expect("an address");
            let channel = endpoint.connect().await.expect("it listens");
            clients.push(InferenceServiceClient::new(channel));
        }
        clients
    }

    /// Microseconds of CPU time a call.
    async fn sample(&self, clients: &[InferenceServiceClient<Channel>], kind: Kind) -> f64 {
        let calls = calls(kind);
        let before = self.cpu_ns();
        let mut running = JoinSet::new();
        for at in 0..IN_FLIGHT {
            let client = clients[at % clients.len()].clone();
            running.spawn(async move {
                for _ in 0..calls / IN_FLIGHT {
                    call(client.clone(), kind).await;
                }
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.expect("every call is answered whole");
        }
        float(self.cpu_ns().saturating_sub(before)) / 1000.0 / float(calls as u64)
    }

    /// The time that all its threads have had a processor.
    fn cpu_ns(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = threads.expect("this bench needs Linux's /proc");
        threads
            .flatten()
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its standard input ends, too; it may be in the middle of something.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One call, and whether its answer is whole.
async fn call(mut client: InferenceServiceClient<Channel>, kind: Kind) {
    match kind {
        Kind::Unary => {
            let answer = client.generate(request(WHOLE_TOKENS_MAX)).await;
            let answer = answer.expect("an answer").into_inner();
            assert_eq!(answer.choices[0].content.len(), WHOLE_BYTES);
        }
        Kind::Stream => {
            let answer = client.stream_generate(request(4 * WHOLE_TOKENS_MAX)).await;
            let mut answer = answer.expect("an answer").into_inner();
            let (mut bytes, mut whole) = (0, false);
            while let Some(message) = answer.message().await.expect("a whole answer") {
                match message.event {
                    Some(Event::Delta(delta)) => bytes += delta.content.len(),
                    Some(Event::Completed(_)) => whole = true,
                    Some(Event::Started(_) | Event::Progress(_)) | None => {}
                }
            }
            assert!(whole, "the answer ends");
            assert_eq!(bytes, PIECES * PIECE_BYTES);
        }
    }
}

/// A chat with a prompt of a KiB.
fn request(max_tokens: u32) -> v1::GenerateRequest {
    let part = v1::content_part::Part::Text("word ".repeat(205));
    let message = v1::ChatMessage {
        role: v1::Role::User.into(),
        parts: vec![v1::ContentPart { part: Some(part) }],
        ..v1::ChatMessage::default()
    };
    let chat = v1::ChatPayload {
        messages: vec![message],
        max_tokens: Some(max_tokens),
        ..v1::ChatPayload::default()
    };
    v1::GenerateRequest {
        task: TASK.to_owned(),
        payload: Some(v1::generate_request::Payload::Chat(chat)),
        ..v1::GenerateRequest::default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
