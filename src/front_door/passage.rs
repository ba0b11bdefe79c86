//! The way of every request of every listener: counted and measured, looked at, given its
//! time, answered.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tower::Service;

use super::answer::{AnswerBody, Inner, answer, refused};
use super::counted::Live;
use super::deadline::Deadline;
use super::entry::{self, From};
use super::measured::{Asked, Measure};
use super::method::{Method, Places};
use super::settings::DoorSettings;
use super::slow::InTime;
use crate::telemetry::Instruments;

/// The service of one connection, and what stands in front of it.
#[derive(Clone, Debug)]
pub(super) struct Passage<S> {
    inner: S,
    shard: Arc<Shard>,
    from: From,
}

/// What all connections of a shard share.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) live: Arc<Live>,
    pub(super) instruments: Arc<Instruments>,
    pub(super) settings: Arc<ArcSwap<DoorSettings>>,
    pub(super) places: Arc<Places>,
}

// === impl Passage ===

impl<S> Passage<S> {
    /// In front of a service, for a connection from that block of addresses.
    pub(super) const fn new(inner: S, shard: Arc<Shard>, from: IpAddr) -> Self {
        Self {
            inner,
            shard,
            from: From(from),
        }
    }
}

impl<S: Inner> Service<Request<Incoming>> for Passage<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let counted = self.shard.live.stream();
        let path = request.uri().path().to_owned();
        let method = Method::of(&path);
        let asked = Asked::default();
        let mut measure = Measure::begin(&self.shard.instruments, method.label, asked.clone());
        let admitted = entry::look(&mut request).and_then(|()| self.shard.places.take(method.kind));
        // The clone is the one that may not be ready.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let (terms, from) = (self.shard.settings.load().terms(), self.from);
        Box::pin(async move {
            let deadline = request.extensions().get::<Deadline>().copied();
            let end = method.kind.end(&terms, deadline);
            let (response, place) = match admitted {
                Err(refusal) => (refused(refusal), None),
                Ok(place) => {
                    request.extensions_mut().insert(from);
                    request.extensions_mut().insert(asked);
                    let request = request.map(|body| {
                        if method.kind.is_conversation() {
                            Body::new(body)
                        } else {
                            Body::new(InTime::new(body, terms.body))
                        }
                    });
                    (answer(inner, request, end).await, place)
                }
            };
            measure.see(response.headers());
            let held = (counted, place);
            Ok(response.map(|inner| Body::new(AnswerBody::new(inner, path, end, measure, held))))
        })
    }
}
