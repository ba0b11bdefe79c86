//! API keys of clients.

use std::sync::Arc;

use taugate_ledger::engine::BoxFuture;

use super::StoreAway;
use crate::task::TaskId;

/// What is kept of a key: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The part that names it, 8 characters of base 62; unique.
    pub public_id: Arc<str>,
    /// SHA-256 of the whole key's text.
    pub sha256: [u8; 32],
    /// What the operator calls it.
    pub name: Arc<str>,
    /// The tasks it may ask for; `None`: all.
    pub tasks: Option<Vec<TaskId>>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Whether its calls go to miners only that have proven their capacity.
    pub proven_only: bool,
    /// Of a thousand of its answers so many may be shown to who judges miners; 0: none.
    pub sample_permille: u16,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// From when on it is refused, Unix milliseconds; `None`: never.
    pub expires_ms: Option<u64>,
    /// When it was revoked, Unix milliseconds.
    pub revoked_ms: Option<u64>,
    /// When it was last used, Unix milliseconds, some seconds late; `None`: never.
    pub last_used_ms: Option<u64>,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Organic requests, and reading what came of them.
    Generate,
    /// Checks: calls that are pinned to a miner and booked as synthetic.
    Check,
}

/// Keeps keys, over all gateways that share an engine.
pub trait KeyStore: Send + Sync + std::fmt::Debug {
    /// Adds a key, or replaces the one of the same public id.
    fn put_key(&self, key: StoredKey) -> BoxFuture<'_, Result<(), StoreAway>>;

    /// All keys, revoked and expired ones included.
    fn keys(&self) -> BoxFuture<'_, Result<Vec<StoredKey>, StoreAway>>;

    /// Revokes a key from `at_ms` (Unix milliseconds) on: `false` when there is none of
    /// that public id. A key that is revoked already keeps its earlier instant.
    fn revoke_key(&self, public_id: Arc<str>, at_ms: u64)
    -> BoxFuture<'_, Result<bool, StoreAway>>;

    /// A number that rises with each key that is put or revoked, by whomever: who reads it
    /// and then the keys misses no change.
    fn key_version(&self) -> BoxFuture<'_, Result<u64, StoreAway>>;

    /// Keeps when keys, by public id, were last used (Unix milliseconds). Unknown ones and
    /// earlier uses than those that stand are ignored.
    fn note_key_uses(&self, uses: Vec<(Arc<str>, u64)>) -> BoxFuture<'_, Result<(), StoreAway>>;
}

// === impl Scope ===

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 2] = [Self::Generate, Self::Check];

    /// A word for columns and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Check => "check",
        }
    }

    /// The scope of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}
