//! The miner's side: serves a model (simulated, or any OpenAI-compatible server) to
//! gateways and declares what it can do.

pub mod model;
pub mod openai;
mod prose;
pub mod serve;
pub mod simulated;
