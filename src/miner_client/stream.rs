//! One attempt's stream. Dropping it resets the stream at the miner.

use std::time::Duration;

use tonic::{Code, Request, Streaming};

use super::channel::Pool;
use super::outcome::{DispatchError, MinerFault};
use crate::proto::v1::miner_generate_response::Event;
use crate::proto::v1::miner_service_client::MinerServiceClient;
use crate::proto::v1::{Delta, MinerCompleted, MinerGenerateRequest, MinerGenerateResponse};
use crate::registry::snapshot::Miner;

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
    /// # Errors
    /// When the miner was not reached, is busy, refuses, or answers with anything but a stream.
    pub async fn dispatch(
        pool: &Pool,
        miner: &Miner,
        request: MinerGenerateRequest,
        rest: Duration,
    ) -> Result<Self, DispatchError> {
        let connection = pool.connection(miner).await?;
        let mut client = MinerServiceClient::with_origin(connection, miner.endpoint.clone())
            .max_decoding_message_size(pool.settings().message_bytes_max);
        let mut request = Request::new(request);
        request.set_timeout(rest);
        match client.generate(request).await {
            Ok(response) => Ok(Self {
                messages: response.into_inner(),
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
