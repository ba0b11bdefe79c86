//! API keys in use: how they look, how they are made, who they say someone is.
//!
//! `tgk_<env>_<8 public id>_<43 secret><6 check>`, all base 62. The secret has 256 random
//! bits, so that a plain SHA-256 is kept of it; the check digits are a CRC-32, so that a
//! mistyped key is told from a wrong one without a look into the store.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rand::TryRng as _;
use rand::rngs::SysRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::api_key::{Scope, StoredKey};
use crate::task::TaskId;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PUBLIC_LEN: usize = 8;
const SECRET_LEN: usize = 43;
const CHECK_LEN: usize = 6;

/// A use this soon after another is the same one: a busy key is not written to by every call.
const USE_EACH_MS: u64 = 1000;

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client(Option<Arc<StoredKey>>);

/// A new key; its text is shown once.
pub struct NewKey {
    /// What is kept.
    pub stored: StoredKey,
    text: Zeroizing<String>,
}

/// What a new key may do.
#[derive(Clone, Debug, Default)]
pub struct KeyGrant {
    /// What the operator calls it.
    pub name: String,
    /// The tasks it may ask for; `None`: all.
    pub tasks: Option<Vec<TaskId>>,
    /// Whether it may send checks.
    pub check: bool,
    /// Of a thousand answers so many may be shown to who judges miners.
    pub sample_permille: u16,
    /// Whether its calls go to miners only that have proven their capacity.
    pub proven_only: bool,
    /// From when on it is refused, Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// Credentials that do not hold. One word for every cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("credentials are missing or wrong")]
pub struct Unauthenticated;

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoRandomness;

/// The keys in use, by public id.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: ArcSwap<HashMap<Arc<str>, Held>>,
    /// Whether nobody is let in without one.
    required: AtomicBool,
}

#[derive(Debug)]
struct Held {
    key: Arc<StoredKey>,
    /// Outlives a replacement of the keys.
    used: Arc<Used>,
}

/// When a key was last used, and which use was noted in the store; Unix milliseconds.
#[derive(Debug, Default)]
struct Used {
    at_ms: AtomicU64,
    noted_ms: AtomicU64,
}

// === impl Client ===

impl Client {
    /// The public id of its key; empty where none is needed.
    #[must_use]
    pub fn public_id(&self) -> Arc<str> {
        self.0
            .as_ref()
            .map_or_else(|| Arc::from(""), |key| Arc::clone(&key.public_id))
    }

    /// Whether it may ask for a task.
    #[must_use]
    pub fn may_ask(&self, task: &str) -> bool {
        let tasks = self.0.as_ref().and_then(|key| key.tasks.as_ref());
        tasks.is_none_or(|tasks| tasks.iter().any(|known| **known == *task))
    }

    /// Whether the answer of its call of that number may be shown to who judges miners.
    #[must_use]
    pub fn shows(&self, call: u64) -> bool {
        let permille = self.0.as_ref().map_or(0, |key| key.sample_permille);
        // Spread over calls as if drawn, without a draw.
        let place = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        place.wrapping_mul(1000) >> 32 < u64::from(permille)
    }

    /// Whether its calls go to miners only that have proven their capacity.
    #[must_use]
    pub fn proven_only(&self) -> bool {
        self.0.as_ref().is_some_and(|key| key.proven_only)
    }

    /// Whether it may send checks. Nobody may without a key.
    #[must_use]
    pub fn may_check(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|key| key.scopes.contains(&Scope::Check))
    }
}

