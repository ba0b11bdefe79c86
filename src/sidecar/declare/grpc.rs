//! A gateway over gRPC. `Declare` and `Withdraw` are signed for the hotkey that the gateway
//! gave of itself.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use hyper_util::rt::TokioIo;
use prost::Message;
use taugate_ledger::engine::BoxFuture;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::{Announce, AnnounceError};
use crate::identity::call::CallSigner;
use crate::identity::hotkey::Hotkey;
use crate::identity::tls::ClientTls;
use crate::proto::v1;
use crate::proto::v1::capacity_service_client::CapacityServiceClient;

/// The paths that are signed.
const DECLARE: &str = "/taugate.v1.CapacityService/Declare";
const WITHDRAW: &str = "/taugate.v1.CapacityService/Withdraw";
const SET_AVAILABILITY: &str = "/taugate.v1.CapacityService/SetAvailability";

/// The reason in the details of a status that refuses a sequence.
const STALE: &str = "STALE";

/// To connect.
const CONNECT: Duration = Duration::from_secs(5);

/// One call that is answered at once.
const CALL: Duration = Duration::from_secs(10);

/// Changes that wait for a gateway.
const CHANGES_MAX: usize = 16;

/// A gateway that vanished is missed after these two together.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway at an address.
#[derive(Clone, Debug)]
pub struct GrpcGateway {
    name: Arc<str>,
    client: CapacityServiceClient<Channel>,
    signer: CallSigner,
}

/// An address is not `http://host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of a gateway: http://host:port or https://host:port")]
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
        Ok(Self {
            name: address.into(),
            client: CapacityServiceClient::new(kept_alive(endpoint).connect_lazy()),
            signer,
        })
    }

    /// The gateway at `https://host:port`, or at `http://host:port` as [`GrpcGateway::new`].
    ///
    /// # Errors
    /// When the address is another.
    pub fn trusting(address: &str, signer: CallSigner, tls: ClientTls) -> Result<Self, NoAddress> {
        let Some(rest) = address.strip_prefix("https://") else {
            return Self::new(address, signer);
        };
        // The library speaks no TLS here: the connection that it is given does.
        let endpoint = Endpoint::from_shared(format!("http://{rest}")).map_err(|_| NoAddress)?;
        let host = endpoint.uri().host().ok_or(NoAddress)?;
        let host: Arc<str> = host.trim_matches(['[', ']']).into();
        let port = endpoint.uri().port_u16().unwrap_or(443);
        let origin = address.parse().map_err(|_| NoAddress)?;
        let connector = tower::service_fn(move |_: http::Uri| {
            let (host, tls) = (Arc::clone(&host), tls.clone());
            async move {
                // Connections are seldom: each takes what the files hold now.
                if let Err(error) = tls.reload() {
                    tracing::error!(%error, "the old certificate stays");
                }
                let stream = TcpStream::connect((&*host, port)).await?;
                stream.set_nodelay(true)?;
                tls.connect(&host, stream).await.map(TokioIo::new)
            }
        });
        let channel = kept_alive(endpoint).connect_with_connector_lazy(connector);
        Ok(Self {
            name: address.into(),
            client: CapacityServiceClient::with_origin(channel, origin),
            signer,
        })
    }

    /// Asks again each time: a gateway behind the address may have changed its hotkey.
    async fn receiver(&self) -> Result<Hotkey, AnnounceError> {
        let answer = self.gateway().await?;
        answer.hotkey.parse().map_err(|_| AnnounceError::Hotkey)
    }

    /// A request whose signature covers `bytes`.
    async fn signed<M>(
        &self,
        path: &'static str,
        message: M,
        bytes: &[u8],
    ) -> Result<Request<M>, AnnounceError> {
        let receiver = self.receiver().await?;
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let signed = self.signer.sign(metadata, path, receiver, bytes);
        signed.map_err(|_| AnnounceError::Unsigned)?;
        Ok(request)
    }
}

/// No time-out here: it would cut the stream of availability too.
fn kept_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
}

/// An answer that comes at once or not at all.
async fn answered<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, AnnounceError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(AnnounceError::Away),
    }
}

impl Announce for GrpcGateway {
    fn name(&self) -> &str {
        &self.name
    }

    fn gateway(&self) -> BoxFuture<'_, Result<v1::GetGatewayResponse, AnnounceError>> {
        Box::pin(async {
            let mut client = self.client.clone();
            answered(client.get_gateway(v1::GetGatewayRequest {})).await
        })
    }

    fn declare(
        &self,
        request: v1::DeclareRequest,
    ) -> BoxFuture<'_, Result<v1::DeclareResponse, AnnounceError>> {
        Box::pin(async move {
            let bytes = request.encode_to_vec();
            let request = self.signed(DECLARE, request, &bytes).await?;
            answered(self.client.clone().declare(request)).await
        })
    }

    fn withdraw(&self, request: v1::WithdrawRequest) -> BoxFuture<'_, Result<(), AnnounceError>> {
        Box::pin(async move {
            let bytes = request.encode_to_vec();
            let request = self.signed(WITHDRAW, request, &bytes).await?;
            answered(self.client.clone().withdraw(request))
                .await
                .map(drop)
        })
    }

    fn tell(
        &self,
        mut changes: BoxStream<'static, v1::SetAvailabilityRequest>,
    ) -> BoxFuture<'_, Result<(), AnnounceError>> {
        Box::pin(async move {
            // Only the opening is signed; what follows is counted.
            let opening = self.signed(SET_AVAILABILITY, (), &[]).await?;
            let (sender, receiver) = mpsc::channel(CHANGES_MAX);
            let mut client = self.client.clone();
            let telling = client.set_availability(opening.map(|()| ReceiverStream::new(receiver)));
            let feeding = async move {
                while let Some(change) = changes.next().await {
                    if sender.send(change).await.is_err() {
                        return;
                    }
                }
            };
            // The gateway's word ends it, whether or not there is more to say.
            let mut telling = std::pin::pin!(telling);
            let told = tokio::select! {
                told = telling.as_mut() => told,
                () = feeding => telling.await,
            };
            told.map_err(|status| refused(&status)).map(drop)
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
        | Code::Aborted => {
            // Whoever runs the miner has to know whether it is not registered, or at the
            // clients' port.
            tracing::warn!(code = ?status.code(), says = ?status.message(), "refused");
            AnnounceError::Refused
        }
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
