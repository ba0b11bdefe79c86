//! Signed calls: who sends this very message to us, now, for the first time.

use std::sync::Arc;

use prost::Message;
use rand::TryRng as _;
use rand::rngs::SysRng;
use sha2::{Digest as _, Sha256};
use tonic::metadata::{MetadataMap, MetadataValue};

use super::hotkey::{Hotkey, Keypair};
use super::nonce::{Nonce, NonceStore};
use super::signature::{SignatureBytes, fields};
use crate::clock::SharedClock;
use crate::proto::v1::OpenSessionRequest;

/// First field of a signed call.
const TAG: &[u8] = b"taugate-auth-v1";

/// The method that opens a session of a gateway with a miner ([`super::session`]).
pub const OPEN_SESSION: &str = "/taugate.v1.MinerService/OpenSession";

/// How far apart the clocks of sender and receiver may be.
const SKEW_MS: u64 = 5_000;

/// How long a nonce is remembered: longer than its time can be taken for now.
const KEEP_MS: u64 = 20_000;

/// Why a call is not taken for its sender's. For our log; the sender learns only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A piece of metadata is missing or malformed.
    #[error("{0} is missing or malformed")]
    Metadata(&'static str),
    /// The clocks are too far apart, or the call is old.
    #[error("the call is not of now")]
    Time,
    /// It was signed by somebody else, for somebody else, or over something else.
    #[error("the signature does not hold")]
    Signature,
    /// It was signed by a hotkey that has no business here.
    #[error("the hotkey is not registered")]
    NotRegistered,
    /// It was seen before.
    #[error("the nonce was used before")]
    Replayed,
    /// The engine is away: whether it was seen before is not known.
    #[error("the engine is unavailable")]
    Away,
}

/// Signs calls.
#[derive(Clone, Debug)]
pub struct CallSigner {
    keypair: Arc<Keypair>,
    clock: SharedClock,
}

/// Verifies calls to one receiver.
#[derive(Clone, Debug)]
pub struct CallVerifier {
    receiver: Hotkey,
    clock: SharedClock,
    nonces: Arc<dyn NonceStore>,
    registered: Arc<dyn Registered>,
}

/// What a signed call says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Who signed.
    pub(super) sender: Hotkey,
    /// When, Unix milliseconds.
    pub(super) time_ms: u64,
    /// Random.
    pub(super) nonce: Nonce,
}

/// Knows who is registered.
pub trait Registered: Send + Sync + std::fmt::Debug {
    /// Whether a hotkey may call at all.
    fn is_registered(&self, hotkey: &Hotkey) -> bool;
}

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoNonce;

// === impl CallSigner ===

impl CallSigner {
    /// Signs with a key.
    #[must_use]
    pub fn new(keypair: Arc<Keypair>, clock: SharedClock) -> Self {
        Self { keypair, clock }
    }

    /// Who signs.
    #[must_use]
    pub fn hotkey(&self) -> Hotkey {
        self.keypair.hotkey()
    }

    /// Adds the signature of a call to its metadata. `path` is the method's, such as
    /// `/taugate.v1.CapacityService/Declare`.
    ///
    /// # Errors
    /// When there are no random bytes for a nonce.
    pub fn sign(
        &self,
        metadata: &mut MetadataMap,
        path: &str,
        receiver: Hotkey,
        message: &[u8],
    ) -> Result<(), NoNonce> {
        let (row, signature) = self.sign_row(path, receiver, message)?;
        if let Ok(sender) = MetadataValue::try_from(row.sender.to_string()) {
            metadata.insert("taugate-hotkey", sender);
        }
        metadata.insert("taugate-timestamp-ms", MetadataValue::from(row.time_ms));
        metadata.insert_bin("taugate-nonce-bin", MetadataValue::from_bytes(&row.nonce));
        metadata.insert_bin(
            "taugate-signature-bin",
            MetadataValue::from_bytes(&signature),
        );
        Ok(())
    }

