//! What every request of the public listener passes first: is it gRPC at all, how much time
//! has it, who sends it. What is found goes into the request's extensions.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::deadline::{Deadline, Timeout, parse};
use super::status::{FieldFault, Refusal};
use crate::clock::SharedClock;
use crate::identity::key_ring::{Client, KeyRing};

/// How the gate decides.
#[derive(Clone, Debug)]
pub struct Gate {
    keys: Arc<KeyRing>,
    /// Whether a key is needed.
    required: bool,
    clock: SharedClock,
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

// === impl Gate ===

impl Gate {
    /// A gate that needs a key, or none.
    #[must_use]
    pub fn new(keys: Arc<KeyRing>, required: bool, clock: SharedClock) -> Self {
        Self {
            keys,
            required,
            clock,
        }
    }

    fn look<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        // tonic looks at neither: a GET would run the handler.
        let grpc = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let grpc = grpc.is_some_and(|value| value.starts_with("application/grpc"));
        if request.method() != Method::POST || !grpc {
            return Err(Refusal::Unimplemented("requests that are no gRPC calls"));
        }
        match parse(request.headers()) {
            Timeout::None => {}
            Timeout::After(timeout) => {
                request.extensions_mut().insert(Deadline::after(timeout));
            }
            Timeout::Passed => return Err(Refusal::Deadline("admission")),
            Timeout::Malformed => {
                return Err(Refusal::Invalid(vec![FieldFault {
                    field: "grpc-timeout".to_owned(),
                    fault: "must be at most eight digits and one of H, M, S, m, u, n".to_owned(),
                }]));
            }
        }
        if is_open(request.uri().path()) {
            return Ok(());
        }
        let client = self.client(request.headers())?;
        request.extensions_mut().insert(client);
        Ok(())
    }

    fn client(&self, headers: &http::HeaderMap) -> Result<Client, Refusal> {
        let bearer = headers.get(AUTHORIZATION).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix("Bearer "))
                .unwrap_or_default()
        });
        match bearer {
            Some(key) => {
                let client = self.keys.authenticate(key, self.clock.unix_ms());
                client.map_err(|_| Refusal::Unauthenticated)
            }
            None if self.required => Err(Refusal::Unauthenticated),
            None => Ok(Client::default()),
        }
    }
}

/// Health and reflection are for load balancers and tools, which have no keys.
fn is_open(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.") || path.starts_with("/grpc.reflection.")
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: self.clone(),
            inner,
        }
    }
}

// === impl Gated ===

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.gate.look(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Ok(Status::from(refusal).into_http()))),
        }
    }
}
