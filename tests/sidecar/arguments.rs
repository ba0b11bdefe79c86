//! What a command line makes of a sidecar.

use std::sync::Arc;

use clap::Parser as _;
use taugate::clock::SystemClock;
use taugate::sidecar::arguments::ArgumentError;
use taugate::sidecar::{MinerArgs, SidecarSettings};

use crate::model_server::{ModelServer, Script};

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    miner: MinerArgs,
}

async fn settings(arguments: &[&str]) -> Result<SidecarSettings, ArgumentError> {
    let all = ["miner", "--development-key", "//Alice"];
    let cli = Cli::try_parse_from(all.iter().chain(arguments)).unwrap();
    cli.miner.settings(Arc::new(SystemClock)).await
}

#[tokio::test]
async fn an_address_suffices_and_the_server_says_the_rest() {
    let page = r#"{"data": [{"id": "x"}, {"id": "y"}], "total_slots": 3}"#;
    let server = ModelServer::start(Script::Pieces(vec![page.into()])).await;
    let address = format!("http://{}", server.address);
    let made = settings(&["--model", &address]).await.unwrap();
    let tasks: Vec<_> = made.tasks.iter().map(|served| &*served.task).collect();
    assert_eq!(tasks, ["x", "y"]);
    assert_eq!(made.concurrency, 3);
    assert_eq!(made.tasks[0].units_per_hour, 3 * 5 * 3600);

    let page = r#"{"data": [{"id": "x"}]}"#;
    let server = ModelServer::start(Script::Pieces(vec![page.into()])).await;
    let address = format!("http://{}", server.address);
    let made = settings(&["--model", &address, "--units-per-hour", "7"]).await;
    let made = made.unwrap();
    assert_eq!((made.concurrency, made.tasks[0].units_per_hour), (4, 7));
}

#[tokio::test]
async fn gateways_must_be_able_to_connect() {
    let simulated = ["--simulate", "--task", "m", "--listen", "0.0.0.0:0"];
    let refused = settings(&simulated).await.unwrap_err();
    assert!(matches!(refused, ArgumentError::Endpoint(_)), "{refused}");
    let mut told = simulated.to_vec();
    told.extend(["--endpoint", "http://miner.example:50061"]);
    let made = settings(&told).await.unwrap();
    assert_eq!(made.tasks[0].units_per_hour, 16 * 80 * 3600);
}
