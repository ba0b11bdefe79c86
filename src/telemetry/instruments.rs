//! Metrics by Prometheus' conventions: prefix `taugate_`, base units, bounded labels.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use taugate_ledger::ids::Origin;
use taugate_ledger::receipt::{Finish, Outcome};
use taugate_ledger::units::Units;

/// Bounds of durations, seconds; inference takes from milliseconds to minutes.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Everything that is measured.
#[derive(Debug)]
pub struct Instruments {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<MethodLabels, Histogram>,
    first_chunk_seconds: Family<TaskLabels, Histogram>,
    units: Family<UnitLabels, Counter>,
    reservations: Family<EndLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    cells: Family<CellLabels, Gauge>,
    queue_depth: Gauge,
    divergence: Gauge,
    in_doubt: Gauge,
    receipts_pending: Gauge,
    /// Streams that are open.
    pub inflight_streams: Gauge,
    /// Final messages that left before their receipt was durable.
    pub unrecorded_finals: Counter,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    connections: Family<ListenerLabels, Gauge>,
    /// 1 while draining.
    pub draining: Gauge,
    /// 1 while the store has too little space to grant more.
    pub store_full: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    task: String,
    code: &'static str,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabels {
    method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TaskLabels {
    task: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UnitLabels {
    task: String,
    origin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    outcome: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    miner: u32,
    outcome: &'static str,
}

/// Which word of which cell.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CellLabels {
    /// The miner's number.
    pub miner: u32,
    /// The task's id.
    pub task: String,
    /// declared, allotted, granted, reserved, posted or free.
    pub state: &'static str,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd<'a> {
    /// One of our methods, or `_other`.
    pub method: &'a str,
    /// One of our tasks, or `_other`; empty where a method has none.
    pub task: &'a str,
    /// Its status.
    pub code: &'static str,
    /// One of the catalogue's reasons; empty for an answer.
    pub reason: &'a str,
}

/// Miners get numbers as they come, and none twice; those from here on share one series.
const MINERS_TOLD: u32 = 20_000;

// === impl Instruments ===

impl Default for Instruments {
    fn default() -> Self {
        Self::new()
    }
}

impl Instruments {
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut new = Self {
            registry: Registry::with_prefix("taugate"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            first_chunk_seconds: Family::new_with_constructor(histogram),
            units: Family::default(),
            reservations: Family::default(),
            attempts: Family::default(),
            cells: Family::default(),
            queue_depth: Gauge::default(),
            divergence: Gauge::default(),
            in_doubt: Gauge::default(),
            receipts_pending: Gauge::default(),
            inflight_streams: Gauge::default(),
            unrecorded_finals: Counter::default(),
            accept_errors: Counter::default(),
            connections: Family::default(),
            draining: Gauge::default(),
            store_full: Gauge::default(),
        };
        new.register();
        new
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs here", build);
        registry.register("requests", "Requests that ended", self.requests.clone());
        let name = "request_duration_seconds";
        registry.register(
            name,
            "From request to the end of its answer",
            self.request_seconds.clone(),
        );
        let name = "time_to_first_chunk_seconds";
        registry.register(
            name,
            "From dispatch to the first delta",
            self.first_chunk_seconds.clone(),
        );
        registry.register(
            "inflight_streams",
            "Streams that are open",
            self.inflight_streams.clone(),
        );
        registry.register(
            "queue_depth",
            "Calls that wait for a free miner",
            self.queue_depth.clone(),
        );
        registry.register(
            "cell_units",
            "Units of the running period",
            self.cells.clone(),
        );
        registry.register(
            "reservations",
            "Calls by their end",
            self.reservations.clone(),
        );
        registry.register("units", "Units booked", self.units.clone());
        let help = "Granted to incarnations that never closed, and not proven, of this period and the last";
        registry.register("in_doubt_units", help, self.in_doubt.clone());
        let name = "ledger_divergence_units";
        registry.register(
            name,
            "Units by which the books do not close",
            self.divergence.clone(),
        );
        registry.register(
            "receipts_pending",
            "Receipts not durable yet",
            self.receipts_pending.clone(),
        );
        let help = "Final messages that left before their receipt was durable";
        registry.register("unrecorded_finals", help, self.unrecorded_finals.clone());
        registry.register(
            "miner_attempts",
            "Dispatches by their end",
            self.attempts.clone(),
        );
        registry.register(
            "accept_errors",
            "Connections not accepted",
            self.accept_errors.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("draining", "1 while draining", self.draining.clone());
        registry.register(
            "store_full",
            "1 while the store has too little space to grant more",
            self.store_full.clone(),
        );
    }

    /// A request ended.
    pub fn request(&self, end: RequestEnd<'_>, took: Duration) {
        let labels = RequestLabels {
            method: end.method.to_owned(),
            task: end.task.to_owned(),
            code: end.code,
            reason: end.reason.to_owned(),
        };
        self.requests.get_or_create(&labels).inc();
        let labels = MethodLabels {
            method: end.method.to_owned(),
        };
        self.request_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A first delta came.
    pub fn first_chunk(&self, task: &str, took: Duration) {
        let labels = TaskLabels {
            task: task.to_owned(),
        };
        self.first_chunk_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// An attempt ended.
    pub fn attempt(&self, miner: u32, outcome: Outcome) {
        let labels = AttemptLabels {
            miner: miner.min(MINERS_TOLD),
            outcome: outcome.as_str(),
        };
        self.attempts.get_or_create(&labels).inc();
    }

    /// A call ended.
    pub fn call_ended(&self, task: &str, origin: Origin, finish: Finish, units: Units) {
        let outcome = if units.is_zero() { "void" } else { "posted" };
        self.reservations
            .get_or_create(&EndLabels {
                outcome,
                cause: finish.as_str(),
            })
            .inc();
        let origin = match origin {
            Origin::Organic => "organic",
            Origin::Synthetic => "synthetic",
        };
        let labels = UnitLabels {
            task: task.to_owned(),
            origin,
        };
        self.units.get_or_create(&labels).inc_by(units.get());
    }

    /// What is looked at now and then.
    pub fn upkeep(&self, divergence: Units, receipts_pending: usize, queue_depth: usize) {
        self.divergence.set(signed(divergence.get()));
        self.receipts_pending.set(signed(receipts_pending as u64));
        self.queue_depth.set(signed(queue_depth as u64));
    }

    /// Open connections of a listener.
    #[must_use]
    pub fn connections(&self, listener: &'static str) -> Gauge {
        let labels = ListenerLabels { listener };
        self.connections.get_or_create(&labels).clone()
    }

    /// Units that are in doubt.
    pub fn in_doubt(&self, units: Units) {
        self.in_doubt.set(signed(units.get()));
    }

    /// Replaces the units of all cells.
    pub fn cells(&self, cells: impl Iterator<Item = (CellLabels, Units)>) {
        self.cells.clear();
        for (labels, units) in cells {
            self.cells.get_or_create(&labels).set(signed(units.get()));
        }
    }

    /// All of it as text, in the OpenMetrics format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
