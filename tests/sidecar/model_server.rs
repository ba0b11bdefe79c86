//! A scripted OpenAI-compatible server on a real socket, written in bytes, so that chunks
//! can be cut anywhere.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What the server does with each request.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Answers 200 and these pieces, each in its own write, then closes.
    Pieces(Vec<Vec<u8>>),
    /// As `Pieces`, then says nothing more and keeps the connection.
    Hang(Vec<Vec<u8>>),
    /// As `Pieces`, but the last piece leaves once the gate is open.
    Gated(Vec<Vec<u8>>, watch::Receiver<bool>),
    /// Answers with this status and no more.
    Status(u16),
    /// Sends whoever asks to another address.
    Redirect(String),
}

/// The server; ends with the value.
#[derive(Debug)]
pub(crate) struct ModelServer {
    pub(crate) address: SocketAddr,
    /// The bodies that came.
    pub(crate) bodies: Arc<Mutex<Vec<String>>>,
    /// How many connections are open that hang.
    pub(crate) hanging: watch::Receiver<usize>,
    _serving: AbortOnDropHandle<()>,
}

impl ModelServer {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    pub(crate) async fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let bodies: Arc<Mutex<Vec<String>>> = Arc::default();
        let (count, hanging) = watch::channel(0);
        let kept = Arc::clone(&bodies);
        let serving = async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(
                    stream,
                    script.clone(),
                    Arc::clone(&kept),
                    count.clone(),
                ));
            }
        };
        #[expect(clippy::disallowed_methods, reason = "ends with the handle")]
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Self {
            address,
            bodies,
            hanging,
            _serving: serving,
        }
    }
}

/// An event of this data.
pub(crate) fn event(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// An event with this text of choice 0.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let chunk = serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    event(&chunk.to_string())
}

/// An event that ends choice 0.
pub(crate) fn finish() -> Vec<u8> {
    event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#)
}

async fn serve(
    mut stream: TcpStream,
    script: Script,
    bodies: Arc<Mutex<Vec<String>>>,
    hanging: watch::Sender<usize>,
) {
    stream.set_nodelay(true).unwrap();
    let body = request(&mut stream).await;
    bodies.lock().push(body);
    let mut gate = None;
    let (pieces, hangs) = match script {
        Script::Pieces(pieces) => (pieces, false),
        Script::Hang(pieces) => (pieces, true),
        Script::Gated(pieces, open) => {
            gate = Some((pieces.len() - 1, open));
            (pieces, false)
        }
        Script::Redirect(to) => {
            let head = format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            return;
        }
        Script::Status(status) => {
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            return;
        }
    };
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    for (number, piece) in pieces.into_iter().enumerate() {
        if let Some((_, open)) = gate.as_mut().filter(|(last, _)| *last == number) {
            // A test that is over opens no gate.
            drop(open.wait_for(|open| *open).await);
        }
        // The client may have had enough.
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        // So that pieces are seen apart.
        tokio::task::yield_now().await;
    }
    if hangs {
        hanging.send_modify(|count| *count += 1);
        let mut rest = Vec::new();
        // Ends when the client leaves; by a reset, perhaps.
        drop(stream.read_to_end(&mut rest).await);
        hanging.send_modify(|count| *count -= 1);
    }
}

/// Reads one request; its body.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return body.to_owned();
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
    }
}
