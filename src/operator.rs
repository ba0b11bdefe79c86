//! What an operator does beside a gateway: keys, a look at a configuration before it runs, and
//! at its miners and their weights while it does.

pub mod check;
pub mod keys;
pub mod status;
pub mod weights;

/// Why a command did not do what it was told.
pub type Failure = Box<dyn std::error::Error>;

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub struct Say {
    /// Its output, which scripts read.
    pub print: fn(&str),
    /// What is said beside it.
    pub aside: fn(&str),
    /// What is wrong.
    pub complain: fn(&str),
}
