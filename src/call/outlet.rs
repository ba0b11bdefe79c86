//! Between a call and its client: a bounded buffer that the call fills and the client's
//! response body empties. What has left it counts as delivered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::CallError;
use super::payload::size_of;
use crate::proto::v1;

/// A piece of an answer.
#[derive(Debug)]
pub enum Event {
    /// Nothing can be sent yet.
    Progress(v1::Progress),
    /// A miner's answer begins.
    Started(v1::Started),
    /// More of the answer.
    Delta(v1::Delta),
    /// The whole answer was delivered.
    Completed(v1::Completed),
}

/// The call's end.
#[derive(Debug)]
pub struct Outlet(Arc<Shared>);

/// The client's end. Dropping it cancels the call.
#[derive(Debug)]
#[must_use = "dropping it cancels the call"]
pub struct Answer(Arc<Shared>);

/// The client left, or the buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The client left.
    Gone,
    /// The client does not read; the buffer is at its bound.
    Full,
}

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// Wakes the client.
    ready: AtomicWaker,
    /// Wakes the call: the client took something, or left.
    taken: Notify,
    bytes_max: usize,
}

#[derive(Debug)]
struct Buffer {
    events: VecDeque<Queued>,
    bytes: usize,
    /// The mark of the last event that the client took.
    delivered: u64,
    last_taken: Instant,
    end: Option<Result<(), CallError>>,
    gone: bool,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    bytes: usize,
    mark: u64,
}

/// A pair of ends over a buffer of at most so many bytes.
pub fn pair(bytes_max: usize) -> (Outlet, Answer) {
    let shared = Arc::new(Shared {
        buffer: Mutex::new(Buffer {
            events: VecDeque::new(),
            bytes: 0,
            delivered: 0,
            last_taken: Instant::now(),
            end: None,
            gone: false,
        }),
        ready: AtomicWaker::new(),
        taken: Notify::new(),
        bytes_max,
    });
    (Outlet(Arc::clone(&shared)), Answer(shared))
}

// === impl Outlet ===

impl Outlet {
    /// Hands an event over. `mark` is the count that holds once the client took it (code
    /// points, images, vectors: whatever the call counts); it never falls.
    ///
    /// # Errors
    /// When the client left, or the buffer is full.
    pub fn push(&self, event: Event, mark: u64) -> Result<(), Blocked> {
        let bytes = size_of(&event);
        let mut buffer = self.0.buffer.lock();
        if buffer.gone {
            return Err(Blocked::Gone);
        }
        if buffer.bytes.saturating_add(bytes) > self.0.bytes_max && !buffer.events.is_empty() {
            return Err(Blocked::Full);
        }
        if buffer.events.is_empty() {
            // A client that had nothing to take was not slow.
            buffer.last_taken = Instant::now();
        }
        buffer.bytes = buffer.bytes.saturating_add(bytes);
        buffer.events.push_back(Queued { event, bytes, mark });
        drop(buffer);
        self.0.ready.wake();
        Ok(())
    }

    /// The mark of what the client has taken.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.0.buffer.lock().delivered
    }

    /// Since when the client has taken nothing although there was something.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        let buffer = self.0.buffer.lock();
        (!buffer.events.is_empty()).then_some(buffer.last_taken)
    }

    /// Waits until the client left.
    pub async fn gone(&self) {
        self.until(|buffer| buffer.gone).await;
    }

    /// Whether the client took everything, whether or not it left then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.buffer.lock().events.is_empty()
    }

    /// Waits until the client took everything, or left.
    pub async fn emptied(&self) {
        self.until(|buffer| buffer.gone || buffer.events.is_empty())
            .await;
    }

    /// Whether the client left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.buffer.lock().gone
    }

    /// Ends the answer, well or not. What comes later is not heard.
    pub fn finish(&self, end: Result<(), CallError>) {
        self.0.buffer.lock().end.get_or_insert(end);
        self.0.ready.wake();
    }

    /// Hands over the last event and ends the answer well, in one step: whoever sees a whole
    /// answer sees no failure after it. Everything before it was taken.
    pub fn conclude(&self, last: Event) {
        let bytes = size_of(&last);
        let mut buffer = self.0.buffer.lock();
        let mark = buffer.delivered;
        buffer.bytes = buffer.bytes.saturating_add(bytes);
        buffer.events.push_back(Queued {
            event: last,
            bytes,
            mark,
        });
        buffer.end.get_or_insert(Ok(()));
        drop(buffer);
        self.0.ready.wake();
    }

    /// Ends the answer for the client and throws away what it has not taken.
    pub fn cut(&self, error: CallError) {
        let mut buffer = self.0.buffer.lock();
        buffer.events.clear();
        buffer.bytes = 0;
        drop(buffer);
        self.finish(Err(error));
    }

    async fn until(&self, reached: impl Fn(&Buffer) -> bool) {
        loop {
            let taken = self.0.taken.notified();
            if reached(&self.0.buffer.lock()) {
                return;
            }
            taken.await;
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // A call that ends without a word died of a bug: its client must not wait for ever.
        self.finish(Err(CallError::Internal));
    }
}

// === impl Answer ===

impl Answer {
    fn take(&self) -> Poll<Option<Result<Event, CallError>>> {
        let mut buffer = self.0.buffer.lock();
        if let Some(queued) = buffer.events.pop_front() {
            buffer.bytes = buffer.bytes.saturating_sub(queued.bytes);
            buffer.delivered = queued.mark;
            buffer.last_taken = Instant::now();
            drop(buffer);
            self.0.taken.notify_waiters();
            return Poll::Ready(Some(Ok(queued.event)));
        }
        match &buffer.end {
            None => Poll::Pending,
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
        }
    }

    fn register(&self, waker: &Waker) {
        self.0.ready.register(waker);
    }
}

impl Stream for Answer {
    type Item = Result<Event, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Registered before the look, so that no wake is missed in between.
        self.register(cx.waker());
        self.take()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.buffer.lock().gone = true;
        self.0.taken.notify_waiters();
    }
}
