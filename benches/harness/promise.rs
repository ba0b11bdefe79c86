//! Says whether a figure is what was promised. A bench does not fail by it: machines are noisy.

use std::io::Write as _;

/// Prints it.
pub(crate) fn promise(held: bool, what: &str) {
    let word = if held { "held" } else { "NOT HELD" };
    writeln!(std::io::stdout(), "promise: {what}: {word}").expect("standard output");
}
