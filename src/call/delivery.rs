//! What attempts delivered, and when: told as each ends, for who measures what miners show.

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;
use tokio::time::Instant;

/// An attempt that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The miner's cell.
    pub cell: CellId,
    /// When it was sent.
    pub sent: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Units booked, from it alone; none for an attempt that brought nothing.
    pub units: Units,
}

/// Hears of each attempt that ends, on the path of every call: it must neither wait nor lock.
pub trait Deliveries: Send + Sync + std::fmt::Debug {
    /// An attempt ended; it no longer counts as in flight.
    fn ended(&self, delivery: Delivery);
}
