//! A model server that dies and comes back: what calls, health and gateways see of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use taugate::sidecar::model::Models;
use taugate::sidecar::openai::OpenAiServer;
use taugate::sidecar::serve::{MinerDoor, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::model_server::{ModelServer, Script, finish, text};
use crate::{chat, done, request};
use taugate::proto::v1::miner_service_client::MinerServiceClient;

async fn health(channel: &Channel) -> ServingStatus {
    let mut client = HealthClient::new(channel.clone());
    let asked = HealthCheckRequest {
        service: "taugate.v1.MinerService".to_owned(),
    };
    client.check(asked).await.unwrap().into_inner().status()
}

async fn ask(channel: &Channel) -> Result<usize, Code> {
    let mut client = MinerServiceClient::new(channel.clone());
    let answer = client.generate(request(chat())).await;
    let answer = answer.map_err(|status| status.code())?.into_inner();
    Ok(answer.map(Result::unwrap).count().await)
}

#[tokio::test]
async fn a_model_server_that_dies_and_comes_back_is_seen_to() {
    let script = Script::Pieces(vec![text("ab"), finish(), done()]);
    let server = ModelServer::start(script.clone()).await;
    let address = server.address;
    let model = OpenAiServer::new(&format!("http://{address}"), None).unwrap();
    let models = Models::from([("m".into(), Arc::new(model.model("served")) as _)]);
    let door = MinerDoor::new(models, 2);
    let mut condition = door.conditions().watch();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let miner = format!("http://{}", listener.local_addr().unwrap());
    let channel = Endpoint::from_shared(miner).unwrap().connect_lazy();
    let stop = CancellationToken::new();
    let serving = serve(listener, door.clone(), stop.clone(), Duration::ZERO);
    let watching = async {
        condition.wait_for(|now| now.answers()).await.unwrap();
        assert_eq!(health(&channel).await, ServingStatus::Serving);
        assert_eq!(ask(&channel).await, Ok(2));

        drop(server);
        // This one finds out; later ones are not even tried.
        assert_eq!(ask(&channel).await, Err(Code::Unavailable));
        let found = condition.wait_for(|now| !now.answers());
        // Sooner than the next look would have been.
        let found = tokio::time::timeout(Duration::from_millis(2_500), found).await;
        drop(found.unwrap().unwrap());
        assert_eq!(health(&channel).await, ServingStatus::NotServing);
        assert_eq!(ask(&channel).await, Err(Code::Unavailable));

        let _server = ModelServer::start_at(address, script).await;
        condition.wait_for(|now| now.answers()).await.unwrap();
        assert_eq!(ask(&channel).await, Ok(2));
        assert_eq!(door.free(), 2);
        stop.cancel();
    };
    let run = async { tokio::join!(watching, serving) };
    let bounded = tokio::time::timeout(Duration::from_secs(30), run);
    tokio::select! {
        ended = bounded => drop(ended.unwrap()),
        () = door.look_after() => unreachable!("it never ends"),
    }
}
