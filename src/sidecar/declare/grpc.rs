//! A gateway over gRPC. `Declare` and `Withdraw` are signed for the hotkey that the gateway
//! gave of itself.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use taugate_ledger::engine::BoxFuture;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{Announce, AnnounceError};
use crate::identity::call::CallSigner;
use crate::identity::hotkey::Hotkey;
use crate::proto::v1;
use crate::proto::v1::capacity_service_client::CapacityServiceClient;

/// The paths that are signed.
const DECLARE: &str = "/taugate.v1.CapacityService/Declare";
const WITHDRAW: &str = "/taugate.v1.CapacityService/Withdraw";

/// The reason in the details of a status that refuses a sequence.
const STALE: &str = "STALE";

/// To connect.
const CONNECT: Duration = Duration::from_secs(5);

/// One call.
const CALL: Duration = Duration::from_secs(10);

/// A gateway at an address.
#[derive(Clone, Debug)]
pub struct GrpcGateway {
    name: Arc<str>,
    client: CapacityServiceClient<Channel>,
    signer: CallSigner,
}

/// An address is not `http://host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of a gateway: http://host:port")]
pub struct NoAddress;

// === impl GrpcGateway ===

impl GrpcGateway {
    /// The gateway at `http://host:port`; connected when it is first needed.
    ///
    /// # Errors
    /// When the address is another.
    pub fn new(address: &str, signer: CallSigner) -> Result<Self, NoAddress> {
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| NoAddress)?;
        let uri = endpoint.uri();
        if uri.scheme() != Some(&http::uri::Scheme::HTTP) || uri.host().is_none() {
            return Err(NoAddress);
        }
        let endpoint = endpoint.connect_timeout(CONNECT).timeout(CALL);
        Ok(Self {
            name: address.into(),
            client: CapacityServiceClient::new(endpoint.connect_lazy()),
            signer,
        })
    }

    /// Asks again each time: a gateway behind the address may have changed its hotkey.
    async fn receiver(&self) -> Result<Hotkey, AnnounceError> {
        let answer = self.gateway().await?;
        answer.hotkey.parse().map_err(|_| AnnounceError::Hotkey)
    }

    async fn signed<M: Message>(
        &self,
        path: &'static str,
        message: M,
    ) -> Result<Request<M>, AnnounceError> {
        let receiver = self.receiver().await?;
        let bytes = message.encode_to_vec();
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let signed = self.signer.sign(metadata, path, receiver, &bytes);
        signed.map_err(|_| AnnounceError::Unsigned)?;
        Ok(request)
    }
}

impl Announce for GrpcGateway {
    fn name(&self) -> &str {
        &self.name
    }

    fn gateway(&self) -> BoxFuture<'_, Result<v1::GetGatewayResponse, AnnounceError>> {
        Box::pin(async {
            let mut client = self.client.clone();
            let answer = client.get_gateway(v1::GetGatewayRequest {}).await;
            Ok(answer.map_err(|status| refused(&status))?.into_inner())
        })
    }

    fn declare(
        &self,
        request: v1::DeclareRequest,
    ) -> BoxFuture<'_, Result<v1::DeclareResponse, AnnounceError>> {
        Box::pin(async move {
            let request = self.signed(DECLARE, request).await?;
            let answer = self.client.clone().declare(request).await;
            Ok(answer.map_err(|status| refused(&status))?.into_inner())
        })
    }

    fn withdraw(&self, request: v1::WithdrawRequest) -> BoxFuture<'_, Result<(), AnnounceError>> {
        Box::pin(async move {
            let request = self.signed(WITHDRAW, request).await?;
            let answer = self.client.clone().withdraw(request).await;
            answer.map_err(|status| refused(&status)).map(drop)
        })
    }
}

fn refused(status: &Status) -> AnnounceError {
    let details = status.get_error_details();
    if details
        .error_info()
        .is_some_and(|info| info.reason == STALE)
    {
        return AnnounceError::Stale;
    }
    match status.code() {
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::NotFound
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::Aborted => AnnounceError::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => AnnounceError::Away,
    }
}
