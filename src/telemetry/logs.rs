//! Logs to standard error, and traces to a collector where one is named.

use std::io::IsTerminal as _;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Exports what is left when it is shut down.
#[derive(Debug, Default)]
pub struct Traces(Option<SdkTracerProvider>);

/// Telemetry did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is malformed.
    #[error("the log filter is malformed: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A subscriber is set already.
    #[error("logs are set up already")]
    Taken(#[from] TryInitError),
    /// The collector's address is malformed.
    #[error("the trace exporter cannot be built: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// An error and what caused it, each cause once: some errors tell theirs themselves.
#[must_use]
pub fn told(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .reduce(|text, why| {
            if text.contains(&why) {
                text
            } else {
                format!("{text}: {why}")
            }
        })
        .unwrap_or_default()
}

/// Looks at a filter as [`start_logs`] will.
///
/// # Errors
/// When it is malformed.
pub fn check_filter(filter: &str) -> Result<(), TelemetryError> {
    EnvFilter::builder().parse(filter)?;
    Ok(())
}

/// Starts logging. `filter` is as in `RUST_LOG`, such as `info,taugate=debug`.
///
/// # Errors
/// When the filter is malformed or logs were started before.
pub fn start_logs(format: Format, filter: &str) -> Result<(), TelemetryError> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = EnvFilter::builder().parse(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let mut lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if !std::io::stderr().is_terminal() {
        // A file or a collector gets plain text; on a terminal `NO_COLOR` counts.
        lines.set_ansi(false);
    }
    match format {
        Format::Pretty => registry.with(lines.compact()).try_init()?,
        Format::Json => registry.with(lines.json()).try_init()?,
    }
    Ok(())
}

/// Starts exporting traces over OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector.
/// Call it on a runtime that lives as long as the process.
///
/// # Errors
/// When the address is malformed. A collector that is away loses traces, nothing else.
#[expect(
    clippy::disallowed_methods,
    reason = "the variable is OpenTelemetry's own configuration"
)]
pub fn start_traces() -> Result<Traces, TelemetryError> {
    if std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").is_err() {
        return Ok(Traces::default());
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let resource = Resource::builder().with_service_name("taugate").build();
    let pipeline = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    opentelemetry::global::set_tracer_provider(pipeline.clone());
    Ok(Traces(Some(pipeline)))
}

// === impl Traces ===

impl Traces {
    /// Whether traces are exported.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Exports what is left. Blocks; not for a runtime's thread.
    pub fn shutdown(self) {
        if let Some(pipeline) = self.0
            && let Err(error) = pipeline.shutdown()
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}
