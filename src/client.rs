//! A small client library: what `ask`, `replay` and the demo speak to a gateway with.
//!
//! The right way to try again is in here: only before the first event, only when the
//! refusal says that it helps, and not before it says so.
//!
//! ```no_run
//! use taugate::client::{Client, chat};
//! use taugate::proto::v1::stream_generate_response::Event;
//!
//! # async fn first_call() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:50051", None).await?;
//! let mut answer = client.stream(&chat("tiny", "hello", Some(64))).await?;
//! // It is whole only if this ends with `None`; whatever else happens is an error.
//! while let Some(event) = answer.next().await? {
//!     if let Event::Delta(delta) = event {
//!         print!("{}", delta.content);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod ask;
pub mod reach;
pub mod replay;

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::proto::v1;
use crate::proto::v1::inference_service_client::InferenceServiceClient;
use crate::proto::v1::stream_generate_response::Event;

/// A connection to a gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inference: InferenceServiceClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
    retries: Retries,
    deadline: Option<Duration>,
}

/// How often and how long a refused call is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Tries after the first.
    pub most: u32,
    /// A longer wait is not worth it.
    pub wait_max: Duration,
}

/// A gateway that cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is malformed.
    #[error("{0} is no address of a gateway: http://host:port or https://host:port")]
    Address(String),
    /// The certificates to trust cannot be read.
    #[error("cannot read {}: {source}", .file.display())]
    Ca {
        /// Their file.
        file: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no certificate in what is to be trusted.
    #[error("there is no certificate in what is to be trusted")]
    NoCa,
    /// The system's certificates cannot be used, or it has none.
    #[error("no certificate to trust: {}", cause(.0))]
    Trust(#[source] tonic::transport::Error),
    /// The key holds what no header may hold.
    #[error("the key is malformed")]
    Key,
    /// Nobody answers.
    #[error("no gateway answers at {address}: {}", cause(.source))]
    Away {
        /// The address.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// A call that did not bring a whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refused {
    /// The status code.
    pub code: Code,
    /// The gateway's reason, such as `NO_CAPACITY`; the code's name where none was given.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When another try helps; `None`: it does not, or nothing was said.
    pub retry_after: Option<Duration>,
    /// The fields that are wrong.
    pub fields: Vec<(String, String)>,
}

/// An answer as it comes.
#[derive(Debug)]
pub struct Answer {
    events: Streaming<v1::StreamGenerateResponse>,
    whole: bool,
    /// When the caller's time is up, whatever the gateway does.
    until: Option<Instant>,
}

// === impl Retries ===

impl Default for Retries {
    fn default() -> Self {
        Self {
            most: 3,
            wait_max: Duration::from_secs(10),
        }
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// A command's exit code: 4 when nobody answers, 2 when it was told wrongly.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Away { .. } => 4,
            Self::Address(_) | Self::Key | Self::Ca { .. } | Self::NoCa | Self::Trust(_) => 2,
        }
    }
}

// === impl Client ===

impl Client {
    /// Connects to `http://host:port`, or by TLS to `https://host:port` with what the system
    /// trusts.
    ///
    /// # Errors
    /// When the address or the key is malformed, or nobody answers.
    pub async fn connect(address: &str, key: Option<&str>) -> Result<Self, ConnectError> {
        Self::connect_trusting(address, key, None).await
    }

    /// As [`Self::connect`]; over TLS it trusts these certificates (PEM) alone, where some
    /// are given.
    ///
    /// # Errors
    /// As [`Self::connect`], and when the certificates are none.
    pub async fn connect_trusting(
        address: &str,
        key: Option<&str>,
        trusted: Option<&[u8]>,
    ) -> Result<Self, ConnectError> {
        let bad = || ConnectError::Address(address.to_owned());
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| bad())?;
        let endpoint = match endpoint.uri().scheme_str() {
            Some("http") => endpoint,
            Some("https") => {
                let trust = ClientTlsConfig::new();
                let trust = match trusted {
                    Some(pem) if holds_certificates(pem) => {
                        trust.ca_certificate(Certificate::from_pem(pem))
                    }
                    Some(_) => return Err(ConnectError::NoCa),
                    None => trust.with_native_roots(),
                };
                endpoint.tls_config(trust).map_err(ConnectError::Trust)?
            }
            _ => return Err(bad()),
        };
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            // A gateway that vanished without a word is noticed.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect()
            .await;
        let away = |source| ConnectError::Away {
            address: address.to_owned(),
            source,
        };
        let key = match key {
            Some(key) => {
                let value = format!("Bearer {key}").parse::<MetadataValue<Ascii>>();
                let mut value = value.map_err(|_| ConnectError::Key)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            inference: InferenceServiceClient::new(channel.map_err(away)?)
                .max_decoding_message_size(16 * 1024 * 1024),
            key,
            retries: Retries::default(),
            deadline: None,
        })
    }

    /// Tries again that often.
    #[must_use]
    pub fn with_retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Gives each call so long, all tries together; without it, as long as its task says.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The tasks that can be asked for.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub async fn tasks(&self) -> Result<Vec<v1::TaskInfo>, Refused> {
        let request = self.request(v1::ListTasksRequest {});
        let answer = self.inference.clone().list_tasks(request).await;
        Ok(answer
            .map_err(|status| Refused::from(&status))?
            .into_inner()
            .tasks)
    }

    /// The receipt of a call.
    ///
    /// # Errors
    /// When there is none.
    pub async fn receipt(&self, request_id: String) -> Result<v1::Receipt, Refused> {
        let request = self.request(v1::GetReceiptRequest { request_id });
        let answer = self.inference.clone().get_receipt(request).await;
        let answer = answer
            .map_err(|status| Refused::from(&status))?
            .into_inner();
        answer
            .receipt
            .ok_or_else(|| Refused::local(Code::Unknown, "the answer holds no receipt"))
    }

    /// Streams an answer; tries again where a refusal says that it helps.
    ///
    /// # Errors
    /// When the last try was refused.
    pub async fn stream(&self, request: &v1::GenerateRequest) -> Result<Answer, Refused> {
        let until = self.deadline.and_then(|deadline| {
            // The gateway's own word on the deadline gets a moment to arrive.
            Instant::now().checked_add(deadline.saturating_add(Duration::from_secs(1)))
        });
        let events = self.retried(request, async |mut inference, request| {
            inference.stream_generate(request).await
        });
        Ok(Answer {
            events: events.await?,
            whole: false,
            until,
        })
    }

    /// A whole answer at once; tries again where a refusal says that it helps.
    ///
    /// # Errors
    /// When the last try was refused.
    pub async fn generate(
        &self,
        request: &v1::GenerateRequest,
    ) -> Result<v1::GenerateResponse, Refused> {
        self.retried(request, async |mut inference, request| {
            inference.generate(request).await
        })
        .await
    }

    /// Sends a request until it is taken or another try does not help. What was taken is
    /// never sent again: its answer has begun.
    async fn retried<T>(
        &self,
        request: &v1::GenerateRequest,
        send: impl AsyncFn(
            InferenceServiceClient<Channel>,
            Request<v1::GenerateRequest>,
        ) -> Result<Response<T>, Status>,
    ) -> Result<T, Refused> {
        let began = Instant::now();
        let mut tried = 0;
        loop {
            let mut signed = self.request(request.clone());
            let rest = self
                .deadline
                .map(|deadline| deadline.saturating_sub(began.elapsed()));
            if let Some(rest) = rest {
                signed.set_timeout(rest);
            }
            let refused = match send(self.inference.clone(), signed).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => Refused::from(&status),
            };
            let longest = rest.unwrap_or(Duration::MAX).min(self.retries.wait_max);
            let wait = refused.retry_after.filter(|wait| *wait < longest);
            let Some(wait) = wait.filter(|_| tried < self.retries.most) else {
                return Err(refused);
            };
            tried += 1;
            tokio::time::sleep(wait.max(Duration::from_millis(50))).await;
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
        }
        request
    }
}

