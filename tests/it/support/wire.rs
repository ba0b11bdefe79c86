//! gRPC by hand: what no well-behaved client library sends.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::body::Body;
use tonic_types::StatusExt as _;

/// A gRPC call that is not sent yet.
pub(crate) fn request(address: SocketAddr, path: &str) -> http::request::Builder {
    http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// A message in its frame.
pub(crate) fn framed(message: &impl prost::Message) -> Body {
    frame(0, None, &message.encode_to_vec())
}

/// Bytes behind a frame's head, which claims that flag and length.
pub(crate) fn frame(flag: u8, length: Option<u32>, bytes: &[u8]) -> Body {
    let mut framed = BytesMut::new();
    framed.put_u8(flag);
    framed.put_u32(length.unwrap_or_else(|| u32::try_from(bytes.len()).expect("short")));
    framed.put_slice(bytes);
    Body::new(Full::new(framed.freeze()))
}

/// A connection of its own.
pub(crate) async fn connect(address: SocketAddr) -> http2::SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(address).await.expect("open");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, driver) = handshake.await.expect("HTTP/2");
    tokio::task::spawn(driver);
    sender
}

/// The head of the answer to a request on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    request: http::Request<Body>,
) -> http::Response<hyper::body::Incoming> {
    let mut sender = connect(address).await;
    sender.send_request(request).await.expect("an answer")
}

/// The status of an answer, wherever it stands.
pub(crate) async fn status(response: http::Response<hyper::body::Incoming>) -> Status {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let body = response.into_body().collect().await.expect("a whole body");
    let trailers = body.trailers().expect("trailers");
    Status::from_header_map(trailers).expect("a status")
}

/// The reason of a refusal, which stands in its details and in its metadata alike.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("details");
    assert_eq!(info.domain, "taugate");
    let said = status.metadata().get("taugate-reason").expect("a reason");
    assert_eq!(said.to_str().expect("text"), info.reason);
    info.reason
}

/// A body that never comes.
#[derive(Debug)]
pub(crate) struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        std::task::Poll::Pending
    }
}

/// The code of an answer of the admin listener.
pub(crate) async fn get(address: SocketAddr, path: &str) -> u16 {
    let answer = fetch(address, path).await;
    let code = answer.split(' ').nth(1).expect("a status line");
    code.parse().expect("a code")
}

/// An answer of the admin listener, head and body.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("open");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

/// Carries one connection to a gateway, without what tells a client to go: as if that were
/// on its way still. Says where to connect.
pub(crate) async fn deaf_to_leaving(gateway: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::task::spawn(async move {
        let (client, _) = listener.accept().await.expect("a client");
        let server = tokio::net::TcpStream::connect(gateway).await.expect("open");
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        tokio::select! {
            _ = up => {}
            () = without_leaving(from_server, to_client) => {}
        }
    });
    address
}

/// Copies frames but PING and GOAWAY.
async fn without_leaving(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
) {
    let mut head = [0; 9];
    while from.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("fits")];
        let leaving = matches!(head[3], 0x6 | 0x7);
        if from.read_exact(&mut payload).await.is_err() {
            return;
        }
        if !leaving && to.write_all(&[&head[..], &payload].concat()).await.is_err() {
            return;
        }
    }
}
