//! Who answers a call, and why. Pure over a snapshot, balances and vitals: no clock, no I/O.

pub mod choice;
pub mod cost;
mod plan;
pub mod vitals;

pub use choice::{Balances, Choices, Explanation, NoChoice, Policy, Router, Wish};
pub use vitals::{InFlight, Sample, Vitals};
