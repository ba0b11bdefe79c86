//! A connection as a tower service, for gRPC.

use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::client::conn::http2;
use tonic::body::Body;
use tower::Service;

/// One connection; its clones share it.
#[derive(Clone, Debug)]
pub(super) struct Wire(http2::SendRequest<Body>);

// === impl Wire ===

impl Wire {
    pub(super) const fn new(sender: http2::SendRequest<Body>) -> Self {
        Self(sender)
    }
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sending = self.0.send_request(request);
        async move {
            let response = sending.await?;
            Ok(response.map(Body::new))
        }
        .boxed()
    }
}
