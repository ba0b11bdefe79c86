//! Those who say nothing: how long a connection may be silent before it said what it is, and
//! how long a request's body may take.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::status::Refusal;

/// Bytes of the preface of HTTP/2.
const PREFACE: usize = 24;

/// A stream that counts what is read of it.
#[derive(Debug)]
pub(super) struct Listened<S> {
    inner: S,
    read: Arc<AtomicUsize>,
}

/// A request's body that must end in time.
#[derive(Debug)]
pub(super) struct InTime {
    inner: Incoming,
    end: Pin<Box<Sleep>>,
}

// === impl Listened ===

impl<S> Listened<S> {
    /// Counts into `read`.
    pub(super) const fn new(inner: S, read: Arc<AtomicUsize>) -> Self {
        Self { inner, read }
    }
}

/// Answers once `limit` passed and not even a preface was read; else never.
pub(super) async fn silence(read: Arc<AtomicUsize>, limit: Duration) {
    tokio::time::sleep(limit).await;
    if read.load(Ordering::Relaxed) >= PREFACE {
        std::future::pending::<()>().await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if self.read.load(Ordering::Relaxed) < PREFACE {
            let came = buffer.filled().len().saturating_sub(before);
            self.read.fetch_add(came, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

// === impl InTime ===

impl InTime {
    /// The body, which must have ended after `limit`.
    pub(super) fn new(inner: Incoming, limit: Duration) -> Self {
        let end = Box::pin(tokio::time::sleep(limit));
        Self { inner, end }
    }
}

impl http_body::Body for InTime {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(
                frame
                    .map(|frame| frame.map_err(|error| tonic::Status::from_error(Box::new(error)))),
            ),
            Poll::Pending => {
                std::task::ready!(self.end.as_mut().poll(cx));
                Poll::Ready(Some(Err(Refusal::Deadline("request").into())))
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
