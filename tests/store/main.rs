//! What the embedded store promises.

mod append;
mod audit;
mod bursts;
mod disk;
mod earlier_schema;
mod exchange;
mod faults;
mod history;
mod opening;
mod place;
mod plans;
mod processes;
mod rooms;
mod seals;
mod upkeep;
