//! Logs, traces and metrics: everything that is measured is named here, once.

pub mod instruments;
pub mod logs;

pub use instruments::Instruments;
