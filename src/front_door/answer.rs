//! The answer of a method on its way out: no panic gets through, none lasts for ever, and no
//! refusal leaves without its reason.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::counted::Counted;
use super::measured::Measure;
use super::status::Refusal;

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

/// The body of an answer.
#[derive(Debug)]
pub(super) struct AnswerBody {
    inner: Body,
    path: String,
    end: Option<Pin<Box<Sleep>>>,
    /// Nothing comes any more.
    ended: bool,
    measure: Measure,
    _place: Option<OwnedSemaphorePermit>,
    _counted: Counted,
}

/// Runs a method up to its headers: whatever becomes of it is an answer.
pub(super) async fn answer<S: Inner>(
    mut inner: S,
    request: Request<Body>,
    end: Option<Instant>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let answering = async move { inner.call(request).await };
    // What a method held when it panicked is dropped; what is shared is never left half
    // changed, because no lock is held over code that can panic.
    let answering = AssertUnwindSafe(answering).catch_unwind();
    let answered = match end {
        Some(end) => tokio::time::timeout_at(end, answering).await,
        None => Ok(answering.await),
    };
    let mut response = match answered {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(_)) => refused(panicked(&path)),
        Err(_) => refused(Refusal::Deadline("answer")),
    };
    complete(response.headers_mut(), &path);
    response
}

/// A refusal as a whole answer.
pub(super) fn refused(refusal: Refusal) -> Response<Body> {
    Status::from(refusal).into_http()
}

fn panicked(path: &str) -> Refusal {
    tracing::error!(path, "a method panicked; it is refused, the others go on");
    Refusal::Internal(None)
}

/// Gives a refusal its reason where it has none.
fn complete(headers: &mut HeaderMap, path: &str) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if status.code() == Code::Ok || headers.contains_key("taugate-reason") {
        return;
    }
    // Which compressions are spoken is told with this one refusal alone.
    let encoding = headers.contains_key("grpc-accept-encoding");
    let refusal = if status.code() == Code::Unimplemented && encoding {
        Refusal::UnknownEncoding
    } else {
        Refusal::of_foreign(status.code(), path)
    };
    write(refusal, headers);
}

/// Writes a status over one that is there.
fn write(refusal: Refusal, headers: &mut HeaderMap) {
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        headers.remove(name);
    }
    if let Err(error) = Status::from(refusal).add_header(headers) {
        tracing::error!(%error, "a status cannot be written");
    }
}

// === impl AnswerBody ===

impl AnswerBody {
    /// The body of the answer to a request of that path, which must end in time.
    pub(super) fn new(
        inner: Body,
        path: String,
        end: Option<Instant>,
        measure: Measure,
        held: (Counted, Option<OwnedSemaphorePermit>),
    ) -> Self {
        Self {
            inner,
            path,
            end: end.map(|end| Box::pin(tokio::time::sleep_until(end))),
            ended: false,
            measure,
            _place: held.1,
            _counted: held.0,
        }
    }

    /// The last frame of an answer that ends here.
    fn break_off(&mut self, refusal: Refusal) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        write(refusal, &mut trailers);
        self.measure.see(&trailers);
        // Drops the method's stream, with all that it held.
        self.inner = Body::empty();
        self.ended = true;
        Frame::trailers(trailers)
    }

    fn seen(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                complete(&mut trailers, &self.path);
                self.measure.see(&trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let inner = AssertUnwindSafe(|| Pin::new(&mut self.inner).poll_frame(cx));
        let Ok(polled) = catch_unwind(inner) else {
            let refusal = panicked(&self.path);
            return Poll::Ready(Some(Ok(self.break_off(refusal))));
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(self.seen(frame)))),
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => {
                let Some(end) = &mut self.end else {
                    return Poll::Pending;
                };
                std::task::ready!(end.as_mut().poll(cx));
                let refusal = Refusal::Deadline("answer");
                Poll::Ready(Some(Ok(self.break_off(refusal))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
