//! `[telemetry]`: logs and traces.

use std::sync::Arc;
use std::time::Duration;

use super::field::{Fields, Section};
use super::slot::{Decimal, Millis, Text, Word};

/// What an operator wants to read: starts, stops, refusals of miners, faults.
const FILTER: &str = "info";

/// One call in twenty shows the shape of traffic and costs little.
const TRACE_RATIO: f64 = 0.05;

/// A call that takes longer than this is worth a look whatever the ratio.
const TRACE_SLOW: Duration = Duration::from_secs(30);

/// Logs and traces. Where traces go stands in `OTEL_EXPORTER_OTLP_ENDPOINT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// How log lines look.
    pub log: LogFormat,
    /// Which log lines are written, as `RUST_LOG` would say it.
    pub filter: Arc<str>,
    /// The part of good calls whose trace is kept, 0 to 1; failed and slow ones always are.
    pub trace_ratio: f64,
    /// From when on a call is slow.
    pub trace_slow: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

// === impl LogFormat ===

impl LogFormat {
    const WORDS: &[(&str, Self)] = &[("pretty", Self::Pretty), ("json", Self::Json)];
}

// === impl Telemetry ===

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: LogFormat::Pretty,
            filter: FILTER.into(),
            trace_ratio: TRACE_RATIO,
            trace_slow: TRACE_SLOW,
        }
    }
}

impl Section for Telemetry {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "log",
            "How log lines look: \"pretty\" for people, \"json\" for machines.",
            &mut Word(&mut self.log, LogFormat::WORDS),
        );
        fields.field(
            "filter",
            "Which log lines are written, such as \"info\" or \"warn,taugate=debug\".",
            &mut Text(&mut self.filter),
        );
        fields.field(
            "trace_ratio",
            "The part of good calls whose trace is kept. Failed and slow ones always are. Traces \
             leave when OTEL_EXPORTER_OTLP_ENDPOINT is set.",
            &mut Decimal(&mut self.trace_ratio, 0.0..=1.0),
        );
        fields.field(
            "trace_slow_ms",
            "A call that takes longer than this counts as slow.",
            &mut Millis(&mut self.trace_slow, 1..=3_600_000),
        );
    }
}
