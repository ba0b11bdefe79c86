//! A model behind an OpenAI-compatible server.

mod connect;
mod halves;
mod request;
mod stream;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use eventsource_stream::{EventStream, Eventsource as _};
use futures_util::future::ready;
use futures_util::stream::{BoxStream, once, unfold};
use futures_util::{StreamExt as _, TryFutureExt as _};
use reqwest::StatusCode;
use serde::Deserialize;
use taugate_ledger::engine::BoxFuture;

use self::request::Body;
use self::stream::Reader;
use super::model::{Events, Model, ModelError, ModelEvent};
use crate::proto::v1;

/// The longest wait for the list of models.
const LIST: Duration = Duration::from_secs(10);

/// The longest wait for a sign of life: busy servers answer late, dead ones never.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The most bytes that one event may have; real ones have a few hundred.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// How much of a server's reason for a refusal goes to the log, bytes.
const REASON_BYTES_MAX: usize = 256;

/// The longest wait for that reason.
const REASON: Duration = Duration::from_secs(1);

/// Once all choices ended, counts and `[DONE]` are waited for this long.
const AFTERWORD: Duration = Duration::from_secs(2);

/// A server that speaks OpenAI's chat API.
#[derive(Clone, Debug)]
pub struct OpenAiServer {
    client: reqwest::Client,
    base: Arc<str>,
    api_key: Option<Arc<str>>,
}

/// One model of such a server.
#[derive(Clone, Debug)]
pub struct OpenAiModel {
    server: OpenAiServer,
    model: Arc<str>,
}

/// Why a server cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Its address is not http://host:port, with or without /v1.
    #[error("not an address of a model server: http://host:port, with or without /v1")]
    Address,
    /// No HTTP client could be made.
    #[error("cannot make an HTTP client")]
    Client,
}

#[derive(Debug, Deserialize)]
struct ModelList {
    data: Vec<ListedModel>,
}

#[derive(Debug, Deserialize)]
struct ListedModel {
    id: String,
}

/// What llama.cpp's server says of itself; others have no such page.
#[derive(Debug, Deserialize)]
struct Properties {
    total_slots: Option<u32>,
}

type Chunks = EventStream<BoxStream<'static, Result<Bytes, ModelError>>>;

/// An answer being read.
struct Reading {
    chunks: Chunks,
    /// Bytes that came since the last event.
    unread: Arc<AtomicUsize>,
    reader: Reader,
    ready: VecDeque<v1::Delta>,
}

// === impl OpenAiServer ===

impl OpenAiServer {
    /// The server at `base`, such as `http://127.0.0.1:8000` (`/v1` may follow).
    ///
    /// # Errors
    /// When that is no plain HTTP address.
    pub fn new(base: &str, api_key: Option<&str>) -> Result<Self, ServerError> {
        let base = base.trim_end_matches('/').trim_end_matches("/v1");
        let parsed = reqwest::Url::parse(base).map_err(|_| ServerError::Address)?;
        if parsed.scheme() != "http" || !parsed.has_host() {
            return Err(ServerError::Address);
        }
        Ok(Self {
            client: connect::client().map_err(|_| ServerError::Client)?,
            base: base.into(),
            api_key: api_key.map(Into::into),
        })
    }

