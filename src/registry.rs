//! What the gateway holds of miners: declarations, shares, availability; published as
//! immutable snapshots.

pub mod declaration;
pub mod snapshot;
