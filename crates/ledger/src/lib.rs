//! Exact books of capacity.
//!
//! A miner declares what it can do in a period; the engine (a store that keeps what it
//! acknowledged) lets each start of a gateway spend a part of that, and the gateway spends
//! it on calls. This crate holds the arithmetic of that: pure, without I/O, clock, random
//! source or runtime, so that every interleaving and every schedule of faults can be tried.
//!
//! From the ground up: [`units`], [`ids`], [`period`], [`receipt`], [`engine`].
//!
//! The invariant of a cell in this process is `granted = posted + reserved + free`.
#![deny(clippy::arithmetic_side_effects)]

pub mod engine;
pub mod ids;
pub mod period;
pub mod receipt;
pub mod units;
