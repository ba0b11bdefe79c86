//! One attempt's stream. Dropping it resets the stream at the miner.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};

use super::channel::{Connection, Pool};
use super::exact::Exact;
use super::outcome::{DispatchError, MinerFault};
use super::wire::Wire;
use crate::proto::v1::miner_generate_response::Event;
use crate::proto::v1::{Delta, MinerCompleted, MinerGenerateRequest, MinerGenerateResponse};
use crate::registry::snapshot::Miner;

/// The method that does the work.
const GENERATE: &str = "/taugate.v1.MinerService/Generate";

/// A piece of what a miner sends.
#[derive(Debug)]
pub enum MinerEvent {
    /// More of the answer.
    Delta(Delta),
    /// All was sent, and the stream ended with OK.
    Completed(MinerCompleted),
}

/// A miner's answer as it comes.
#[derive(Debug)]
#[must_use = "dropping it cancels the miner"]
pub struct MinerStream {
    messages: Streaming<MinerGenerateResponse>,
    begun: bool,
    /// The last message, kept until the stream's end is seen, so that `next` may be
    /// cancelled in between.
    last: Option<MinerCompleted>,
}

// === impl MinerStream ===

impl MinerStream {
    /// Sends an attempt to a miner; answers when the miner's headers came. `rest` is the
    /// time that the call has left, which the miner is told as its deadline.
    ///
    /// A miner that does not know the session any more has done nothing yet: the attempt is
    /// sent once more, in a new one.
    ///
    /// # Errors
    /// When the miner was not reached, is busy, refuses, or answers with anything but a stream.
    pub async fn dispatch(
        pool: &Pool,
        miner: &Miner,
        request: MinerGenerateRequest,
        rest: Duration,
    ) -> Result<Self, DispatchError> {
        let until = Instant::now() + rest;
        let bytes = Bytes::from(request.encode_to_vec());
        let connection = pool.connection(miner, None).await?;
        let sent = send(pool, miner, &connection, (&bytes, until)).await;
        let sent = match (sent, &connection.session) {
            (Err(status), Some(_)) if MinerFault::is_stranger(&status) => {
                let connection = pool.connection(miner, connection.session.as_ref()).await?;
                send(pool, miner, &connection, (&bytes, until)).await
            }
            (sent, _) => sent,
        };
        match sent {
            Ok(messages) => Ok(Self {
                messages,
                begun: false,
                last: None,
            }),
            Err(status) => Err(MinerFault::from_status(&status, false).into()),
        }
    }

    /// The next piece. After `Completed` there is nothing more. Cancel-safe.
    ///
    /// # Errors
    /// When the miner broke off, broke the protocol, or (before its first delta) is busy or
    /// refuses.
    pub async fn next(&mut self) -> Result<MinerEvent, MinerFault> {
        loop {
            let event = self.message().await?.map(|message| message.event);
            match (self.last.take(), event) {
                (None, Some(Some(Event::Delta(delta)))) => {
                    self.begun = true;
                    return Ok(MinerEvent::Delta(delta));
                }
                (None, Some(Some(Event::Completed(completed)))) => self.last = Some(completed),
                // Only an answer whose stream ends with OK, and with nothing behind its last
                // message, is whole.
                (Some(completed), None) => return Ok(MinerEvent::Completed(completed)),
                (None, Some(None) | None) | (Some(_), Some(_)) => return Err(MinerFault::Protocol),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<MinerGenerateResponse>, MinerFault> {
        self.messages.message().await.map_err(|status| {
            if status.code() == Code::Ok {
                return MinerFault::Protocol;
            }
            MinerFault::from_status(&status, self.begun)
        })
    }
}

/// Sends an attempt's exact bytes, marked as of the connection's session.
async fn send(
    pool: &Pool,
    miner: &Miner,
    connection: &Connection,
    (bytes, until): (&Bytes, Instant),
) -> Result<Streaming<MinerGenerateResponse>, Status> {
    let mut request = Request::new(bytes.clone());
    if let Some(session) = &connection.session {
        session.mark(request.metadata_mut(), GENERATE, bytes);
    }
    request.set_timeout(roundly(until.saturating_duration_since(Instant::now())));
    let wire = Wire::new(connection.sender.clone());
    let mut grpc = Grpc::with_origin(wire, miner.endpoint.clone())
        .max_decoding_message_size(pool.settings().message_bytes_max);
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(Box::new(error)))?;
    let path = PathAndQuery::from_static(GENERATE);
    let answer = grpc.server_streaming(request, path, Exact).await?;
    Ok(answer.into_inner())
}

/// The time that a miner is told it has, so roundly that it does not tell how long the gateway
/// took: a check takes less, as no client's message had to come in.
fn roundly(rest: Duration) -> Duration {
    let step: u128 = match rest.as_millis() {
        10_000.. => 500_000,
        2000.. => 100_000,
        200.. => 10_000,
        _ => 1_000,
    };
    let steps = rest.as_micros() / step;
    Duration::from_micros(u64::try_from(steps * step).unwrap_or(u64::MAX))
}
