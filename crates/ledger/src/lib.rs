//! Exact books of capacity.
//!
//! A miner declares what it can do in a period; the engine (a store that keeps what it
//! acknowledged) lets each start of a gateway spend a part of that, and the gateway spends
//! it on calls. This crate holds the arithmetic of that: pure, without I/O, clock, random
//! source or runtime, so that every interleaving and every schedule of faults can be tried.
//!
//! From the ground up: [`units`], [`ids`], [`period`], [`receipt`], [`engine`], [`table`],
//! [`reservation`], [`lease`], [`journal`], [`audit`], what a consumer keeps, [`consumed`],
//! and the reference engine, [`model`].
//!
//! The invariant of a cell in this process is `granted = posted + reserved + free`.
#![deny(clippy::arithmetic_side_effects)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "these locks are held on purpose: facts that change together stand under one"
)]

pub mod audit;
mod cell;
pub mod consumed;
pub mod engine;
pub mod ids;
pub mod journal;
pub mod lease;
pub mod model;
pub mod period;
pub mod receipt;
pub mod reservation;
mod sync;
pub mod table;
pub mod units;
