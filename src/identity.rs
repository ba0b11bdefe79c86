//! Who someone is: hotkeys of miners and validators, what they sign, and the API keys of
//! clients.
//!
//! Nothing here knows an engine. What must outlive a process (nonces that were spent, keys)
//! is stated as a narrow trait, which the store implements.

pub mod api_key;
pub mod call;
pub mod hotkey;
pub mod key_ring;
pub mod nonce;
pub mod pace;
pub mod session;
pub mod signature;
pub mod tls;

/// The engine under a durable row did not answer; nothing is known to have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine is unavailable")]
pub struct StoreAway;
