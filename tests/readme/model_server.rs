//! The least that an OpenAI-compatible server says: its one model, and one short answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

pub(crate) const MODEL: &str = "readme-model";

/// The server; it ends with the test's process.
pub(crate) struct ModelServer(SocketAddr);

impl ModelServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || answer(stream?));
            }
        });
        Self(address)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.0
    }
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    reader.read_exact(&mut vec![0; length])?;
    let (status, kind, body) = if head.starts_with("GET /v1/models ") {
        let models = serde_json::json!({"data": [{"id": MODEL}]});
        ("200 OK", "application/json", models.to_string())
    } else if head.starts_with("POST /v1/chat/completions ") {
        ("200 OK", "text/event-stream", stream_of("Hello to you."))
    } else {
        ("404 Not Found", "text/plain", String::new())
    };
    let length = body.len();
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}",
    )
}

fn stream_of(text: &str) -> String {
    let delta = serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let end = r#"{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}"#;
    format!("data: {delta}\n\ndata: {end}\n\ndata: [DONE]\n\n")
}
