//! `[routing]`: which miner takes a call.

use super::field::{Fields, Section};
use super::slot::Word;

/// Which miner takes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// How it is chosen.
    pub policy: Policy,
}

/// How a miner is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The better of two, drawn by what is left to spend.
    TwoChoices,
    /// Any with capacity left.
    Random,
    /// Each in turn.
    RoundRobin,
}

// === impl Policy ===

impl Policy {
    const WORDS: &[(&str, Self)] = &[
        ("two_choices", Self::TwoChoices),
        ("random", Self::Random),
        ("round_robin", Self::RoundRobin),
    ];
}

// === impl Routing ===

impl Default for Routing {
    /// The fairest that is also quick; the others are there to compare with.
    fn default() -> Self {
        Self {
            policy: Policy::TwoChoices,
        }
    }
}

impl Section for Routing {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "policy",
            "How a miner is chosen: \"two_choices\" (the better of two, drawn by what is left to \
             spend), \"random\" or \"round_robin\" to compare with.",
            &mut Word(&mut self.policy, Policy::WORDS),
        );
    }
}