    /// Signs a call of now.
    pub(super) fn sign_row(
        &self,
        path: &str,
        receiver: Hotkey,
        message: &[u8],
    ) -> Result<(Row, SignatureBytes), NoNonce> {
        let mut nonce: Nonce = [0; 16];
        SysRng.try_fill_bytes(&mut nonce).map_err(|_| NoNonce)?;
        let row = Row {
            sender: self.hotkey(),
            time_ms: self.clock.unix_ms(),
            nonce,
        };
        let signature = self.keypair.sign(&row.bytes(path, receiver, message));
        Ok((row, signature))
    }
}

// === impl CallVerifier ===

impl CallVerifier {
    /// Verifies calls to `receiver` by those who are registered; the receiver is, always.
    #[must_use]
    pub fn new(
        receiver: Hotkey,
        clock: SharedClock,
        nonces: Arc<dyn NonceStore>,
        registered: Arc<dyn Registered>,
    ) -> Self {
        Self {
            receiver,
            clock,
            nonces,
            registered,
        }
    }

    /// Who sent a message. The cheapest checks come first; a nonce is spent only by a call
    /// whose signature holds, of somebody who is registered. Only who proved a hotkey learns
    /// that it is not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn verify(
        &self,
        metadata: &MetadataMap,
        path: &str,
        message: &[u8],
    ) -> Result<Hotkey, CallError> {
        let sender: Hotkey = text(metadata, "taugate-hotkey")?
            .parse()
            .map_err(|_| CallError::Metadata("taugate-hotkey"))?;
        let time_ms: u64 = text(metadata, "taugate-timestamp-ms")?
            .parse()
            .map_err(|_| CallError::Metadata("taugate-timestamp-ms"))?;
        let row = Row {
            sender,
            time_ms,
            nonce: binary(metadata, "taugate-nonce-bin")?,
        };
        let signature: SignatureBytes = binary(metadata, "taugate-signature-bin")?;
        self.check(row, &signature, (path, message)).await
    }

    /// Who asks this miner for a session; checked as [`CallVerifier::verify`] does, but for
    /// what is signed, which stands in the message.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn verify_opening(&self, request: &OpenSessionRequest) -> Result<Hotkey, CallError> {
        let row = Row::of(request).ok_or(CallError::Metadata("a field"))?;
        if request.miner.parse() != Ok(self.receiver) || request.ephemeral_key.len() != 32 {
            return Err(CallError::Metadata("a field"));
        }
        let message = (OPEN_SESSION, request.ephemeral_key.as_slice());
        self.check(row, &request.signature, message).await
    }

    async fn check(
        &self,
        row: Row,
        signature: &[u8],
        (path, message): (&str, &[u8]),
    ) -> Result<Hotkey, CallError> {
        let now_ms = self.clock.unix_ms();
        if now_ms.abs_diff(row.time_ms) > SKEW_MS {
            return Err(CallError::Time);
        }
        let (sender, nonce) = (row.sender, row.nonce);
        sender
            .verify(&row.bytes(path, self.receiver, message), signature)
            .map_err(|_| CallError::Signature)?;
        if sender != self.receiver && !self.registered.is_registered(&sender) {
            return Err(CallError::NotRegistered);
        }
        let keep_until_ms = now_ms.saturating_add(KEEP_MS);
        match self.nonces.spend_nonce(sender, nonce, keep_until_ms).await {
            Ok(true) => Ok(sender),
            Ok(false) => Err(CallError::Replayed),
            Err(_) => Err(CallError::Away),
        }
    }
}

