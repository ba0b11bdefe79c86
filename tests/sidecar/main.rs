//! What a sidecar promises: digests, its bound on requests, slots that come back, and
//! answers that are whole or not.

#![expect(
    clippy::unwrap_used,
    reason = "what a test's own servers fail at fails the test"
)]

mod arguments;
mod conversations;
mod declaring;
mod gateway;
mod model_server;
mod presence;
mod program;
mod raising;
mod servers;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use model_server::{ModelServer, Script, event, finish, text};
use sha2::{Digest as _, Sha256};
use taugate::proto::v1;
use taugate::proto::v1::miner_generate_request::Payload;
use taugate::proto::v1::miner_generate_response::Event;
use taugate::proto::v1::miner_service_client::MinerServiceClient;
use taugate::sidecar::model::Model;
use taugate::sidecar::model::Models;
use taugate::sidecar::openai::OpenAiServer;
use taugate::sidecar::serve::{MinerDoor, serve};
use taugate::sidecar::simulated::{SimulatedModel, Simulation};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// A miner on a real socket and a client of it.
struct Miner {
    client: MinerServiceClient<Channel>,
    door: MinerDoor,
    _stop: DropGuard,
    _serving: AbortOnDropHandle<()>,
}

impl Miner {
    async fn start(model: Arc<dyn Model>, concurrency: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let door = MinerDoor::new(Models::from([("m".into(), model)]), concurrency);
        let stop = CancellationToken::new();
        let serving = serve(listener, door.clone(), stop.clone(), Duration::ZERO);
        #[expect(clippy::disallowed_methods, reason = "ends with the handle")]
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        Self {
            client: MinerServiceClient::new(channel),
            door,
            _stop: stop.drop_guard(),
            _serving: serving,
        }
    }

    async fn over(script: Script, concurrency: usize) -> (Self, ModelServer) {
        let server = ModelServer::start(script).await;
        let model = OpenAiServer::new(&format!("http://{}/v1", server.address), None);
        let model = Arc::new(model.unwrap().model("served"));
        (Self::start(model, concurrency).await, server)
    }

    async fn ask(&self, chat: v1::ChatPayload) -> Result<Answer, Status> {
        let mut stream = self
            .client
            .clone()
            .generate(request(chat))
            .await?
            .into_inner();
        let mut answer = Answer::default();
        while let Some(message) = stream.message().await? {
            match message.event.unwrap() {
                Event::Delta(delta) => {
                    answer.content.push_str(&delta.content);
                    answer.deltas.push(delta);
                }
                Event::Completed(completed) => answer.completed = Some(completed),
            }
        }
        Ok(answer)
    }

    async fn until_free(&self, slots: usize) {
        let freed = async {
            while self.door.free() != slots {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), freed)
            .await
            .unwrap();
    }
}

#[derive(Debug, Default)]
struct Answer {
    content: String,
    deltas: Vec<v1::Delta>,
    completed: Option<v1::MinerCompleted>,
}

fn chat() -> v1::ChatPayload {
    let part = v1::content_part::Part::Text("Who?".to_owned());
    v1::ChatPayload {
        messages: vec![v1::ChatMessage {
            role: v1::Role::User.into(),
            parts: vec![v1::ContentPart { part: Some(part) }],
            ..v1::ChatMessage::default()
        }],
        max_tokens: Some(50),
        ..v1::ChatPayload::default()
    }
}

fn request(chat: v1::ChatPayload) -> Request<v1::MinerGenerateRequest> {
    Request::new(v1::MinerGenerateRequest {
        attempt_id: "a".to_owned(),
        task: "m".to_owned(),
        payload: Some(Payload::Chat(chat)),
    })
}

fn done() -> Vec<u8> {
    event("[DONE]")
}

