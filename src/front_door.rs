//! The doors: listeners, what every request passes, the services, and the statuses.

mod admission;
pub mod capacity;
pub mod counted;
pub mod deadline;
pub mod gate;
pub mod inference;
pub mod listener;
mod measured;
pub mod signed;
mod slow;
pub mod status;
pub mod tls;
