//! Sessions between a gateway and a miner: both prove their hotkeys once and agree on a key,
//! so that each request needs a keyed hash and no signature.
//!
//! The gateway signs the row of a signed call ([`super::signature`]) to
//! `/taugate.v1.MinerService/OpenSession`, from itself to the miner, whose message is its
//! ephemeral X25519 key. The miner signs the row `taugate-session-v1`, the gateway's row, the
//! session's id, its own ephemeral key, and the session's end (Unix milliseconds, 8 bytes,
//! big end first). The session's key is BLAKE2b-256, keyed with what X25519 made of both
//! ephemeral keys, over what the miner signed: nobody who reads along, or learns a hotkey
//! later, has it.
//!
//! A request in a session carries in its metadata the session's id (`taugate-session-bin`),
//! a counter that no other request of the session has (`taugate-counter`), and
//! `taugate-mac-bin`: BLAKE2b-256, keyed with the session's key, over the method's path, the
//! counter (8 bytes, big end first) and the message's exact bytes, each behind its length as
//! four bytes, big end first.

use std::fmt;
use std::time::Duration;

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use curve25519_dalek::MontgomeryPoint;
use rand::TryRng as _;
use rand::rngs::SysRng;
use subtle::ConstantTimeEq as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use zeroize::Zeroizing;

use super::call::{CallError, CallSigner, NoNonce, OPEN_SESSION, Row, binary, text};
use super::hotkey::{Hotkey, Keypair};
use super::signature::fields;
use crate::proto::v1::{OpenSessionRequest, OpenSessionResponse};

/// First field of what the miner signs.
const TAG: &[u8] = b"taugate-session-v1";

/// The longest that a session may last.
pub const LIFE_MAX: Duration = Duration::from_secs(15 * 60);

/// How far behind the highest counter one may come: requests of one session overtake each
/// other on their way, but not by more than a connection has streams.
const WINDOW: u64 = 4096;
const WORDS: usize = 64;

/// Where the metadata of a request in a session stands.
const SESSION: &str = "taugate-session-bin";
const COUNTER: &str = "taugate-counter";
const MAC: &str = "taugate-mac-bin";

/// Names a session.
pub type SessionId = [u8; 16];

/// Why an answer opens no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A field has another length than it must have.
    #[error("{0} is malformed")]
    Field(&'static str),
    /// The miner's signature does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// The other side's key makes a secret that everybody knows.
    #[error("the ephemeral key is none")]
    Key,
    /// The session would last too long, or not at all.
    #[error("the session's end is out of range")]
    Life,
    /// The operating system gave no random bytes.
    #[error(transparent)]
    NoNonce(#[from] NoNonce),
}

/// A session's key. Wiped on drop and never printed.
pub struct SessionKey(Zeroizing<[u8; 32]>);

/// What a gateway keeps of its question until the miner answers.
pub struct Asked {
    miner: Hotkey,
    secret: Zeroizing<[u8; 32]>,
    /// The row that was signed.
    row: Vec<u8>,
    timestamp_ms: u64,
}

/// An open session, as the gateway has it.
#[derive(Debug)]
pub struct Opened {
    /// Its name.
    pub id: SessionId,
    /// Its key.
    pub key: SessionKey,
    /// How long it lasts from the moment when it was asked for.
    pub life: Duration,
}

/// What a request in a session says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The session's name.
    pub session: SessionId,
    /// Its number in the session.
    pub counter: u64,
    mac: [u8; 32],
}

/// The counters that were seen: each counts once, in nearly any order.
#[derive(Debug)]
pub struct Window {
    /// One above the highest that was seen.
    next: u64,
    /// Bit `n % WINDOW` stands for counter `n`, for those that are in the window.
    seen: [u64; WORDS],
}

// === impl Asked ===

