//! What operators and probes ask over HTTP: metrics, liveness, readiness, and how each miner
//! does.

pub mod board;
pub mod scores;
pub mod status;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use taugate_ledger::units::Units;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::Calls;
use crate::identity::hotkey::Hotkey;
use crate::registry::snapshot::Offer;
use crate::scoring::scorer::{ScoreError, Scorer};
use crate::telemetry::Instruments;
use crate::telemetry::instruments::CellLabels;

use self::board::{Board, Sources};
use self::scores::{Explained, Sheet};
use self::status::{Detail, Overview};

/// What the admin listener shows.
#[derive(Clone, Debug)]
pub struct Admin {
    instruments: Arc<Instruments>,
    calls: Arc<Calls>,
    board: Arc<Board>,
    scorer: Arc<Scorer>,
}

/// What is answered: the status, the kind of the text, the text.
type Answer = (StatusCode, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

/// Requests that wait at once; scrapes are few.
const CONNECTIONS_MAX: usize = 64;

// === impl Admin ===

impl Admin {
    /// Shows these.
    #[must_use]
    pub fn new(instruments: &Arc<Instruments>, sources: Sources, scorer: Arc<Scorer>) -> Self {
        Self {
            scorer,
            instruments: Arc::clone(instruments),
            calls: Arc::clone(&sources.calls),
            board: Arc::new(Board::new(sources)),
        }
    }

    async fn answer(&self, method: &Method, uri: &Uri) -> Answer {
        let path = uri.path();
        if method != Method::GET {
            return (
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "only GET\n".to_owned(),
            );
        }
        match path {
            "/metrics" => {
                self.read_cells();
                (StatusCode::OK, METRICS, self.instruments.text())
            }
            "/health" => (StatusCode::OK, TEXT, "alive\n".to_owned()),
            "/ready" if self.is_ready() => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            "/ready" => (
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                "not ready\n".to_owned(),
            ),
            Overview::PATH => json(&self.board.overview(self.is_ready()).await),
            _ => {
                if let Some(hotkey) = path.strip_prefix(Detail::PATH) {
                    self.detail(hotkey).await
                } else if let Some(rest) = path.strip_prefix(Sheet::PATH) {
                    self.scores(rest, uri.query().unwrap_or_default()).await
                } else {
                    let paths = "there are /metrics, /health, /ready, /v1/status and /v1/scores\n";
                    (StatusCode::NOT_FOUND, TEXT, paths.to_owned())
                }
            }
        }
    }

    /// Everybody's weight, or behind a slash how one miner's came about.
    async fn scores(&self, rest: &str, query: &str) -> Answer {
        let profile = query.strip_prefix("profile=");
        let standing = match self.scorer.standing(profile).await {
            Ok(standing) => standing,
            Err(error @ ScoreError::UnknownProfile { .. }) => {
                return refusal(StatusCode::BAD_REQUEST, &error.to_string());
            }
            Err(error @ ScoreError::Away(_)) => {
                return refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            }
        };
        let Some(miner) = rest.strip_prefix('/') else {
            return json(&Sheet::of(&standing, |miner| self.scorer.uid(miner)));
        };
        let miner = miner.parse::<Hotkey>().ok();
        match miner.and_then(|miner| Explained::of(&standing, miner)) {
            Some(explained) => json(&explained),
            None => refusal(StatusCode::BAD_REQUEST, "no miner of that hotkey is scored"),
        }
    }

    async fn detail(&self, hotkey: &str) -> Answer {
        let Ok(hotkey) = hotkey.parse::<Hotkey>() else {
            return refusal(StatusCode::BAD_REQUEST, "that is no hotkey");
        };
        match self.board.detail(hotkey).await {
            Ok(Some(detail)) => json(&detail),
            Ok(None) => refusal(StatusCode::NOT_FOUND, "no miner of that hotkey declared"),
            Err(_) => refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "the store does not answer; the overview does without it",
            ),
        }
    }

    fn is_ready(&self) -> bool {
        // From the start of the drain on, while calls are still taken.
        self.instruments.draining.get() == 0
            && self.instruments.store_full.get() == 0
            && !self.calls.books.broken().is_cancelled()
    }

    /// Cells are read when they are asked for, not kept a second time.
    fn read_cells(&self) {
        let snapshot = self.calls.registry.snapshot();
        let table = self.calls.books.table();
        let words = |task: &str, offer: &Offer| {
            let cell = offer.cell;
            let states: [(&'static str, Units); 6] = [
                ("declared", offer.declared),
                ("allotted", offer.allotment),
                ("granted", table.granted(cell)),
                ("reserved", table.reserved(cell)),
                ("posted", table.posted_total(cell)),
                ("free", table.free(cell)),
            ];
            let (miner, task) = (offer.miner.number, task.to_owned());
            states.map(|(state, units)| {
                (
                    CellLabels {
                        miner,
                        task: task.clone(),
                        state,
                    },
                    units,
                )
            })
        };
        let offers = snapshot
            .markets
            .iter()
            .flat_map(|(task, market)| market.offers.iter().map(move |offer| (task, offer)));
        self.instruments
            .cells(offers.flat_map(|(task, offer)| words(task, offer)));
    }
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        if connections.len() >= CONNECTIONS_MAX {
            continue;
        }
        let (admin, stop) = (admin.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| respond(admin.clone(), request));
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
                tracing::debug!(%error, "an admin connection ended");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => (StatusCode::OK, JSON, text),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refusal(status: StatusCode, why: &str) -> Answer {
    let text = serde_json::json!({ "error": why }).to_string();
    (status, JSON, text)
}

async fn respond(
    admin: Admin,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, text) = admin.answer(request.method(), request.uri()).await;
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(kind),
    );
    Ok(response)
}
