//! `[period]`: how long capacity is declared for.

use std::time::Duration;

use taugate_ledger::period::PeriodLength;

use super::field::{Fields, Section};
use super::slot::{Seconds, Whole};

/// Vision's period: an hour.
const LENGTH_S: u32 = 3600;

/// A day; a longer period would make a declaration a promise nobody can keep.
const LENGTH_S_MAX: u64 = 86_400;

/// Two minutes beyond the longest request: time for a gateway that was cut off to come back
/// with its receipts.
const GRACE: Duration = Duration::from_secs(120);

/// How time is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// The length of periods, aligned to Unix time.
    pub length: PeriodLength,
    /// How long after the longest deadline a period is sealed, though something is missing.
    pub grace: Duration,
}

// === impl Periods ===

impl Default for Periods {
    fn default() -> Self {
        Self {
            length: PeriodLength::from_secs(LENGTH_S).unwrap_or_else(|| unreachable!()),
            grace: GRACE,
        }
    }
}

impl Section for Periods {
    fn fields(&mut self, fields: &mut dyn Fields) {
        let mut length_s = self.length.secs();
        fields.field(
            "length_s",
            "The length of a period. All gateways that share miners must use the same.",
            &mut Whole(&mut length_s, 1..=LENGTH_S_MAX),
        );
        self.length = PeriodLength::from_secs(length_s).unwrap_or(self.length);
        fields.field(
            "grace_s",
            "A period is sealed this long after its longest deadline, whatever is still missing.",
            &mut Seconds(&mut self.grace, 0..=LENGTH_S_MAX),
        );
    }
}
