//! `[store]`: where the books are kept.

use std::path::PathBuf;
use std::time::Duration;

use super::field::{Fields, Section};
use super::slot::{File, Millis, Whole};

/// In the working directory: the books lie where the operator started the gateway, not in a
/// hidden folder of whoever that was.
const PATH: &str = "taugate.db";

/// Longer than any disk or failover stalls in health, shorter than clients give up in.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// Time for consumers that were away to catch up; with hours, three hours.
const RETENTION_PERIODS: u32 = 3;

/// Receipts in memory while the store is away: some 10 MiB, and at a thousand calls a second
/// the five seconds of `record_wait_ms` three times over.
const JOURNAL_SLOTS: usize = 16_384;

/// Where the books are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The file of the embedded store.
    pub path: PathBuf,
    /// How long a final message waits for its receipt to be durable.
    pub record_wait: Duration,
    /// Periods that are kept after they were sealed.
    pub retention_periods: u32,
    /// Receipts that may wait for the store; also the most calls at once.
    pub journal_slots: usize,
}

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PATH.into(),
            record_wait: RECORD_WAIT,
            retention_periods: RETENTION_PERIODS,
            journal_slots: JOURNAL_SLOTS,
        }
    }
}

impl Section for Store {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "path",
            "The file of the embedded store; relative to the working directory.",
            &mut File(&mut self.path),
        );
        fields.field(
            "record_wait_ms",
            "How long a final message waits for its receipt to be durable. After that it leaves \
             with recorded = false.",
            &mut Millis(&mut self.record_wait, 100..=60_000),
        );
        fields.field(
            "retention_periods",
            "How many periods are kept after they were sealed.",
            &mut Whole(&mut self.retention_periods, 1..=100_000),
        );
        fields.field(
            "journal_slots",
            "Receipts that may wait in memory for the store. Each call takes a slot when it is \
             admitted, so this is also the most calls at once.",
            &mut Whole(&mut self.journal_slots, 16..=1_048_576),
        );
    }
}
