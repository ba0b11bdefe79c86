//! taugate: a capacity-metered gRPC gateway for decentralised inference.
//!
//! The rooms stand in this order; each uses only those above it.

pub mod audit;

pub mod clock;
pub mod failpoint;
pub mod telemetry;

pub mod proto;
pub mod task;

pub mod digest;
pub mod identity;

pub mod books;
pub mod registry;

pub mod sidecar;

pub mod routing;

pub mod miner_client;

pub mod report;

pub mod call;

pub mod scoring;

pub mod synthetic;

pub mod store;

pub mod front_door;

pub mod admin;

pub mod client;

pub mod config;

pub mod operator;

pub mod gateway;

pub mod demo;
