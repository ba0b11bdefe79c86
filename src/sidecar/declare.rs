//! Declares to gateways what this miner can do, again and again: a gateway that was away, or
//! forgot, learns it within a minute.

pub mod grpc;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use taugate_ledger::engine::BoxFuture;
use tokio_util::sync::CancellationToken;

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

/// The pause after a failure; doubles up to `AGAIN`.
const RETRY: Duration = Duration::from_secs(1);

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
}

/// Declares one offer to any number of gateways; those of one network get equal bytes.
#[derive(Debug)]
pub struct Declarer {
    offer: Offer,
    clock: SharedClock,
    signed: Mutex<BTreeMap<String, Signed>>,
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
            clock,
            signed: Mutex::default(),
        }
    }

    /// Keeps one gateway informed until `stop`; then takes the declaration back.
    pub async fn run(&self, gateway: &dyn Announce, stop: &CancellationToken) {
        let mut declared = None;
        let mut retry = RETRY;
        loop {
            let declaring = stop.run_until_cancelled(self.declare(gateway)).await;
            let pause = match declaring {
                None => break,
                Some(Ok(sequence)) => {
                    declared = Some(sequence);
                    retry = RETRY;
                    AGAIN
                }
                Some(Err(error)) => {
                    tracing::warn!(gateway = gateway.name(), %error, "cannot declare");
                    let pause = retry;
                    retry = AGAIN.min(retry * 2);
                    pause
                }
            };
            let waited = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            if waited.is_none() {
                break;
            }
        }
        // One that was cut short may have arrived.
        if let Some(sequence) = declared.or_else(|| self.newest()) {
            let taking_back = gateway.withdraw(v1::WithdrawRequest { sequence });
            let taken_back = tokio::time::timeout(WITHDRAWAL, taking_back).await;
            if !matches!(taken_back, Ok(Ok(()))) {
                tracing::warn!(gateway = gateway.name(), "cannot withdraw");
            }
        }
    }

    /// Declares once; the declaration's sequence.
    ///
    /// # Errors
    /// When the gateway did not take it.
    pub async fn declare(&self, gateway: &dyn Announce) -> Result<u64, AnnounceError> {
        let answer = gateway.gateway().await?;
        self.compare_clocks(gateway.name(), answer.time);
        let network = answer.network;
        let signed = self.signed(&network);
        let request = v1::DeclareRequest {
            declaration: Some(signed.record),
            endpoint: self.offer.endpoint.clone(),
        };
        let answer = gateway.declare(request).await;
        if matches!(answer, Err(AnnounceError::Stale)) {
            // Perhaps withdrawn, or another process has this hotkey: the next one is newer.
            self.forget(&network, signed.sequence);
        }
        for allotment in answer?.allotments {
            let task = allotment.task;
            if allotment.left_out.is_empty() {
                let units = allotment.allotment;
                tracing::debug!(gateway = gateway.name(), task, units, "declared");
            } else {
                let why = allotment.left_out;
                tracing::warn!(gateway = gateway.name(), task, why, "a task is left out");
            }
        }
        Ok(signed.sequence)
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
    fn forget(&self, network: &str, sequence: u64) {
        if let Some(held) = self.signed.lock().get_mut(network)
            && held.sequence == sequence
        {
            held.valid_until_ms = 0;
        }
    }

    fn newest(&self) -> Option<u64> {
        self.signed.lock().values().map(|held| held.sequence).max()
    }
}