// === impl NewKey ===

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn make(env: &str, grant: KeyGrant, now_ms: u64) -> Result<Self, NoRandomness> {
        let public_id = random(PUBLIC_LEN)?;
        let secret = Zeroizing::new(random(SECRET_LEN)?);
        let body = Zeroizing::new(format!("tgk_{env}_{public_id}_{}", *secret));
        let text = Zeroizing::new(format!("{}{}", *body, check_digits(&body)));
        let mut scopes = vec![Scope::Generate];
        scopes.extend(grant.check.then_some(Scope::Check));
        let stored = StoredKey {
            public_id: Arc::from(public_id),
            sha256: Sha256::digest(text.as_bytes()).into(),
            name: Arc::from(grant.name),
            tasks: grant.tasks,
            scopes,
            sample_permille: grant.sample_permille.min(1000),
            proven_only: grant.proven_only,
            created_ms: now_ms,
            expires_ms: grant.expires_ms,
            revoked_ms: None,
            last_used_ms: None,
        };
        Ok(Self { stored, text })
    }

    /// The key itself.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("public_id", &self.stored.public_id)
            .finish_non_exhaustive()
    }
}

// === impl KeyRing ===

impl KeyRing {
    /// Says whether a key is needed; at first none is.
    pub fn require(&self, required: bool) {
        self.required.store(required, Ordering::Release);
    }

    /// Whether a key is needed.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required.load(Ordering::Acquire)
    }

    /// Replaces the keys.
    pub fn replace(&self, keys: Vec<StoredKey>) {
        let before = self.keys.load();
        let keys = keys.into_iter().map(|key| {
            let used = before
                .get(&key.public_id)
                .map(|held| Arc::clone(&held.used));
            let held = Held {
                used: used.unwrap_or_default(),
                key: Arc::new(key),
            };
            (Arc::clone(&held.key.public_id), held)
        });
        self.keys.store(Arc::new(keys.collect()));
    }

    /// The keys that were used since it was last noted, each with its last use (Unix
    /// milliseconds).
    #[must_use]
    pub fn uses(&self) -> Vec<(Arc<str>, u64)> {
        let keys = self.keys.load();
        let uses = keys.iter().map(|(public_id, held)| {
            let at_ms = held.used.at_ms.load(Ordering::Relaxed);
            let noted_ms = held.used.noted_ms.load(Ordering::Relaxed);
            (at_ms > noted_ms).then(|| (Arc::clone(public_id), at_ms))
        });
        uses.flatten().collect()
    }

    /// Says that these uses are kept.
    pub fn noted(&self, uses: &[(Arc<str>, u64)]) {
        let keys = self.keys.load();
        for (public_id, at_ms) in uses {
            if let Some(held) = keys.get(public_id) {
                held.used.noted_ms.fetch_max(*at_ms, Ordering::Relaxed);
            }
        }
    }

    /// How many keys there are, revoked ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.load().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who a key says its bearer is.
    ///
    /// # Errors
    /// One for every cause: malformed, unknown, wrong, expired, revoked.
    pub fn authenticate(&self, text: &str, now_ms: u64) -> Result<Client, Unauthenticated> {
        let public_id = public_id(text).ok_or(Unauthenticated)?;
        let keys = self.keys.load();
        let held = keys.get(public_id);
        let key = held.map(|held| &held.key);
        // An unknown key is compared too, so that time tells nothing of which ids exist.
        let expected = key.map_or([0; 32], |key| key.sha256);
        let given: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let equal = bool::from(given.ct_eq(&expected));
        let key = key.filter(|_| equal).ok_or(Unauthenticated)?;
        let expired = key.expires_ms.is_some_and(|at| now_ms >= at);
        let revoked = key.revoked_ms.is_some_and(|at| now_ms >= at);
        if expired || revoked {
            return Err(Unauthenticated);
        }
        if let Some(held) = held {
            held.used.at(now_ms);
        }
        Ok(Client(Some(Arc::clone(key))))
    }
}

// === impl Used ===