impl Asked {
    /// The question of a gateway to a miner, signed.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn new(signer: &CallSigner, miner: Hotkey) -> Result<(Self, OpenSessionRequest), NoNonce> {
        let secret = secret()?;
        let ephemeral_key = MontgomeryPoint::mul_base_clamped(*secret).to_bytes();
        let (row, signature) = signer.sign_row(OPEN_SESSION, miner, &ephemeral_key)?;
        let request = OpenSessionRequest {
            gateway: row.sender.to_string(),
            miner: miner.to_string(),
            ephemeral_key: ephemeral_key.to_vec(),
            timestamp_ms: row.time_ms,
            nonce: row.nonce.to_vec(),
            signature: signature.to_vec(),
        };
        let asked = Self {
            miner,
            secret,
            row: row.bytes(OPEN_SESSION, miner, &ephemeral_key),
            timestamp_ms: row.time_ms,
        };
        Ok((asked, request))
    }

    /// What came of it.
    ///
    /// # Errors
    /// When the answer is malformed, or not by the miner that was asked.
    pub fn opened(self, answer: &OpenSessionResponse) -> Result<Opened, SessionError> {
        let id: SessionId = array(&answer.session_id, "session_id")?;
        let theirs: [u8; 32] = array(&answer.ephemeral_key, "ephemeral_key")?;
        let signed = answered(&self.row, &id, &theirs, answer.expires_ms);
        self.miner
            .verify(&signed, &answer.signature)
            .map_err(|_| SessionError::Signature)?;
        // By our clock at both ends: the clocks may be some seconds apart.
        let life = answer.expires_ms.checked_sub(self.timestamp_ms);
        let life = life.map(Duration::from_millis).ok_or(SessionError::Life)?;
        Ok(Opened {
            id,
            key: SessionKey::agree(&self.secret, theirs, &signed)?,
            life: life.min(LIFE_MAX),
        })
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Asked");
        shown.field("miner", &self.miner).finish_non_exhaustive()
    }
}

/// A miner's answer to a question whose signature it has verified
/// ([`super::call::CallVerifier::verify_opening`]), and the key of the session.
///
/// # Errors
/// When the gateway's ephemeral key is none, or there are no random bytes.
pub fn answer(
    keypair: &Keypair,
    request: &OpenSessionRequest,
    expires_ms: u64,
) -> Result<(SessionId, SessionKey, OpenSessionResponse), SessionError> {
    let theirs: [u8; 32] = array(&request.ephemeral_key, "ephemeral_key")?;
    let row = Row::of(request).ok_or(SessionError::Field("gateway"))?;
    let row = row.bytes(OPEN_SESSION, keypair.hotkey(), &theirs);
    let mut id: SessionId = [0; 16];
    SysRng.try_fill_bytes(&mut id).map_err(|_| NoNonce)?;
    let secret = secret()?;
    let ours = MontgomeryPoint::mul_base_clamped(*secret).to_bytes();
    let signed = answered(&row, &id, &ours, expires_ms);
    let key = SessionKey::agree(&secret, theirs, &signed)?;
    let answer = OpenSessionResponse {
        session_id: id.to_vec(),
        ephemeral_key: ours.to_vec(),
        expires_ms,
        signature: keypair.sign(&signed).to_vec(),
    };
    Ok((id, key, answer))
}

/// What the miner signs.
fn answered(row: &[u8], id: &SessionId, ephemeral_key: &[u8; 32], expires_ms: u64) -> Vec<u8> {
    fields(&[TAG, row, id, ephemeral_key, &expires_ms.to_be_bytes()])
}

fn secret() -> Result<Zeroizing<[u8; 32]>, NoNonce> {
    let mut secret = Zeroizing::new([0; 32]);
    SysRng
        .try_fill_bytes(secret.as_mut_slice())
        .map_err(|_| NoNonce)?;
    Ok(secret)
}

fn array<const LENGTH: usize>(
    bytes: &[u8],
    field: &'static str,
) -> Result<[u8; LENGTH], SessionError> {
    bytes.try_into().map_err(|_| SessionError::Field(field))
}

// === impl SessionKey ===

impl SessionKey {
    fn agree(
        secret: &Zeroizing<[u8; 32]>,
        theirs: [u8; 32],
        signed: &[u8],
    ) -> Result<Self, SessionError> {
        let shared = Zeroizing::new(MontgomeryPoint(theirs).mul_clamped(**secret).to_bytes());
        // A point of small order makes the same secret for everybody.
        if bool::from(shared.ct_eq(&[0; 32])) {
            return Err(SessionError::Key);
        }
        Ok(Self(Zeroizing::new(keyed(&shared, &[signed]))))
    }

    /// Adds to a request's metadata that it is of this session.
    pub fn mark(
        &self,
        metadata: &mut MetadataMap,
        (session, counter): (&SessionId, u64),
        (path, message): (&str, &[u8]),
    ) {
        let mac = self.mac(path, counter, message);
        metadata.insert_bin(SESSION, MetadataValue::from_bytes(session));
        metadata.insert(COUNTER, MetadataValue::from(counter));
        metadata.insert_bin(MAC, MetadataValue::from_bytes(&mac));
    }

