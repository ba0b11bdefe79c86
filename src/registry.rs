//! What the gateway holds of miners: declarations, shares, availability; published as
//! immutable snapshots.

pub mod availability;
pub mod book;
pub mod checked;
pub mod declaration;
pub mod metagraph;
pub mod reach;
pub mod roll;
pub mod settings;
pub mod share;
pub mod snapshot;

pub use book::Registry;
pub use settings::RegistrySettings;