/// The exact bytes of a message as our own clients send it.
#[must_use]
pub fn exact_bytes(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

// === impl Row ===

impl Row {
    /// What a question for a session says of itself; `None`: it is malformed.
    pub(super) fn of(request: &OpenSessionRequest) -> Option<Self> {
        Some(Self {
            sender: request.gateway.parse().ok()?,
            time_ms: request.timestamp_ms,
            nonce: request.nonce.as_slice().try_into().ok()?,
        })
    }

    /// The bytes that are signed.
    pub(super) fn bytes(&self, path: &str, receiver: Hotkey, message: &[u8]) -> Vec<u8> {
        fields(&[
            TAG,
            path.as_bytes(),
            receiver.as_bytes(),
            self.sender.as_bytes(),
            &self.time_ms.to_be_bytes(),
            &self.nonce,
            &Sha256::digest(message),
        ])
    }
}

pub(super) fn text<'a>(
    metadata: &'a MetadataMap,
    name: &'static str,
) -> Result<&'a str, CallError> {
    let mut values = metadata.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| CallError::Metadata(name)),
        (None | Some(_), _) => Err(CallError::Metadata(name)),
    }
}

pub(super) fn binary<const LENGTH: usize>(
    metadata: &MetadataMap,
    name: &'static str,
) -> Result<[u8; LENGTH], CallError> {
    let mut values = metadata.get_all_bin(name).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_bytes().ok(),
        (None | Some(_), _) => None,
    };
    let bytes = value.ok_or(CallError::Metadata(name))?;
    bytes
        .as_ref()
        .try_into()
        .map_err(|_| CallError::Metadata(name))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use parking_lot::Mutex;
    use taugate_ledger::engine::BoxFuture;

    use super::*;
    use crate::clock::ManualClock;
    use crate::identity::StoreAway;

    #[derive(Debug, Default)]
    struct Nonces(Mutex<HashSet<(Hotkey, Nonce)>>);

    impl NonceStore for Nonces {
        fn spend_nonce(
            &self,
            hotkey: Hotkey,
            nonce: Nonce,
            _: u64,
        ) -> BoxFuture<'_, Result<bool, StoreAway>> {
            Box::pin(async move { Ok(self.0.lock().insert((hotkey, nonce))) })
        }
    }

    #[derive(Debug)]
    struct Only(Hotkey);

    impl Registered for Only {
        fn is_registered(&self, hotkey: &Hotkey) -> bool {
            *hotkey == self.0
        }
    }

    const PATH: &str = "/taugate.v1.CapacityService/Declare";
    const NOW_MS: u64 = 1_700_000_000_000;

    struct Pair {
        signer: CallSigner,
        verifier: CallVerifier,
        receiver: Hotkey,
        clock: Arc<ManualClock>,
        nonces: Arc<Nonces>,
    }

    fn pair() -> Pair {
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let nonces = Arc::new(Nonces::default());
        let key = |name: &str| Arc::new(Keypair::from_secret(name).unwrap());
        let receiver = key("//Bob").hotkey();
        Pair {
            signer: CallSigner::new(key("//Alice"), Arc::clone(&clock) as SharedClock),
            verifier: CallVerifier::new(
                receiver,
                Arc::clone(&clock) as SharedClock,
                Arc::clone(&nonces) as Arc<dyn NonceStore>,
                Arc::new(Only(key("//Alice").hotkey())),
            ),
            receiver,
            clock,
            nonces,
        }
    }

    #[tokio::test]
    async fn a_call_is_good_once_for_its_method_receiver_time_and_bytes() {
        // N25 and abuse case 26.
        let pair = pair();
        let mut metadata = MetadataMap::new();
        pair.signer
            .sign(&mut metadata, PATH, pair.receiver, b"bytes")
            .unwrap();
        let verify = async |path, bytes| pair.verifier.verify(&metadata, path, bytes).await;
        assert_eq!(
            verify("/taugate.v1.CapacityService/Withdraw", b"bytes").await,
            Err(CallError::Signature)
        );
        assert_eq!(verify(PATH, b"other").await, Err(CallError::Signature));
        for clock_ms in [NOW_MS - 5_001, NOW_MS + 5_001] {
            pair.clock.set(clock_ms);
            assert_eq!(verify(PATH, b"bytes").await, Err(CallError::Time));
        }
        pair.clock.set(NOW_MS);
        assert!(
            pair.nonces.0.lock().is_empty(),
            "the unverified spent a nonce"
        );
        assert_eq!(verify(PATH, b"bytes").await, Ok(pair.signer.hotkey()));
        assert_eq!(verify(PATH, b"bytes").await, Err(CallError::Replayed));
    }

    #[tokio::test]
    async fn a_call_for_another_receiver_or_without_a_whole_signature_is_refused() {
        let pair = pair();
        let mut metadata = MetadataMap::new();
        pair.signer
            .sign(&mut metadata, PATH, pair.signer.hotkey(), b"bytes")
            .unwrap();
        assert_eq!(
            pair.verifier.verify(&metadata, PATH, b"bytes").await,
            Err(CallError::Signature)
        );
        for length in [0, 63, 65] {
            let bytes = vec![0; length];
            metadata.insert_bin("taugate-signature-bin", MetadataValue::from_bytes(&bytes));
            let refused = pair.verifier.verify(&metadata, PATH, b"bytes").await;
            assert_eq!(refused, Err(CallError::Metadata("taugate-signature-bin")));
        }
        metadata.remove_bin("taugate-signature-bin");
        assert!(
            pair.verifier
                .verify(&metadata, PATH, b"bytes")
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_hotkey_that_is_not_registered_spends_no_nonce() {
        let pair = pair();
        let clock = Arc::clone(&pair.clock) as SharedClock;
        let stranger = Arc::new(Keypair::from_secret("//Mallory").unwrap());
        let stranger = CallSigner::new(stranger, clock);
        let mut metadata = MetadataMap::new();
        let signed = stranger.sign(&mut metadata, PATH, pair.receiver, b"bytes");
        signed.unwrap();
        let verdict = pair.verifier.verify(&metadata, PATH, b"bytes").await;
        assert_eq!(verdict, Err(CallError::NotRegistered));
        // Whoever has not even proven the hotkey learns nothing of it.
        let verdict = pair.verifier.verify(&metadata, PATH, b"other").await;
        assert_eq!(verdict, Err(CallError::Signature));
        assert!(pair.nonces.0.lock().is_empty());
    }

    #[tokio::test]
    async fn metadata_that_stands_twice_or_not_as_it_should_is_refused() {
        let pair = pair();
        let alice = pair.signer.hotkey().to_string();
        let polkadot = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5";
        let mistyped = alice.replacen('w', "x", 1);
        let texts = [
            ("taugate-hotkey", ""),
            ("taugate-hotkey", "0x"),
            ("taugate-hotkey", polkadot),
            ("taugate-hotkey", &mistyped),
            ("taugate-timestamp-ms", ""),
            ("taugate-timestamp-ms", "-1"),
            ("taugate-timestamp-ms", "1e12"),
            ("taugate-timestamp-ms", "99999999999999999999999"),
        ];
        for (name, value) in texts {
            let mut metadata = MetadataMap::new();
            let signed = pair.signer.sign(&mut metadata, PATH, pair.receiver, b"");
            signed.unwrap();
            metadata.insert(name, value.parse().unwrap());
            let verdict = pair.verifier.verify(&metadata, PATH, b"").await;
            assert_eq!(verdict, Err(CallError::Metadata(name)), "{name}: {value}");
        }
        for name in ["taugate-nonce-bin", "taugate-signature-bin"] {
            let mut metadata = MetadataMap::new();
            let signed = pair.signer.sign(&mut metadata, PATH, pair.receiver, b"");
            signed.unwrap();
            let value = metadata.get_bin(name).unwrap().clone();
            metadata.append_bin(name, value);
            let verdict = pair.verifier.verify(&metadata, PATH, b"").await;
            assert_eq!(verdict, Err(CallError::Metadata(name)), "{name} twice");
        }
        assert!(pair.nonces.0.lock().is_empty());
    }
}
