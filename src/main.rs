//! The command line: arguments, telemetry, run.

fn main() {}
