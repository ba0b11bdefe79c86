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

/// One thing a raw miner sends.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// A message of these bytes, in a frame of its own.
    Message(Bytes),
    /// So many DATA frames with nothing in them.
    Nothing(usize),
    /// Nothing more, until the gateway leaves.
    Hang,
    /// Trailers with status OK.
    End,
}

/// A miner that sends the same to every call.
#[derive(Debug)]
pub(crate) struct RawMiner {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
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
        };
        let (calls, closed) = (Arc::clone(&miner.calls), Arc::clone(&miner.closed));
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, calls) = (script.clone(), Arc::clone(&calls));
                let closed = Arc::clone(&closed);
                tokio::task::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    while let Some(Ok((_, respond))) = connection.accept().await {
                        calls.fetch_add(1, Ordering::SeqCst);
                        tokio::task::spawn(answer(respond, script.clone()));
                    }
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        miner
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

/// Sends the script; ends early where the gateway left.
async fn answer(mut respond: SendResponse<Bytes>, script: Vec<Raw>) {
    let response = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .expect("a response");
    let Ok(mut stream) = respond.send_response(response, false) else {
        return;
    };
    for raw in script {
        if perform(&mut stream, raw).await.is_err() {
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
        Raw::Hang => std::future::poll_fn(|cx| stream.poll_reset(cx))
            .await
            .map(drop),
        Raw::End => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers)
        }
    }
}
