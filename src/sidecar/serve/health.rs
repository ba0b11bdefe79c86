//! The standard health service of a miner: whether it takes work now.

use std::sync::Arc;

use futures_util::stream::Empty;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::sidecar::condition::{Condition, Conditions};

/// The service that is asked about; the empty name asks about all.
const SERVICE: &str = "taugate.v1.MinerService";

/// Answers from a miner's condition.
#[derive(Clone, Debug)]
pub(super) struct Wellbeing(watch::Receiver<Condition>);

// === impl Wellbeing ===

impl Wellbeing {
    pub(super) fn new(conditions: &Arc<Conditions>) -> Self {
        Self(conditions.watch())
    }
}

#[tonic::async_trait]
impl Health for Wellbeing {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !["", SERVICE].contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("unknown service"));
        }
        let condition = self.0.borrow();
        let status = if condition.answers() && !condition.draining {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        drop(condition);
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    /// A stream that never ends would hold up the end of the miner.
    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask again instead"))
    }
}
