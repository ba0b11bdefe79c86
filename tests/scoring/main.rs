//! Scores: the worked examples, what stands behind every weight, and sense whatever comes in.

mod formulas;
mod standing;