#[tokio::test]
async fn the_digest_is_of_what_was_sent() {
    let tools = r#"{"choices":[{"delta":{"tool_calls":[
        {"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}"#;
    let thought = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#;
    let pieces = vec![
        event(thought),
        text("ab"),
        text("c"),
        event(&tools.replace('\n', "")),
        finish(),
        done(),
    ];
    let (miner, _server) = Miner::over(Script::Pieces(pieces), 1).await;
    let completed = miner.ask(chat()).await.unwrap().completed.unwrap();
    let digest = Sha256::digest(b"abc\0hm\0\0{}").to_vec();
    assert_eq!(
        completed.digests,
        [v1::ChoiceDigest {
            choice: 0,
            sha256: digest
        }]
    );
    assert_eq!(completed.choices[0].finish_reason(), v1::FinishReason::Stop);
}

#[tokio::test]
async fn an_answer_is_read_however_its_bytes_are_cut() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    let mut bytes = b": a comment\r\n\r\nevent: ping\ndata: {}\n\n".to_vec();
    // Counts before the end, a null for everything, and the mark inside a text (N20).
    for piece in [
        event(usage),
        text("né "),
        text("data: [DONE]"),
        text(" 🦀"),
        finish(),
        done(),
    ] {
        bytes.extend(piece);
    }
    bytes.extend(event(r#"{"choices":null,"usage":null,"error":null}"#));
    let pieces = bytes.iter().map(|byte| vec![*byte]).collect();
    let (miner, _server) = Miner::over(Script::Pieces(pieces), 1).await;
    let answer = miner.ask(chat()).await.unwrap();
    assert_eq!(answer.content, "né data: [DONE] 🦀");
    let claimed = answer.completed.unwrap().claimed.unwrap();
    assert_eq!((claimed.prompt, claimed.completion), (Some(7), Some(2)));
}

#[tokio::test]
async fn a_stream_that_only_ends_is_broken() {
    let (miner, _server) = Miner::over(Script::Pieces(vec![text("ab")]), 1).await;
    assert_eq!(miner.ask(chat()).await.unwrap_err().code(), Code::Aborted);

    let (miner, _server) = Miner::over(Script::Pieces(vec![text("ab"), done()]), 1).await;
    assert!(miner.ask(chat()).await.unwrap().completed.is_some());
    let (miner, _server) = Miner::over(Script::Pieces(vec![text("ab"), finish()]), 1).await;
    assert!(miner.ask(chat()).await.unwrap().completed.is_some());

    // The second of two choices never came.
    let two = v1::ChatPayload {
        choices: Some(2),
        ..chat()
    };
    let (miner, _server) = Miner::over(Script::Pieces(vec![text("ab"), finish(), done()]), 1).await;
    assert_eq!(miner.ask(two).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn what_the_server_says_before_an_answer_is_told_apart() {
    for (status, code) in [
        (400, Code::InvalidArgument),
        (429, Code::ResourceExhausted),
        (503, Code::ResourceExhausted),
        (500, Code::Unavailable),
        (404, Code::Unavailable),
    ] {
        let (miner, _server) = Miner::over(Script::Status(status), 1).await;
        assert_eq!(
            miner.ask(chat()).await.unwrap_err().code(),
            code,
            "{status}"
        );
        miner.until_free(1).await;
    }
}

#[tokio::test]
async fn over_its_bound_it_refuses_at_once_and_a_cancel_frees_the_slot() {
    let (miner, mut server) = Miner::over(Script::Hang(vec![text("ab")]), 1).await;
    let mut first = miner
        .client
        .clone()
        .generate(request(chat()))
        .await
        .unwrap()
        .into_inner();
    assert!(first.message().await.unwrap().is_some());
    assert_eq!(
        miner.ask(chat()).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
    server
        .hanging
        .wait_for(|hanging| *hanging == 1)
        .await
        .unwrap();
    drop(first);
    // The model server's request ends too, within a second.
    let ended = server.hanging.wait_for(|hanging| *hanging == 0);
    let ended = tokio::time::timeout(Duration::from_secs(1), ended).await;
    drop(ended.unwrap().unwrap());
    miner.until_free(1).await;
    assert_eq!(server.bodies.lock().len(), 1);
}

#[tokio::test]
async fn a_cancel_before_the_first_delta_frees_the_slot() {
    let (miner, mut server) = Miner::over(Script::Hang(vec![]), 1).await;
    let mut client = miner.client.clone();
    {
        let mut asking = std::pin::pin!(client.generate(request(chat())));
        tokio::select! {
            _ = asking.as_mut() => panic!("nothing was said"),
            hanging = server.hanging.wait_for(|hanging| *hanging == 1) => drop(hanging.unwrap()),
        }
        assert_eq!(miner.door.free(), 0);
    }
    miner.until_free(1).await;
}

#[tokio::test]
async fn the_deadline_of_a_call_is_kept() {
    let (miner, _server) = Miner::over(Script::Hang(vec![text("ab")]), 1).await;
    let mut asked = request(chat());
    asked
        .metadata_mut()
        .insert("grpc-timeout", "500m".parse().unwrap());
    let mut stream = miner
        .client
        .clone()
        .generate(asked)
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    miner.until_free(1).await;
}

#[tokio::test]
async fn prompts_go_to_the_named_server_alone() {
    let other = ModelServer::start(Script::Pieces(vec![text("ab"), finish(), done()])).await;
    let to = format!("http://{}/v1/chat/completions", other.address);
    let (miner, server) = Miner::over(Script::Redirect(to), 1).await;
    assert_eq!(
        miner.ask(chat()).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.bodies.lock().len(), 1);
    assert!(other.bodies.lock().is_empty());
}

#[tokio::test]
async fn an_event_without_an_end_is_cut() {
    let mut pieces = vec![text("ab"), b"data: ".to_vec()];
    pieces.extend(std::iter::repeat_n(vec![b'x'; 64 * 1024], 64));
    let (miner, _server) = Miner::over(Script::Hang(pieces), 1).await;
    let answered = tokio::time::timeout(Duration::from_secs(10), miner.ask(chat())).await;
    assert_eq!(answered.unwrap().unwrap_err().code(), Code::Aborted);
}

// N22.
#[tokio::test]
async fn what_is_asked_reaches_the_server_unchanged() {
    let schema = r#"{"z": 1, "a": {"type":"object"}}"#;
    let mut asked = chat();
    asked.sampling = Some(v1::Sampling {
        temperature: Some(0.0),
        top_p: Some(0.25),
        top_k: Some(5),
        seed: Some(-3),
        frequency_penalty: Some(-0.5),
        presence_penalty: Some(0.5),
        min_p: Some(0.125),
        repetition_penalty: Some(1.5),
    });
    asked.stop = vec!["\n".to_owned()];
    asked.logprobs = Some(true);
    asked.top_logprobs = Some(3);
    asked.reasoning_effort = Some("low".to_owned());
    asked.tool_choice = Some(v1::ToolChoice {
        choice: Some(v1::tool_choice::Choice::Function("f".to_owned())),
    });
    asked.messages[0].parts.push(v1::ContentPart {
        part: Some(v1::content_part::Part::Image(v1::ImagePart {
            source: Some(v1::image_part::Source::Data(vec![1, 2, 3])),
            mime: "image/png".to_owned(),
            detail: String::new(),
        })),
    });
    asked.tools = vec![v1::Tool {
        name: "f".to_owned(),
        parameters_json: schema.to_owned(),
        ..v1::Tool::default()
    }];
    let (miner, server) = Miner::over(Script::Pieces(vec![text("ab"), finish(), done()]), 1).await;
    miner.ask(asked.clone()).await.unwrap();
    let body = server.bodies.lock()[0].clone();
    assert!(body.contains(schema), "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({
        "model": "served", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Who?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AQID"}}]}],
        "stream": true, "stream_options": {"include_usage": true},
        "tools": [{"type": "function", "function": {
            "name": "f", "parameters": {"z": 1, "a": {"type": "object"}}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "temperature": 0.0, "top_p": 0.25, "top_k": 5, "seed": -3,
        "frequency_penalty": -0.5, "presence_penalty": 0.5, "min_p": 0.125,
        "repetition_penalty": 1.5, "repeat_penalty": 1.5, "logprobs": true, "top_logprobs": 3,
        "reasoning_effort": "low", "stop": ["\n"], "max_tokens": 50,
    });
    assert_eq!(body, expected);

    asked.tools[0].parameters_json = "{".to_owned();
    assert_eq!(
        miner.ask(asked).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_simulated_model_repeats_itself_and_obeys() {
    let simulation = Simulation {
        tokens_per_s: 0.0,
        prefill_tokens_per_s: 0.0,
        ..Simulation::default()
    };
    let miner = Miner::start(Arc::new(SimulatedModel::new(simulation)), 4).await;
    let seed = v1::Sampling {
        seed: Some(9),
        ..v1::Sampling::default()
    };
    let asked = v1::ChatPayload {
        sampling: Some(seed),
        choices: Some(3),
        max_tokens: Some(20),
        ..chat()
    };
    let first = miner.ask(asked.clone()).await.unwrap();
    assert_eq!(first.content, miner.ask(asked).await.unwrap().content);
    let completed = first.completed.unwrap();
    let reasons: Vec<_> = completed
        .choices
        .iter()
        .map(v1::ChoiceEnd::finish_reason)
        .collect();
    assert_eq!(reasons, [v1::FinishReason::Length; 3]);
    assert_eq!(completed.claimed.unwrap().completion, Some(60));

    let small = Simulation {
        context_tokens: 51,
        ..simulation
    };
    let miner = Miner::start(Arc::new(SimulatedModel::new(small)), 4).await;
    assert!(miner.ask(chat()).await.is_ok());
    let more = v1::ChatPayload {
        max_tokens: Some(51),
        ..chat()
    };
    let refused = miner.ask(more).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let breaks = Simulation {
        failure_rate: 1.0,
        ..simulation
    };
    let miner = Miner::start(Arc::new(SimulatedModel::new(breaks)), 4).await;
    assert_eq!(miner.ask(chat()).await.unwrap_err().code(), Code::Aborted);
}
