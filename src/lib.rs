//! taugate: a capacity-metered gRPC gateway for decentralised inference.
//!
//! The rooms stand in this order; each uses only those above it.

pub mod clock;
pub mod proto;
pub mod task;

pub mod identity;
pub mod registry;

pub mod store;

pub mod config;
