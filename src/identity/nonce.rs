//! Nonces of signed calls: each is good once.

use taugate_ledger::engine::BoxFuture;

use super::StoreAway;
use super::hotkey::Hotkey;

/// Random bytes that make two calls differ.
pub type Nonce = [u8; 16];

/// Remembers nonces, over all gateways that share an engine.
pub trait NonceStore: Send + Sync + std::fmt::Debug {
    /// Spends a nonce: `true` when it is new, `false` when this hotkey used it before.
    /// It must be remembered until `keep_until_ms` (Unix milliseconds) and may be forgotten
    /// then.
    ///
    /// Called for verified calls only, so that nobody fills the store with nonces of calls
    /// that it did not sign.
    fn spend_nonce(
        &self,
        hotkey: Hotkey,
        nonce: Nonce,
        keep_until_ms: u64,
    ) -> BoxFuture<'_, Result<bool, StoreAway>>;
}
