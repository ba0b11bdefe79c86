//! Verifies signed calls of the peer listener over the exact bytes that came.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::answer::Inner;
use super::status::Refusal;
use crate::identity::call::{CallError, CallVerifier};
use crate::identity::hotkey::Hotkey;

/// The largest signed message with its frame, bytes.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// Bodies of unknown senders at once; all of them are 32 MiB.
const UNVERIFIED_MAX: usize = 256;

/// The frame of a gRPC message: a flag and a length.
const FRAME_LEN: usize = 5;

/// Who sent a verified call; in a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(pub Hotkey);

/// Verifies signed calls.
#[derive(Clone, Debug)]
pub struct Signed(CallVerifier, Arc<Semaphore>);

/// A service behind the verifier.
#[derive(Clone, Debug)]
pub struct SignedService<S> {
    verifier: CallVerifier,
    /// Bodies that are held before it is known who sent them.
    unverified: Arc<Semaphore>,
    inner: S,
}

/// How a method is signed.
enum Covered {
    /// Not at all: it tells nothing secret.
    Open,
    /// Its opening only; what follows is counted.
    Opening,
    /// Its one message.
    Message,
}

// === impl Signed ===

impl Signed {
    /// Verifies with this.
    #[must_use]
    pub fn new(verifier: CallVerifier) -> Self {
        Self(verifier, Arc::new(Semaphore::new(UNVERIFIED_MAX)))
    }
}

impl<S> Layer<S> for Signed {
    type Service = SignedService<S>;

    fn layer(&self, inner: S) -> SignedService<S> {
        SignedService {
            verifier: self.0.clone(),
            unverified: Arc::clone(&self.1),
            inner,
        }
    }
}

// === impl SignedService ===

impl<S: Inner> Service<Request<Body>> for SignedService<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone is the one that may not be ready.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let (verifier, unverified) = (self.verifier.clone(), Arc::clone(&self.unverified));
        Box::pin(async move {
            match verified(&verifier, &unverified, request).await {
                Ok(request) => inner.call(request).await,
                Err(refusal) => Ok(Status::from(refusal).into_http()),
            }
        })
    }
}

fn covered(path: &str) -> Covered {
    match path.rsplit('/').next() {
        Some("SetAvailability") => Covered::Opening,
        Some("GetGateway" | "Check" | "ServerReflectionInfo") => Covered::Open,
        Some(_) | None => Covered::Message,
    }
}

async fn verified(
    verifier: &CallVerifier,
    unverified: &Semaphore,
    request: Request<Body>,
) -> Result<Request<Body>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let (message, body) = match covered(&path) {
        Covered::Open => return Ok(Request::from_parts(parts, body)),
        Covered::Opening => (Bytes::new(), body),
        Covered::Message => {
            let _held = unverified.try_acquire().map_err(|_| Refusal::Overloaded)?;
            let whole = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let whole = whole.map_err(|error| unread(error.as_ref()))?.to_bytes();
            (message(&whole)?, Body::new(Full::new(whole)))
        }
    };
    let metadata = MetadataMap::from_headers(parts.headers.clone());
    match verifier.verify(&metadata, &path, &message).await {
        Ok(caller) => {
            parts.extensions.insert(Caller(caller));
            Ok(Request::from_parts(parts, body))
        }
        Err(CallError::NotRegistered) => Err(Refusal::NotRegistered),
        Err(CallError::Away) => Err(Refusal::EngineUnavailable),
        Err(error) => {
            tracing::info!(%error, %path, "a signed call was refused");
            Err(Refusal::Unauthenticated)
        }
    }
}

/// Why a body did not come whole.
fn unread(error: &(dyn std::error::Error + 'static)) -> Refusal {
    match error.downcast_ref::<Status>() {
        Some(status) if status.code() == Code::DeadlineExceeded => Refusal::Deadline("request"),
        Some(_) | None => Refusal::Unauthenticated,
    }
}

/// The one uncompressed message of a body.
fn message(body: &Bytes) -> Result<Bytes, Refusal> {
    let (flag, length) = match body.get(..FRAME_LEN) {
        Some([flag, a, b, c, d]) => (*flag, u32::from_be_bytes([*a, *b, *c, *d])),
        Some(_) | None => return Err(Refusal::Unauthenticated),
    };
    let rest = body.slice(FRAME_LEN..);
    let one = flag == 0 && usize::try_from(length).is_ok_and(|length| length == rest.len());
    if one {
        Ok(rest)
    } else {
        Err(Refusal::Unauthenticated)
    }
}