    /// Whether a claim is of this session, this method and these bytes. Takes the same time
    /// whatever the answer.
    #[must_use]
    pub fn holds(&self, claim: &Claim, path: &str, message: &[u8]) -> bool {
        let mac = self.mac(path, claim.counter, message);
        mac.ct_eq(&claim.mac).into()
    }

    fn mac(&self, path: &str, counter: u64, message: &[u8]) -> [u8; 32] {
        keyed(&self.0, &[path.as_bytes(), &counter.to_be_bytes(), message])
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey").finish_non_exhaustive()
    }
}

/// BLAKE2b-256 over a row of fields, without a copy of them.
fn keyed(key: &[u8; 32], row: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2bMac::<U32>::new_from_slice(key).expect("a key of 32 bytes");
    for field in row {
        // Messages are bounded far below 4 GiB.
        let len = u32::try_from(field.len()).unwrap_or(u32::MAX);
        hash.update(&len.to_be_bytes());
        hash.update(field);
    }
    hash.finalize_fixed().into()
}

// === impl Claim ===

impl Claim {
    /// What a request says of its session; `None`: it says nothing.
    ///
    /// # Errors
    /// When it says it only in part, twice, or not as it should.
    pub fn read(metadata: &MetadataMap) -> Result<Option<Self>, CallError> {
        if metadata.get_bin(SESSION).is_none() {
            return Ok(None);
        }
        let counter = text(metadata, COUNTER)?;
        // One way to write a number: what is authenticated is the number.
        let written = !counter.is_empty() && counter.bytes().all(|byte| byte.is_ascii_digit());
        let counter = Some(counter).filter(|_| written);
        let counter = counter.and_then(|counter| counter.parse().ok());
        Ok(Some(Self {
            session: binary(metadata, SESSION)?,
            counter: counter.ok_or(CallError::Metadata(COUNTER))?,
            mac: binary(metadata, MAC)?,
        }))
    }
}

// === impl Window ===

impl Window {
    /// Whether a counter was not seen, nor is too old to know.
    #[must_use]
    pub const fn is_fresh(&self, counter: u64) -> bool {
        if counter == u64::MAX {
            return false;
        }
        if counter >= self.next {
            return true;
        }
        let (word, bit) = place(counter);
        self.next - counter <= WINDOW && self.seen[word] & bit == 0
    }

