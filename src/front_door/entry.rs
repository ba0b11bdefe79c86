//! What every request of every listener is looked at for first: is it gRPC at all, how much
//! time has it, and does it bring headers that are not for its sender to write.

use std::net::IpAddr;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request};

use super::deadline::{Deadline, Timeout, parse};
use super::status::{FieldFault, Refusal};

/// The block of addresses that a request's connection comes from; in its extensions. Of the
/// socket, never of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct From(pub(super) IpAddr);

/// Headers that claim where a request comes from or how it is to be traced. Nothing here
/// reads them, and nothing that is added later shall: they are taken off.
const NOT_FOR_SENDERS: [&str; 12] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "grpc-trace-bin",
    "grpc-tags-bin",
];

/// Looks at a request; its deadline goes into its extensions.
pub(super) fn look<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    // The gRPC library looks at neither: a GET would run the handler.
    let kind = request.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let grpc = kind.is_some_and(|value| value.starts_with("application/grpc"));
    if request.method() != Method::POST || !grpc {
        return Err(Refusal::Unimplemented("requests that are no gRPC calls"));
    }
    strip(request.headers_mut());
    match parse(request.headers()) {
        Timeout::None => {}
        Timeout::After(timeout) => {
            request.extensions_mut().insert(Deadline::after(timeout));
        }
        Timeout::Passed => return Err(Refusal::Deadline("admission")),
        Timeout::Malformed => {
            return Err(Refusal::Invalid(vec![FieldFault {
                field: "grpc-timeout".to_owned(),
                fault: "must be at most eight digits and one of H, M, S, m, u, n".to_owned(),
            }]));
        }
    }
    Ok(())
}

fn strip(headers: &mut HeaderMap) {
    for name in NOT_FOR_SENDERS {
        headers.remove(name);
    }
}

/// Addresses that one sender can have: an IPv4 address, or an IPv6 network of 64 bits.
pub(super) fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(network.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sender_is_one_block() {
        let of = |text: &str| block(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[test]
    fn headers_that_are_not_for_senders_are_taken_off() {
        // Abuse case 21.
        let mut request = Request::post("http://here/x")
            .header("content-type", "application/grpc")
            .header("x-forwarded-for", "10.0.0.1")
            .header("x-forwarded-for", "10.0.0.2")
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .header("baggage", "x".repeat(8192))
            .header("authorization", "kept")
            .body(())
            .unwrap();
        look(&mut request).unwrap();
        let left: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
