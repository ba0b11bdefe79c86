//! In front of a miner's work: each request is of a session, by a hash over the exact bytes
//! that came.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tower::Service;

use super::MESSAGE_BYTES_MAX;
use crate::sidecar::sessions::{Session, Sessions, unauthenticated};

/// The one method that is work.
const GENERATE: &str = "/taugate.v1.MinerService/Generate";

/// Requests at once that are read before it is known who sent them. Who has no session is
/// refused by the headers alone.
const UNVERIFIED_MAX: usize = 256;

/// For the whole of a request, pictures included.
const BODY: Duration = Duration::from_secs(30);

/// The frame of a gRPC message: a flag and a length.
const FRAME_LEN: usize = 5;

/// Asks for sessions.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    sessions: Arc<Sessions>,
    unverified: Arc<Semaphore>,
}

/// What a connection serves, behind the guard if there is one.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    guard: Option<Guard>,
    inner: Routes,
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self {
            sessions,
            unverified: Arc::new(Semaphore::new(UNVERIFIED_MAX)),
        }
    }

    pub(super) const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The request as it is passed on.
    async fn verified(&self, request: Request<Incoming>) -> Result<Request<Body>, Status> {
        let (parts, body) = request.into_parts();
        let metadata = MetadataMap::from_headers(parts.headers);
        let claimed = self.sessions.claimed(&metadata)?;
        let mut request = Request::new(Body::empty());
        *request.method_mut() = parts.method;
        *request.uri_mut() = parts.uri;
        *request.version_mut() = parts.version;
        *request.headers_mut() = metadata.into_headers();
        *request.body_mut() = match claimed {
            None => Body::new(body),
            Some((session, claim)) => {
                let busy = || Status::resource_exhausted("too many requests are read");
                let _held = self.unverified.try_acquire().map_err(|_| busy())?;
                let whole = Limited::new(body, MESSAGE_BYTES_MAX + FRAME_LEN).collect();
                let whole = tokio::time::timeout(BODY, whole).await;
                let whole = whole.map_err(|_| Status::deadline_exceeded("the request is late"))?;
                let whole =
                    whole.map_err(|_| Status::invalid_argument("the request is cut off"))?;
                let whole = whole.to_bytes();
                check(&session, &claim, request.uri().path(), &whole)?;
                Body::new(Full::new(whole))
            }
        };
        Ok(request)
    }
}

fn check(
    session: &Session,
    claim: &crate::identity::session::Claim,
    path: &str,
    body: &Bytes,
) -> Result<(), Status> {
    let message = message(body).ok_or_else(unauthenticated)?;
    session.take(claim, path, message)
}

/// The one uncompressed message of a body.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (frame, rest) = body.split_at_checked(FRAME_LEN)?;
    let [0, a, b, c, d] = *frame else { return None };
    let length = u32::from_be_bytes([a, b, c, d]);
    (usize::try_from(length) == Ok(rest.len())).then_some(rest)
}

// === impl Guarded ===

impl Guarded {
    pub(super) const fn new(guard: Option<Guard>, inner: Routes) -> Self {
        Self { guard, inner }
    }
}

impl Service<Request<Incoming>> for Guarded {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let mut inner = self.inner.clone();
        let guard = self.guard.clone();
        Box::pin(async move {
            let request = match guard {
                Some(guard) if request.uri().path() == GENERATE => {
                    match guard.verified(request).await {
                        Ok(request) => request,
                        Err(status) => return Ok(status.into_http()),
                    }
                }
                Some(_) | None => request.map(Body::new),
            };
            inner.call(request).await
        })
    }
}
