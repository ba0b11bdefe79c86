//! `[limits]`: a bound for everything that could grow.

use std::time::Duration;

use super::field::{Fields, Section};
use super::slot::{Decimal, Millis, Seconds, Whole};

/// Two thousand balancers' worth; each idle connection costs some 20 KiB.
const CONNECTIONS_MAX: usize = 4096;

/// A balancer in front is one address; a quarter leaves room for three more.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;

/// Makes balancers open more connections, so that every shard gets its part.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;

/// A handshake over a bad link takes a second or two.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// hyper's own figure; metadata beyond it is abuse.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// A source picture and a mask.
const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A client that takes nothing for so long has gone.
const SLOW_CONSUMER: Duration = Duration::from_secs(10);

/// More would wait longer than the wait lasts.
const WAITING_PER_TASK_MAX: usize = 256;

/// Short enough that a person does not notice, long enough for a slot to come free.
const WAIT: Duration = Duration::from_secs(2);

/// Two failures in a row are bad luck, three are a fault that a fourth try does not mend.
const ATTEMPTS_MAX: u32 = 3;

/// Retries add at most this part to the load, or they feed an outage.
const RETRY_BUDGET: f64 = 0.15;

/// Below every idle limit that is met in front of gateways.
const PROGRESS: Duration = Duration::from_secs(10);

/// Lets balancers move connections to new replicas.
const CONNECTION_AGE: Duration = Duration::from_secs(1800);

/// Finds dead peers before balancers do.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A round trip to anywhere, many times over.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest sensible bound on bytes: a gibibyte.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// A bound for everything that could grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections at once, over the public and the peer listener each.
    pub connections_max: usize,
    /// Connections at once of one address, or of one IPv6 network of 64 bits.
    pub connections_per_address_max: usize,
    /// Streams at once in one connection.
    pub streams_per_connection_max: u32,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// Bytes of a request's headers.
    pub header_bytes_max: u32,
    /// Bytes of a request, its pictures included.
    pub request_bytes_max: usize,
    /// How long a client may take nothing while something waits for it.
    pub slow_consumer: Duration,
    /// Calls of one task that wait for a miner.
    pub waiting_per_task_max: usize,
    /// How long a call waits when every miner is busy.
    pub wait: Duration,
    /// Miners that one call tries.
    pub attempts_max: u32,
    /// Retries for each call, over a while.
    pub retry_budget: f64,
    /// How often a stream that has nothing to say says so.
    pub progress: Duration,
    /// How long a connection lives, about; then it is asked to go.
    pub connection_age: Duration,
    /// How often a silent connection is asked for a sign of life.
    pub keepalive: Duration,
    /// How long that sign may take.
    pub keepalive_timeout: Duration,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            streams_per_connection_max: STREAMS_PER_CONNECTION_MAX,
            handshake: HANDSHAKE,
            header_bytes_max: HEADER_BYTES_MAX,
            request_bytes_max: REQUEST_BYTES_MAX,
            slow_consumer: SLOW_CONSUMER,
            waiting_per_task_max: WAITING_PER_TASK_MAX,
            wait: WAIT,
            attempts_max: ATTEMPTS_MAX,
            retry_budget: RETRY_BUDGET,
            progress: PROGRESS,
            connection_age: CONNECTION_AGE,
            keepalive: KEEPALIVE,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
        }
    }
}

impl Section for Limits {
    fn fields(&mut self, fields: &mut dyn Fields) {
        self.of_connections(fields);
        self.of_messages(fields);
        self.of_calls(fields);
    }
}

impl Limits {
    fn of_connections(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "connections_max",
            "Connections at once, for the public and the peer listener each.",
            &mut Whole(&mut self.connections_max, 1..=1_000_000),
        );
        fields.field(
            "connections_per_address_max",
            "Connections at once of one address; balancers in front count as one.",
            &mut Whole(&mut self.connections_per_address_max, 1..=1_000_000),
        );
        fields.field(
            "streams_per_connection_max",
            "Calls at once in one connection; more wait at the client.",
            &mut Whole(&mut self.streams_per_connection_max, 1..=100_000),
        );
        fields.field(
            "handshake_ms",
            "How long a handshake may take, TLS and HTTP/2 together.",
            &mut Millis(&mut self.handshake, 100..=60_000),
        );
        fields.field(
            "connection_age_s",
            "About how long a connection lives before it is asked to go, so that balancers can \
             spread anew. Its streams end in peace.",
            &mut Seconds(&mut self.connection_age, 10..=86_400),
        );
        fields.field(
            "keepalive_s",
            "How often a silent connection is asked for a sign of life.",
            &mut Seconds(&mut self.keepalive, 1..=3600),
        );
        fields.field(
            "keepalive_timeout_s",
            "How long that sign of life may take.",
            &mut Seconds(&mut self.keepalive_timeout, 1..=600),
        );
    }

    fn of_messages(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "header_bytes_max",
            "Bytes of a request's headers.",
            &mut Whole(&mut self.header_bytes_max, 1024..=1_048_576),
        );
        fields.field(
            "request_bytes_max",
            "Bytes of a request, its pictures included.",
            &mut Whole(&mut self.request_bytes_max, 1024..=BYTES_MAX),
        );
        fields.field(
            "slow_consumer_s",
            "A client that takes nothing for so long, while something waits for it, is cut off.",
            &mut Seconds(&mut self.slow_consumer, 1..=600),
        );
    }

    fn of_calls(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "waiting_per_task_max",
            "Calls of one task that wait at once for a miner to be free.",
            &mut Whole(&mut self.waiting_per_task_max, 0..=100_000),
        );
        fields.field(
            "wait_ms",
            "How long a call waits when every miner with capacity is busy.",
            &mut Millis(&mut self.wait, 0..=60_000),
        );
        fields.field(
            "attempts_max",
            "Miners that one call tries before its first chunk.",
            &mut Whole(&mut self.attempts_max, 1..=10),
        );
        fields.field(
            "retry_budget",
            "Retries for each call, over a while: 0.15 adds at most 15 % to the load.",
            &mut Decimal(&mut self.retry_budget, 0.0..=1.0),
        );
        fields.field(
            "progress_s",
            "How often a stream that has nothing to send says that it is alive.",
            &mut Seconds(&mut self.progress, 1..=300),
        );
    }
}
