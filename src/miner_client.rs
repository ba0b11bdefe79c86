//! The gateway's side of the miner protocol: one connection a miner and shard, with a session
//! on it; one stream an attempt, and one word for how it ended.

pub mod channel;
mod exact;
pub mod outcome;
pub mod reach;
mod session;
pub mod stream;
mod wire;

pub use channel::{Pool, PoolSettings};
pub use outcome::{DispatchError, MinerFault};
pub use reach::Reach;
pub use session::Caller;
pub use stream::{MinerEvent, MinerStream};