    /// Marks a counter as seen, once its request was verified; `false` when it was before.
    pub fn take(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            // What leaves the window makes place for what comes.
            if counter - self.next >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.next..counter {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
        true
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

const fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{ManualClock, SharedClock};

    const PATH: &str = "/taugate.v1.MinerService/Generate";
    const NOW_MS: u64 = 1_700_000_000_000;
    const EXPIRES_MS: u64 = NOW_MS + 900_000;

    fn ask() -> (Asked, OpenSessionRequest) {
        let clock = Arc::new(ManualClock::at(NOW_MS)) as SharedClock;
        let signer = CallSigner::new(Arc::new(Keypair::from_secret("//Alice").unwrap()), clock);
        Asked::new(&signer, miner().hotkey()).unwrap()
    }

    fn miner() -> Keypair {
        Keypair::from_secret("//Bob").unwrap()
    }

    fn claim(key: &SessionKey, session: SessionId, counter: u64, message: &[u8]) -> Claim {
        let mut metadata = MetadataMap::new();
        key.mark(&mut metadata, (&session, counter), (PATH, message));
        Claim::read(&metadata).unwrap().unwrap()
    }

    #[test]
    fn both_sides_have_one_key_that_holds_for_method_counter_and_bytes_only() {
        let (asked, request) = ask();
        let (id, theirs, response) = answer(&miner(), &request, EXPIRES_MS).unwrap();
        let opened = asked.opened(&response).unwrap();
        assert_eq!((opened.id, opened.life), (id, LIFE_MAX));
        let claim = claim(&opened.key, id, 7, b"bytes");
        assert!(theirs.holds(&claim, PATH, b"bytes"));
        assert!(!theirs.holds(&claim, PATH, b"byte"));
        assert!(!theirs.holds(&claim, OPEN_SESSION, b"bytes"));
        let other = Claim {
            counter: 8,
            ..claim
        };
        assert!(!theirs.holds(&other, PATH, b"bytes"));
        let (_, request) = ask();
        let (_, foreign, _) = answer(&miner(), &request, EXPIRES_MS).unwrap();
        assert!(!foreign.holds(&claim, PATH, b"bytes"), "of another session");
    }

    #[test]
    fn an_answer_that_was_changed_or_is_of_somebody_else_opens_nothing() {
        let (_, request) = ask();
        let (_, _, good) = answer(&miner(), &request, EXPIRES_MS).unwrap();
        let stranger = Keypair::from_secret("//Mallory").unwrap();
        let (_, _, foreign) = answer(&stranger, &request, EXPIRES_MS).unwrap();
        let changed = |change: &dyn Fn(&mut OpenSessionResponse)| {
            let mut response = good.clone();
            change(&mut response);
            response
        };
        let refused = |response: &OpenSessionResponse| {
            // Each question is good for one answer; the row is the same but for the secret.
            let (mut asked, _) = ask();
            asked.row = Row::of(&request).unwrap().bytes(
                OPEN_SESSION,
                miner().hotkey(),
                &request.ephemeral_key,
            );
            asked.opened(response).map(drop)
        };
        assert_eq!(refused(&good), Ok(()));
        for (what, response) in [
            ("a later end", changed(&|r| r.expires_ms += 1)),
            ("another key", changed(&|r| r.ephemeral_key[0] ^= 1)),
            ("another name", changed(&|r| r.session_id[0] ^= 1)),
            ("another signature", changed(&|r| r.signature[0] ^= 1)),
            ("no marked signature", changed(&|r| r.signature[63] &= 0x7f)),
            ("another miner's", foreign),
        ] {
            assert_eq!(refused(&response), Err(SessionError::Signature), "{what}");
        }
        let short = changed(&|r| r.session_id.truncate(15));
        assert_eq!(refused(&short), Err(SessionError::Field("session_id")));
    }

    #[test]
    fn a_key_of_small_order_is_refused_by_both() {
        let (asked, mut request) = ask();
        let (id, _, mut response) = answer(&miner(), &request, EXPIRES_MS).unwrap();
        request.ephemeral_key = vec![0; 32];
        let answered_to = answer(&miner(), &request, EXPIRES_MS).map(drop);
        assert_eq!(answered_to, Err(SessionError::Key));
        response.ephemeral_key = vec![0; 32];
        let signed = answered(&asked.row, &id, &[0; 32], EXPIRES_MS);
        response.signature = miner().sign(&signed).to_vec();
        assert_eq!(asked.opened(&response).map(drop), Err(SessionError::Key));
    }

    #[test]
    fn a_claim_stands_whole_and_once_or_not_at_all() {
        let (_, request) = ask();
        let (id, key, _) = answer(&miner(), &request, EXPIRES_MS).unwrap();
        let mut whole = MetadataMap::new();
        assert!(Claim::read(&whole).unwrap().is_none());
        key.mark(&mut whole, (&id, 1), (PATH, b""));
        for counter in ["", "+1", "-1", "1.0", "0x1", "18446744073709551616"] {
            let mut metadata = whole.clone();
            metadata.insert(COUNTER, counter.parse().unwrap());
            assert!(Claim::read(&metadata).is_err(), "{counter}");
        }
        for name in [SESSION, MAC] {
            let mut twice = whole.clone();
            twice.append_bin(name, whole.get_bin(name).unwrap().clone());
            assert!(Claim::read(&twice).is_err(), "{name} twice");
            let mut short = whole.clone();
            short.insert_bin(name, MetadataValue::from_bytes(&[0; 15]));
            assert!(Claim::read(&short).is_err(), "{name} short");
        }
        whole.remove_bin(MAC);
        assert!(Claim::read(&whole).is_err());
    }

    #[test]
    fn a_counter_counts_once_in_any_order_within_the_window() {
        let mut window = Window::default();
        for counter in [0, 2, 1, 5000, 4999] {
            assert!(window.take(counter), "{counter}");
            assert!(!window.take(counter), "{counter} again");
        }
        // 5001 - 4096 = 905 and later are known one by one, what is older is not.
        assert!(window.take(905));
        assert!(!window.take(904));
        assert!(window.take(5001));
        assert!(!window.is_fresh(905));
        assert!(window.take(906));
        assert!(!window.take(u64::MAX), "there would be no next");
    }

    #[test]
    fn a_sessions_secrets_are_never_printed() {
        let (asked, request) = ask();
        let key = SessionKey(Zeroizing::new([0xab; 32]));
        let shown = format!("{asked:?} {key:?} {request:?}");
        let secret = format!("{:?}", asked.secret.as_slice());
        assert!(
            !shown.contains("171, 171") && !shown.contains(&secret),
            "{shown}"
        );
    }
}
