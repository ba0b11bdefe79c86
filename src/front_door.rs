//! The doors: listeners, what every request passes, the services, and the statuses.

mod admission;
mod answer;
pub mod capacity;
pub mod consumption;
pub mod counted;
pub mod deadline;
mod entry;
pub mod gate;
pub mod inference;
pub mod listener;
mod measured;
mod method;
mod passage;
mod seats;
pub mod settings;
pub mod signed;
mod slow;
pub mod status;
