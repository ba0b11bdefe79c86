//! A miner that speaks HTTP/2 by hand, because no library sends what it sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::SendStream;
use h2::server::SendResponse;
use prost::Message as _;
use taugate::digest::ChoiceDigests;
use taugate::proto::v1;
use taugate::proto::v1::miner_generate_response::Event;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// One thing a raw miner sends.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// A message of these bytes, in a frame of its own.
    Message(Bytes),
    /// So many DATA frames with nothing in them.
    Nothing(usize),
    /// Nothing until the miner is told to go on.
    Wait,
    /// Nothing more, until the gateway leaves.
    Hang,
    /// Trailers with status OK.
    End,
    /// A frame's head that claims so many bytes, and some of them.
    Claim(u32),
    /// The end of the stream, without trailers.
    Cut,
    /// A reset with this code.
    Reset(u32),
    /// Trailers of one's own.
    Trailers(Vec<(&'static str, Bytes)>),
}

/// A miner that sends the same to every call.
#[derive(Debug)]
pub(crate) struct RawMiner {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    /// How many waits may end.
    go_on: Arc<Semaphore>,
}

// === impl Raw ===

impl Raw {
    pub(crate) fn event(event: Event) -> Self {
        let message = v1::MinerGenerateResponse { event: Some(event) };
        Self::Message(message.encode_to_vec().into())
    }

    pub(crate) fn text(content: &str) -> Self {
        Self::event(Event::Delta(text(content)))
    }

    /// A delta whose text is no UTF-8.
    pub(crate) fn no_text(content: &[u8]) -> Self {
        let part = |tag: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).expect("short");
            [&[tag, length], bytes].concat()
        };
        // Field 2 of `Delta`, field 1 of the message.
        Self::Message(part(0x0a, &part(0x12, content)).into())
    }

    /// The last message of an answer that has these texts.
    pub(crate) fn completed(texts: &[&str]) -> v1::MinerCompleted {
        let mut digests = ChoiceDigests::new(1);
        for content in texts {
            digests.add(&text(content));
        }
        v1::MinerCompleted {
            choices: vec![v1::ChoiceEnd {
                choice: 0,
                finish_reason: v1::FinishReason::Stop.into(),
            }],
            digests: digests.finish(),
            claimed: None,
        }
    }
}

fn text(content: &str) -> v1::Delta {
    v1::Delta {
        content: content.to_owned(),
        ..v1::Delta::default()
    }
}

// === impl RawMiner ===

impl RawMiner {
    pub(crate) async fn start(script: Vec<Raw>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let miner = Self {
            address: listener.local_addr().expect("an address"),
            calls: Arc::default(),
            closed: Arc::default(),
            go_on: Arc::new(Semaphore::new(0)),
        };
        let (calls, closed) = (Arc::clone(&miner.calls), Arc::clone(&miner.closed));
        let go_on = Arc::clone(&miner.go_on);
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, calls) = (script.clone(), Arc::clone(&calls));
                let (closed, go_on) = (Arc::clone(&closed), Arc::clone(&go_on));
                tokio::task::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        if request.uri().path().ends_with("/OpenSession") {
                            unimplemented(respond);
                            continue;
                        }
                        calls.fetch_add(1, Ordering::SeqCst);
                        let go_on = Arc::clone(&go_on);
                        tokio::task::spawn(answer(respond, script.clone(), go_on));
                    }
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        miner
    }

    /// Lets one call that waits go on.
    pub(crate) fn go_on(&self) {
        self.go_on.add_permits(1);
    }

    /// Calls that came.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Connections that ended.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }
}

/// It opens no sessions.
fn unimplemented(mut respond: SendResponse<Bytes>) {
    let response = http::Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "12")
        .body(())
        .expect("a response");
    drop(respond.send_response(response, true));
}

/// Sends the script; ends early where the gateway left.
async fn answer(mut respond: SendResponse<Bytes>, script: Vec<Raw>, go_on: Arc<Semaphore>) {
    let response = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .expect("a response");
    let Ok(mut stream) = respond.send_response(response, false) else {
        return;
    };
    for raw in script {
        if matches!(raw, Raw::Wait) {
            go_on.acquire().await.expect("it is never closed").forget();
        } else if perform(&mut stream, raw).await.is_err() {
            return;
        }
    }
}

async fn perform(stream: &mut SendStream<Bytes>, raw: Raw) -> Result<(), h2::Error> {
    match raw {
        Raw::Message(message) => {
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(u32::try_from(message.len()).expect("short"));
            frame.put_slice(&message);
            stream.send_data(frame.freeze(), false)
        }
        Raw::Nothing(frames) => (0..frames).try_for_each(|_| stream.send_data(Bytes::new(), false)),
        Raw::Wait => Ok(()),
        Raw::Hang => std::future::poll_fn(|cx| stream.poll_reset(cx))
            .await
            .map(drop),
        Raw::End => stream.send_trailers(trailers(vec![("grpc-status", Bytes::from_static(b"0"))])),
        Raw::Claim(length) => {
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(length);
            frame.put_slice(b"abc");
            stream.send_data(frame.freeze(), false)
        }
        Raw::Cut => stream.send_data(Bytes::new(), true),
        Raw::Reset(code) => {
            stream.send_reset(code.into());
            Ok(())
        }
        Raw::Trailers(lines) => stream.send_trailers(trailers(lines)),
    }
}

fn trailers(lines: Vec<(&'static str, Bytes)>) -> http::HeaderMap {
    let value = |bytes: Bytes| http::HeaderValue::from_bytes(&bytes).expect("a value");
    let lines = lines.into_iter();
    let lines = lines.map(|(name, bytes)| (http::HeaderName::from_static(name), value(bytes)));
    lines.collect()
}
