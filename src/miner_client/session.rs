//! The gateway's side of a session: opened once a connection, so that the miner knows in
//! each request that this validator asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::client::conn::http2;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use super::outcome::{DispatchError, MinerFault};
use super::wire::Wire;
use crate::identity::call::CallSigner;
use crate::identity::session::{Asked, SessionId, SessionKey};
use crate::proto::v1::miner_service_client::MinerServiceClient;
use crate::registry::snapshot::Miner;

/// The part of its life after which a session is renewed: enough is left for a miner that is
/// slow to answer.
const RENEW_AFTER: f64 = 0.8;

/// An answer to the question for a session, bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Who calls miners.
#[derive(Debug)]
pub struct Caller {
    signer: CallSigner,
    /// Whether miners are called that open no sessions.
    unauthenticated: bool,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    key: SessionKey,
    next: AtomicU64,
    /// When it is time for another.
    pub(super) renew_at: Instant,
    /// When it is over.
    pub(super) ends: Instant,
}

// === impl Caller ===

impl Caller {
    /// Calls as the one who signs. `unauthenticated`: also those miners that open no session,
    /// which do not know who asks, nor prove who they are; for development.
    #[must_use]
    pub const fn new(signer: CallSigner, unauthenticated: bool) -> Self {
        Self {
            signer,
            unauthenticated,
        }
    }

    /// Opens a session with a miner within a time; `None`: it has none, and need not.
    pub(super) async fn open(
        &self,
        wire: &http2::SendRequest<Body>,
        miner: &Miner,
        within: Duration,
    ) -> Result<Option<Arc<Session>>, DispatchError> {
        let asked_at = Instant::now();
        let hotkey = miner.hotkey.parse().map_err(|_| MinerFault::Protocol)?;
        // Without random bytes nothing is said; no miner did that.
        let question = Asked::new(&self.signer, hotkey);
        let (asked, question) = question.map_err(|_| MinerFault::Closed)?;
        let wire = Wire::new(wire.clone());
        let mut client = MinerServiceClient::with_origin(wire, miner.endpoint.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut question = Request::new(question);
        question.set_timeout(within);
        let answer = tokio::time::timeout(within, client.open_session(question)).await;
        let answer = match answer.map_err(|_| DispatchError::Unreachable)? {
            Ok(answer) => answer.into_inner(),
            Err(status) => return self.unopened(miner, &status),
        };
        let opened = asked.opened(&answer).map_err(|error| {
            tracing::warn!(miner = %miner.hotkey, %error, "a miner did not prove who it is");
            MinerFault::Protocol
        })?;
        Ok(Some(Arc::new(Session {
            id: opened.id,
            key: opened.key,
            next: AtomicU64::new(0),
            renew_at: asked_at + opened.life.mul_f64(RENEW_AFTER),
            ends: asked_at + opened.life,
        })))
    }

    /// What a refusal of a session means.
    fn unopened(
        &self,
        miner: &Miner,
        status: &Status,
    ) -> Result<Option<Arc<Session>>, DispatchError> {
        if status.code() == Code::Unimplemented {
            if self.unauthenticated {
                return Ok(None);
            }
            tracing::warn!(miner = %miner.hotkey, "a miner opens no session");
            return Err(MinerFault::Protocol.into());
        }
        if MinerFault::is_stranger(status) {
            // It does not know this validator, or the clocks are too far apart: whose is wrong
            // cannot be told from one miner.
            tracing::warn!(miner = %miner.hotkey, "a miner does not let this validator in");
            return Err(MinerFault::Closed.into());
        }
        let fault = MinerFault::from_status(status, false);
        // There is nothing in the question that another miner could not read.
        let is_refused = fault == MinerFault::Refused;
        Err(if is_refused {
            MinerFault::Protocol
        } else {
            fault
        }
        .into())
    }
}

// === impl Session ===

impl Session {
    /// Adds to a request's metadata that it is of this session.
    pub(super) fn mark(&self, metadata: &mut MetadataMap, path: &str, message: &[u8]) {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        self.key
            .mark(metadata, (&self.id, counter), (path, message));
    }
}
