//! How connections behave.

use std::time::Duration;

use super::method::Terms;

/// How the connections of one listener behave.
#[derive(Clone, Copy, Debug)]
pub struct DoorSettings {
    /// Its name in metrics.
    pub listener: &'static str,
    /// Open connections at most.
    pub connections_max: usize,
    /// Open connections of one address at most (of one network of 64 bits in IPv6).
    pub connections_per_address_max: usize,
    /// Streams of one connection at most; below 100 clients of hyper break.
    pub streams_max: u32,
    /// To say anything, and to finish a TLS hand-shake.
    pub handshake: Duration,
    /// For the whole body of a request, unless it is a conversation.
    pub body: Duration,
    /// For the answer to a question that is no inference.
    pub helper: Duration,
    /// Headers of one request, bytes.
    pub header_bytes_max: u32,
    /// A connection is asked to go after this long, and a stream that watches ends.
    pub age: Duration,
    /// Who was asked to go and is not gone after this long is cut. The longest call, and what
    /// its client may need to take the end of it.
    pub last_call: Duration,
    /// A ping is sent after this much silence.
    pub keepalive: Duration,
    /// A ping unanswered for this long ends the connection.
    pub keepalive_timeout: Duration,
}

// === impl DoorSettings ===

impl DoorSettings {
    /// How long what does not bound itself may take.
    pub(super) const fn terms(&self) -> Terms {
        Terms {
            body: self.body,
            helper: self.helper,
            watch: self.age,
        }
    }
}
