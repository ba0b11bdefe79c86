//! Counts live streams: the count lives in the response body, because a handler's future
//! ends at headers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::measured::Measure;
use super::slow::InTime;
use crate::telemetry::Instruments;

/// What a shard has to do.
#[derive(Debug, Default)]
pub struct Live {
    streams: AtomicUsize,
    connections: AtomicUsize,
}

/// The service of a shard's connections, whose streams count.
#[derive(Clone, Debug)]
pub struct PublicService<S> {
    inner: S,
    live: Arc<Live>,
    instruments: Arc<Instruments>,
    /// For the whole body of a request.
    body_limit: Duration,
}

/// A tower service that answers gRPC requests.
pub trait Inner:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S> Inner for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

/// A stream that is counted until it is dropped.
#[derive(Debug)]
struct Counted(Arc<Live>);

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Connected(Arc<Live>, Arc<AtomicUsize>);

/// A body that holds its stream's count.
#[derive(Debug)]
struct CountedBody {
    inner: Body,
    measure: Measure,
    _counted: Counted,
}

// === impl Live ===

impl Live {
    /// Streams that live.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// What decides which shard gets the next connection.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.streams(), self.connections.load(Ordering::Relaxed))
    }

    pub(super) fn connection(self: &Arc<Self>, all: &Arc<AtomicUsize>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        all.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self), Arc::clone(all))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl PublicService ===

impl<S> PublicService<S> {
    pub(super) const fn new(
        inner: S,
        live: Arc<Live>,
        instruments: Arc<Instruments>,
        body_limit: Duration,
    ) -> Self {
        Self {
            inner,
            live,
            instruments,
            body_limit,
        }
    }
}

impl<S: Inner> Service<Request<Incoming>> for PublicService<S> {
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.live.streams.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&self.live));
        let mut measure = Measure::begin(&self.instruments, request.uri().path());
        let limit = self.body_limit;
        let timed = !is_conversation(request.uri().path());
        let request = request.map(|body| {
            if timed {
                Body::new(InTime::new(body, limit))
            } else {
                Body::new(body)
            }
        });
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            measure.see(response.headers());
            Ok(response.map(|inner| {
                Body::new(CountedBody {
                    inner,
                    measure,
                    _counted: counted,
                })
            }))
        })
    }
}

/// Whether a method's requests go on for as long as both sides like.
fn is_conversation(path: &str) -> bool {
    path.ends_with("/SetAvailability") || path.ends_with("/ServerReflectionInfo")
}

// === impl CountedBody ===

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.measure.see(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