// === impl Answer ===

impl Answer {
    /// The next event; `None` after `Completed`.
    ///
    /// # Errors
    /// When the answer broke off, or ended without being whole.
    pub async fn next(&mut self) -> Result<Option<Event>, Refused> {
        let message = match self.until {
            Some(until) => match timeout_at(until, self.events.message()).await {
                Ok(message) => message,
                Err(_) => return Err(Refused::local(Code::DeadlineExceeded, "the time is up")),
            },
            None => self.events.message().await,
        };
        match message {
            Ok(Some(response)) => {
                self.whole |= matches!(response.event, Some(Event::Completed(_)));
                match response.event {
                    Some(event) => Ok(Some(event)),
                    None => Err(Refused::local(Code::Unknown, "an event of an unknown kind")),
                }
            }
            Ok(None) if self.whole => Ok(None),
            Ok(None) => Err(Refused::local(
                Code::Unknown,
                "the answer ended without being whole",
            )),
            Err(status) => Err(Refused::from(&status)),
        }
    }
}

// === impl Refused ===

impl Refused {
    /// Whether a gateway gave a reason; a proxy or a broken connection gives none.
    #[must_use]
    pub fn has_reason(&self) -> bool {
        self.reason != format!("{:?}", self.code)
    }

    /// What the gateway did not say itself.
    fn local(code: Code, message: &str) -> Self {
        let reason = if code == Code::DeadlineExceeded {
            "DEADLINE"
        } else {
            "BROKEN_ANSWER"
        };
        Self {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            retry_after: None,
            fields: Vec::new(),
        }
    }
}

impl From<&Status> for Refused {
    fn from(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        let pushback = pushback.and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
        // Less than zero: never. Where a proxy dropped it, the details say the same.
        let retry_after = match pushback {
            Some(ms) => u64::try_from(ms).ok().map(Duration::from_millis),
            None => status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay),
        };
        let fields = status
            .get_details_bad_request()
            .map_or_else(Vec::new, |bad| {
                let fields = bad.field_violations.into_iter();
                fields
                    .map(|field| (field.field, field.description))
                    .collect()
            });
        Self {
            code: status.code(),
            reason: info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason),
            message: status.message().to_owned(),
            retry_after,
            fields,
        }
    }
}

/// Whether there is a certificate in a file, and none that is broken.
fn holds_certificates(pem: &[u8]) -> bool {
    let mut found = CertificateDer::pem_slice_iter(pem).peekable();
    found.peek().is_some() && found.all(|certificate| certificate.is_ok())
}

/// The first cause: what the transport says itself is no more than that it failed.
fn cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A message of one text.
#[must_use]
pub fn message(role: v1::Role, text: &str) -> v1::ChatMessage {
    let part = v1::content_part::Part::Text(text.to_owned());
    v1::ChatMessage {
        role: role.into(),
        parts: vec![v1::ContentPart { part: Some(part) }],
        ..v1::ChatMessage::default()
    }
}

/// A chat of one message.
#[must_use]
pub fn chat(task: &str, text: &str, max_tokens: Option<u32>) -> v1::GenerateRequest {
    let chat = v1::ChatPayload {
        messages: vec![message(v1::Role::User, text)],
        max_tokens,
        ..v1::ChatPayload::default()
    };
    v1::GenerateRequest {
        task: task.to_owned(),
        payload: Some(v1::generate_request::Payload::Chat(chat)),
        ..v1::GenerateRequest::default()
    }
}
