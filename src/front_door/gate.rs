//! Who sends a request of the public listener: that goes into the request's extensions, and
//! who cannot say it gets no further.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Ready, ready};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::entry::From;
use super::status::{Excess, Refusal};
use crate::clock::SharedClock;
use crate::identity::key_ring::{Client, KeyRing};
use crate::identity::pace::Pace;

/// How the gate decides.
#[derive(Clone, Debug)]
pub struct Gate {
    keys: Arc<KeyRing>,
    clock: SharedClock,
    /// Keys that did not hold, by address, and by address and the key that was meant.
    guesses: Arc<Pace<(IpAddr, Option<u32>)>>,
}

/// Keys that do not hold and may be shown at once: a deployment whose key is not made yet, or
/// is revoked, tries more than a few times; 256 random bits bear any number of guesses.
const GUESSES: u32 = 100;

/// Then one each while.
const GUESS_EACH: Duration = Duration::from_secs(1);

/// Addresses and keys that are kept; those beyond share one pace.
const GUESSES_MAX: usize = 8192;

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

// === impl Gate ===

impl Gate {
    /// A gate before which keys are shown.
    #[must_use]
    pub fn new(keys: Arc<KeyRing>, clock: SharedClock) -> Self {
        Self {
            keys,
            clock,
            guesses: Arc::new(Pace::new(GUESS_EACH, GUESSES, GUESSES_MAX)),
        }
    }

    fn look<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        if is_open(request.uri().path()) {
            return Ok(());
        }
        let from = request.extensions().get::<From>().copied();
        let client = self.client(request.headers(), from)?;
        request.extensions_mut().insert(client);
        Ok(())
    }

    fn client(&self, headers: &http::HeaderMap, from: Option<From>) -> Result<Client, Refusal> {
        let bearer = headers.get(AUTHORIZATION).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix("Bearer "))
                .unwrap_or_default()
        });
        match bearer {
            Some(key) => self.holder(key, from),
            None if self.keys.is_required() => Err(Refusal::Unauthenticated),
            None => Ok(Client::default()),
        }
    }

    /// Who holds a key. Who guesses is slowed down: a key is not even compared while its
    /// public id has been guessed at too often from that address, and keys that do not hold
    /// are counted by address too. A key that holds is let in whatever others send from
    /// behind the same balancer.
    fn holder(&self, key: &str, from: Option<From>) -> Result<Client, Refusal> {
        let now_ms = self.clock.unix_ms();
        let guesser = |id| from.map(|from| (from.0, id));
        let (address, target) = (guesser(None), guesser(Some(claimed(key))));
        let limited = |wait| Refusal::RateLimited(Excess::WrongKeys, wait);
        if let Some(wait) = target.and_then(|who| self.guesses.owes(&who, now_ms)) {
            return Err(limited(wait));
        }
        self.keys.authenticate(key, now_ms).map_err(|_| {
            let steps = [address, target].into_iter().flatten();
            let waits = steps.filter_map(|who| self.guesses.step(who, now_ms).err());
            waits.max().map_or(Refusal::Unauthenticated, limited)
        })
    }
}

/// What tells which key is meant: enough of it to count by, whether or not there is one.
fn claimed(key: &str) -> u32 {
    let id = key.split('_').nth(2).unwrap_or_default();
    crc32fast::hash(id.as_bytes())
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