impl Used {
    fn at(&self, now_ms: u64) {
        if now_ms.saturating_sub(self.at_ms.load(Ordering::Relaxed)) >= USE_EACH_MS {
            self.at_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }
}

/// The public id of a well-formed key whose check digits are right.
fn public_id(text: &str) -> Option<&str> {
    let mut parts = text.splitn(4, '_');
    let (tag, _env, id, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let formed = tag == "tgk"
        && text.len() <= 128
        && id.len() == PUBLIC_LEN
        && rest.len() == SECRET_LEN + CHECK_LEN
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (body, check) = text.split_at_checked(text.len().checked_sub(CHECK_LEN)?)?;
    (formed && check_digits(body) == check).then_some(id)
}

fn check_digits(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [b'0'; CHECK_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// Random digits of base 62, each as likely as the others.
fn random(length: usize) -> Result<String, NoRandomness> {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = Zeroizing::new([0_u8; 64]);
        SysRng
            .try_fill_bytes(bytes.as_mut_slice())
            .map_err(|_| NoRandomness)?;
        // Four times 62: what is above would make some digits likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let digits = fair.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        text.extend(digits.take(length.saturating_sub(text.len())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(change: impl FnOnce(&mut StoredKey)) -> (KeyRing, String) {
        let mut key = NewKey::make("test", KeyGrant::default(), 0).unwrap();
        change(&mut key.stored);
        let ring = KeyRing::default();
        ring.replace(vec![key.stored.clone()]);
        (ring, key.text().to_owned())
    }

    #[test]
    fn a_key_is_good_until_it_is_revoked_or_expires() {
        // Abuse case 21.
        let (keys, text) = ring(|_| {});
        assert!(keys.authenticate(&text, 5).is_ok());
        assert!(keys.authenticate(&text[1..], 5).is_err());
        assert!(keys.authenticate("", 5).is_err());
        let other = NewKey::make("test", KeyGrant::default(), 0).unwrap();
        assert!(keys.authenticate(other.text(), 5).is_err());
        let (keys, text) = ring(|key| key.revoked_ms = Some(5));
        assert!(keys.authenticate(&text, 4).is_ok() && keys.authenticate(&text, 5).is_err());
        let (keys, text) = ring(|key| key.expires_ms = Some(5));
        assert!(keys.authenticate(&text, 4).is_ok() && keys.authenticate(&text, 5).is_err());
    }

    #[test]
    fn a_use_is_told_until_it_is_noted_also_over_a_replacement() {
        let (keys, text) = ring(|_| {});
        assert_eq!(keys.uses(), []);
        keys.authenticate(&text, 5_000).unwrap();
        let uses = keys.uses();
        assert_eq!(uses.len(), 1);
        assert_eq!(uses[0].1, 5_000);
        let stored = keys.keys.load().values().next().unwrap().key.clone();
        keys.replace(vec![(*stored).clone()]);
        assert_eq!(keys.uses(), uses);
        keys.noted(&uses);
        keys.authenticate(&text, 5_999).unwrap();
        assert_eq!(keys.uses(), []);
        assert!(keys.authenticate("nonsense", 9_000).is_err());
        keys.authenticate(&text, 6_000).unwrap();
        assert_eq!(keys.uses()[0].1, 6_000);
    }

    #[test]
    fn a_key_says_whether_only_proven_miners_may_answer() {
        let grant = KeyGrant {
            proven_only: true,
            ..KeyGrant::default()
        };
        let key = NewKey::make("test", grant, 0).unwrap();
        let keys = KeyRing::default();
        keys.replace(vec![key.stored.clone()]);
        assert!(keys.authenticate(key.text(), 5).unwrap().proven_only());
        let (keys, text) = ring(|_| {});
        assert!(!keys.authenticate(&text, 5).unwrap().proven_only());
        assert!(!Client::default().proven_only());
    }

    #[test]
    fn a_wrong_secret_of_a_known_id_is_refused() {
        let (keys, text) = ring(|key| key.sha256[0] ^= 1);
        assert_eq!(keys.authenticate(&text, 5), Err(Unauthenticated));
    }

    #[test]
    fn no_debug_output_holds_a_secret() {
        let key = NewKey::make("test", KeyGrant::default(), 0).unwrap();
        let secret = key.text().rsplit('_').next().unwrap();
        assert!(!format!("{key:?}").contains(secret));
    }
}