    /// The names of the models that it serves.
    ///
    /// # Errors
    /// When it was not reached, or answers with something else.
    pub async fn models(&self) -> Result<Vec<String>, ModelError> {
        let request = self.client.get(format!("{}/v1/models", self.base));
        let response = self.authorised(request).timeout(LIST).send().await;
        let response = check(response.map_err(|_| ModelError::Away)?).await?;
        let list: ModelList = response.json().await.map_err(|_| ModelError::Broken)?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// Where it is, as it was given.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One of its models, by the server's name of it.
    #[must_use]
    pub fn model(&self, model: &str) -> OpenAiModel {
        OpenAiModel {
            server: self.clone(),
            model: model.into(),
        }
    }

    /// How many requests it works on at once, when it says so.
    pub async fn slots(&self) -> Option<u32> {
        let request = self.client.get(format!("{}/props", self.base));
        let response = self.authorised(request).timeout(LIST).send().await.ok()?;
        let properties: Properties = response.error_for_status().ok()?.json().await.ok()?;
        properties.total_slots.filter(|slots| *slots > 0)
    }

    /// Whether it is there and has its models ready. One without a list of models, or with
    /// another key for it, is there.
    async fn is_present(&self) -> bool {
        let request = self.client.get(format!("{}/v1/models", self.base));
        let response = self.authorised(request).timeout(SIGN_OF_LIFE).send().await;
        response.is_ok_and(|response| !response.status().is_server_error())
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// What a status says before there is an answer.
async fn check(response: reqwest::Response) -> Result<reqwest::Response, ModelError> {
    match response.status() {
        status if status.is_success() => Ok(response),
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => {
            let status = response.status().as_u16();
            let reason = reason(response).await;
            tracing::debug!(status, ?reason, "the model server refuses a request");
            Err(ModelError::Refused)
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Err(ModelError::Busy),
        status => {
            tracing::warn!(status = status.as_u16(), "the model server failed");
            Err(ModelError::Away)
        }
    }
}

/// The beginning of what the server says of a refusal, for the miner's own log.
async fn reason(mut response: reqwest::Response) -> String {
    let first = tokio::time::timeout(REASON, response.chunk()).await;
    let Ok(Ok(Some(bytes))) = first else {
        return String::new();
    };
    let end = bytes.len().min(REASON_BYTES_MAX);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

// === impl OpenAiModel ===

impl OpenAiModel {
    async fn ask(self, payload: v1::ChatPayload) -> Result<Reading, ModelError> {
        let body = Body::new(&self.model, &payload).map_err(|_| ModelError::Refused)?;
        let body = serde_json::to_vec(&body).map_err(|_| ModelError::Refused)?;
        let url = format!("{}/v1/chat/completions", self.server.base);
        let request = self.server.client.post(url);
        let request = request
            .header("content-type", "application/json")
            .body(body);
        let response = self.server.authorised(request).send().await;
        let response = check(response.map_err(|_| ModelError::Away)?).await?;
        let unread = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&unread);
        // The parser keeps what is no whole event yet: that has to have a bound.
        let bytes = response.bytes_stream().map(move |bytes| {
            let bytes = bytes.map_err(|_| ModelError::Broken)?;
            let before = counted.fetch_add(bytes.len(), Ordering::Relaxed);
            if before > EVENT_BYTES_MAX {
                return Err(ModelError::Broken);
            }
            Ok(bytes)
        });
        // Some servers end without the empty line that ends an event. An event that was cut
        // is no JSON, and stays broken.
        let last = once(ready(Ok(Bytes::from_static(b"\n\n"))));
        Ok(Reading {
            chunks: bytes.chain(last).boxed().eventsource(),
            unread,
            reader: Reader::new(payload.choices.unwrap_or(1)),
            ready: VecDeque::new(),
        })
    }
}

impl Model for OpenAiModel {
    fn chat(&self, payload: v1::ChatPayload) -> Events {
        let events = self.clone().ask(payload).map_ok(|reading| {
            unfold(Some(reading), |reading| async {
                let mut reading = reading?;
                let event = reading.next().await;
                let goes_on = matches!(event, Ok(ModelEvent::Delta(_)));
                Some((event, goes_on.then_some(reading)))
            })
        });
        events.try_flatten_stream().boxed()
    }

    fn is_present(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.server.is_present())
    }
}

// === impl Reading ===

impl Reading {
    // A whole answer needs an end for each choice; that the connection broke after it does
    // not matter.
    async fn next(&mut self) -> Result<ModelEvent, ModelError> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok(ModelEvent::Delta(delta));
            }
            let finished = self.reader.finished();
            let chunk = if finished {
                // All is there; only the counts may be missing.
                let waited = tokio::time::timeout(AFTERWORD, self.chunks.next()).await;
                waited.unwrap_or(None)
            } else {
                self.chunks.next().await
            };
            let event = match chunk {
                Some(Ok(event)) => event,
                Some(Err(_)) | None => return self.reader.end(false),
            };
            self.unread.store(0, Ordering::Relaxed);
            if event.data.trim() == "[DONE]" {
                return self.reader.end(true);
            }
            match event.event.as_str() {
                "" | "message" => self.ready.extend(self.reader.read(&event.data)?),
                "error" => return Err(ModelError::Broken),
                name => tracing::debug!(name, "an event of the server's own"),
            }
        }
    }
}
