//! Declares to gateways what this miner can do, again and again, and tells them how it is. A
//! gateway that was away, or forgot, learns it as soon as it is back; one whose miner has no
//! model left is asked for nothing.

mod availability;
pub mod grpc;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate_ledger::engine::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::availability::Counter;
use super::condition::Condition;
use super::report::{self, Load};
use super::serve::MinerDoor;

use crate::clock::SharedClock;
use crate::identity::hotkey::Keypair;
use crate::proto::v1;

/// The kind of a declaration's signed record.
const RECORD_KIND: &str = "declaration";

/// How long a declaration is valid.
const VALIDITY_MS: u64 = 24 * 3600 * 1000;

/// A declaration with less validity left than this is replaced.
const RENEW_MS: u64 = VALIDITY_MS / 2;

/// Between two declarations to one gateway.
const AGAIN: Duration = Duration::from_secs(60);

/// The pause after a failure; doubles up to `RETRY_MAX`, and varies by a half, so that the
/// miners of a gateway that comes back do not come all at once.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// A miner whose models are all away for this long takes its declaration back.
const GONE: Duration = Duration::from_secs(60);

/// How long a gateway has to take the word that the miner stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// The longest that a withdrawal may hold up the end.
const WITHDRAWAL: Duration = Duration::from_secs(3);

/// Clocks that are further apart than this make signed calls fail.
const SKEW_MS: u64 = 4_000;

/// A gateway as a miner speaks to it.
pub trait Announce: Send + Sync + std::fmt::Debug {
    /// What to call it in logs.
    fn name(&self) -> &str;

    /// Asks who it is.
    fn gateway(&self) -> BoxFuture<'_, Result<v1::GetGatewayResponse, AnnounceError>>;

    /// Declares. Equal bytes again are a success.
    fn declare(
        &self,
        request: v1::DeclareRequest,
    ) -> BoxFuture<'_, Result<v1::DeclareResponse, AnnounceError>>;

    /// Takes the declaration back: no new work, what runs may end.
    fn withdraw(&self, request: v1::WithdrawRequest) -> BoxFuture<'_, Result<(), AnnounceError>>;

    /// Tells how the miner is for as long as there are changes and the gateway listens.
    fn tell(
        &self,
        changes: BoxStream<'static, v1::SetAvailabilityRequest>,
    ) -> BoxFuture<'_, Result<(), AnnounceError>>;
}

/// Why a gateway did not take what a miner said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// It was not reached, or cannot take it now.
    #[error("the gateway is away")]
    Away,
    /// It refuses it: not registered, malformed, for another network.
    #[error("the gateway refuses the declaration")]
    Refused,
    /// It knows a newer declaration.
    #[error("the gateway knows a newer declaration")]
    Stale,
    /// Its name of itself is no hotkey.
    #[error("the gateway's hotkey cannot be read")]
    Hotkey,
    /// The call could not be signed.
    #[error("the call cannot be signed")]
    Unsigned,
}

/// What a miner says of itself.
#[derive(Debug)]
pub struct Offer {
    /// Who signs.
    pub keypair: Arc<Keypair>,
    /// Where gateways reach the miner: `http://host:port`.
    pub endpoint: String,
    /// What it can do, over all validators.
    pub tasks: Vec<v1::DeclaredTask>,
    /// The door whose condition is told and whose load is reported.
    pub door: MinerDoor,
}

/// Declares one offer to any number of gateways; those of one network get equal bytes.
#[derive(Debug)]
pub struct Declarer {
    offer: Offer,
    clock: SharedClock,
    counter: Arc<Counter>,
    signed: Mutex<BTreeMap<String, Signed>>,
}

/// What the two halves of the talk with one gateway know of each other.
struct Standing {
    /// The sequence that the gateway holds.
    declared: watch::Sender<Option<u64>>,
    /// The gateway stopped listening; perhaps it forgot.
    again: Notify,
}

/// A pause that grows.
struct Pause {
    next: Duration,
    rng: StdRng,
}

#[derive(Clone, Debug)]
struct Signed {
    record: v1::SignedRecord,
    sequence: u64,
    valid_until_ms: u64,
}

