//! Who answers a call, and why. Pure over a snapshot, balances and vitals: no clock, no I/O.

pub mod balances;
pub mod choice;
pub mod cost;
mod draws;
pub mod explanation;
mod plan;
pub mod settings;
pub mod vitals;

pub use balances::{Balance, Balances};
pub use choice::{Choices, NoChoice, Router, Wish};
pub use explanation::Explanation;
pub use settings::{Policy, RouterSettings};
pub use vitals::{InFlight, Sample, Vitals};
