//! What a validator pays for, as pure functions: no clock, no store, no chance.
//!
//! ```text
//! a period's tally ─▶ reliability ─┐ over periods
//! bursts ─▶ verified capacity ─────┼─▶ effective capacity ─▶ score a task ─▶ weight a miner
//! checked answers ─▶ quality ──────┘
//! ```
//!
//! [`rows`] says what a store keeps for it, [`standing`] leads from there to every miner's weight
//! with each step kept, [`explain`] shows the steps, and
//! [`scorer`] does it for a running gateway.
//!
//! Every constant stands in a [`Profile`]. Nothing here gives NaN or infinity, whatever comes in:
//! a miner of which nothing is known has a reliability of 0, a task without answers a score of 0.

pub mod explain;
pub mod net;
pub mod profile;
pub mod quality;
pub mod reliability;
pub mod rows;
pub mod scorer;
pub mod standing;
pub mod verified;

pub use net::{Net, TaskScore, net};
pub use profile::Profile;
pub use rows::{Rows, ScoreStore};
pub use standing::Standing;

/// A number between 0 and 1; 0 for what is none.
const fn part(value: f64) -> f64 {
    if value.is_nan() {
        0.0
    } else {
        value.clamp(0.0, 1.0)
    }
}