// === impl Declarer ===

impl Declarer {
    /// Declares this offer.
    #[must_use]
    pub fn new(offer: Offer, clock: SharedClock) -> Self {
        Self {
            offer,
            counter: Arc::new(Counter::new(Arc::clone(&clock))),
            clock,
            signed: Mutex::default(),
        }
    }

    /// Keeps one gateway informed until `stop`; then says so and takes the declaration back.
    pub async fn run(&self, gateway: &dyn Announce, stop: &CancellationToken) {
        let standing = Standing {
            declared: watch::Sender::new(None),
            again: Notify::new(),
        };
        let telling = async {
            tokio::select! {
                () = self.tell(gateway, &standing) => {}
                () = async { stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => {}
            }
        };
        let declaring = stop.run_until_cancelled(self.declare_while_present(gateway, &standing));
        let (_, ()) = tokio::join!(declaring, telling);
        self.withdraw(gateway, &standing).await;
    }

    /// Declares while a model answers; never ends.
    async fn declare_while_present(&self, gateway: &dyn Announce, standing: &Standing) {
        let mut condition = self.offer.door.conditions().watch();
        loop {
            until(&mut condition, Condition::answers).await;
            tokio::select! {
                () = self.keep_declared(gateway, standing) => {}
                () = gone(&mut condition) => {
                    tracing::warn!(gateway = gateway.name(), "no model answers: withdrawing");
                    self.withdraw(gateway, standing).await;
                }
            }
        }
    }

    async fn keep_declared(&self, gateway: &dyn Announce, standing: &Standing) {
        let mut retry = self.pause();
        let mut turned_away = 0;
        loop {
            match self.declare(gateway).await {
                Ok((sequence, answer)) => {
                    standing.declared.send_replace(Some(sequence));
                    let slots = self.offer.door.slots();
                    let load = Load::of(slots, turned_away);
                    turned_away += load.turned_away;
                    let condition = self.offer.door.conditions().watch().borrow().clone();
                    report::tell(gateway.name(), &answer, &condition, load);
                    retry = self.pause();
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = standing.again.notified() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(gateway = gateway.name(), %error, "cannot declare");
                    tokio::time::sleep(retry.grow()).await;
                }
            }
        }
    }

    /// Says how the miner is once it is declared; ends with the word that it stops.
    async fn tell(&self, gateway: &dyn Announce, standing: &Standing) {
        let tasks = self.offer.tasks.iter().map(|task| task.task.clone());
        let tasks: Arc<[String]> = tasks.collect();
        let condition = self.offer.door.conditions().watch();
        let mut declared = standing.declared.subscribe();
        let mut retry = self.pause();
        loop {
            until(&mut declared, Option::is_some).await;
            let (tasks, counter) = (Arc::clone(&tasks), Arc::clone(&self.counter));
            let changes = availability::changes(condition.clone(), tasks, counter);
            let told = gateway.tell(changes).await;
            if told.is_ok() && condition.borrow().draining {
                return;
            }
            tracing::debug!(
                gateway = gateway.name(),
                ?told,
                "the gateway stopped listening"
            );
            tokio::time::sleep(retry.grow()).await;
            standing.again.notify_one();
        }
    }

    async fn withdraw(&self, gateway: &dyn Announce, standing: &Standing) {
        // One that was cut short may have arrived.
        let declared = standing.declared.send_replace(None);
        let Some(sequence) = declared.or_else(|| self.newest()) else {
            return;
        };
        let taking_back = gateway.withdraw(v1::WithdrawRequest { sequence });
        let taken_back = tokio::time::timeout(WITHDRAWAL, taking_back).await;
        if !matches!(taken_back, Ok(Ok(()))) {
            tracing::warn!(gateway = gateway.name(), "cannot withdraw");
        }
        // What was taken back is stale: the next one has to be newer.
        self.forget(sequence);
    }

    fn pause(&self) -> Pause {
        let [a, b, c, d, e, f, g, h, ..] = *self.offer.keypair.hotkey().as_bytes();
        Pause {
            next: RETRY,
            rng: StdRng::seed_from_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        }
    }

    /// Declares once; the declaration's sequence and what the gateway makes of it.
    ///
    /// # Errors
    /// When the gateway did not take it.
    pub async fn declare(
        &self,
        gateway: &dyn Announce,
    ) -> Result<(u64, v1::DeclareResponse), AnnounceError> {
        let answer = gateway.gateway().await?;
        self.compare_clocks(gateway.name(), answer.time);
        if let Some(sessions) = self.offer.door.sessions() {
            // Before it can call: it does so only once it took the declaration.
            sessions.validators().learn(gateway.name(), &answer.hotkey);
        }
        let network = answer.network;
        let signed = self.signed(&network);
        let request = v1::DeclareRequest {
            declaration: Some(signed.record),
            endpoint: self.offer.endpoint.clone(),
        };
        let answer = gateway.declare(request).await;
        if matches!(answer, Err(AnnounceError::Stale)) {
            // Perhaps withdrawn, or another process has this hotkey: the next one is newer.
            self.forget(signed.sequence);
        }
        Ok((signed.sequence, answer?))
    }

    fn compare_clocks(&self, gateway: &str, time: Option<prost_types::Timestamp>) {
        let Some(time) = time else { return };
        let seconds = u64::try_from(time.seconds).unwrap_or(0);
        let millis = u64::try_from(time.nanos / 1_000_000).unwrap_or(0);
        let theirs_ms = seconds.saturating_mul(1000).saturating_add(millis);
        let apart_ms = theirs_ms.abs_diff(self.clock.unix_ms());
        if apart_ms > SKEW_MS {
            tracing::warn!(gateway, apart_ms, "the clocks are too far apart");
        }
    }

    /// The declaration for a network; a new one where there is none that lasts.
    fn signed(&self, network: &str) -> Signed {
        let now_ms = self.clock.unix_ms();
        let mut signed = self.signed.lock();
        let held = signed.get(network);
        if let Some(held) = held.filter(|held| held.valid_until_ms > now_ms + RENEW_MS) {
            return held.clone();
        }
        let last = held.map_or(0, |held| held.sequence);
        let fresh = self.sign(network, now_ms, last);
        signed.insert(network.to_owned(), fresh.clone());
        fresh
    }

    fn sign(&self, network: &str, now_ms: u64, last: u64) -> Signed {
        let hotkey = self.offer.keypair.hotkey().to_string();
        let sequence = now_ms.max(last + 1);
        let valid_until_ms = now_ms + VALIDITY_MS;
        let declaration = v1::Declaration {
            network: network.to_owned(),
            hotkey: hotkey.clone(),
            sequence,
            valid_from_ms: now_ms,
            valid_until_ms,
            tasks: self.offer.tasks.clone(),
        };
        let payload = declaration.encode_to_vec();
        let signature = self.offer.keypair.sign_record(RECORD_KIND, &payload);
        Signed {
            record: v1::SignedRecord {
                payload,
                signature: signature.to_vec(),
                hotkey,
            },
            sequence,
            valid_until_ms,
        }
    }

    /// Keeps the sequence, so that the next one is above it.
    fn forget(&self, sequence: u64) {
        for held in self.signed.lock().values_mut() {
            if held.sequence == sequence {
                held.valid_until_ms = 0;
            }
        }
    }

    fn newest(&self) -> Option<u64> {
        self.signed.lock().values().map(|held| held.sequence).max()
    }
}

/// Waits for a value. What it is of lives as long as the waiting.
async fn until<T>(watched: &mut watch::Receiver<T>, is: impl FnMut(&T) -> bool) {
    if watched.wait_for(is).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until no model answered for a while.
async fn gone(condition: &mut watch::Receiver<Condition>) {
    loop {
        until(condition, |condition| !condition.answers()).await;
        let back = until(condition, Condition::answers);
        if tokio::time::timeout(GONE, back).await.is_err() {
            return;
        }
    }
}

// === impl Pause ===

impl Pause {
    fn grow(&mut self) -> Duration {
        let pause = self.next.mul_f64(self.rng.random_range(0.75..=1.25_f64));
        self.next = RETRY_MAX.min(self.next * 2);
        pause
    }
}
