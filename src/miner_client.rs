//! The gateway's side of the miner protocol: one connection a miner and shard, one stream
//! an attempt, and one word for how it ended.

pub mod channel;
pub mod outcome;
pub mod stream;

pub use channel::{Pool, PoolSettings};
pub use outcome::{DispatchError, MinerFault};
pub use stream::{MinerEvent, MinerStream};
