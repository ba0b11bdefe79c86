//! Scores: the worked examples, what stands behind every weight, and sense whatever comes in.

mod formulas;
mod incentive;
mod simulation;
mod standing;
