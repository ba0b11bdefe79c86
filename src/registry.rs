//! What the gateway holds of miners: declarations, shares, availability; published as
//! immutable snapshots.

pub mod book;
pub mod checked;
pub mod declaration;
pub mod share;
pub mod snapshot;

pub use book::{Registry, RegistrySettings};
