//! Conversations with all that may stand in them, as model servers get them.

use serde_json::{Value, json};
use taugate::proto::v1;
use taugate::proto::v1::content_part::Part;
use taugate::proto::v1::image_part::Source;
use taugate::proto::v1::response_format::Format;
use taugate::proto::v1::tool_choice::Choice;

use crate::model_server::{Script, event};
use crate::{Miner, chat, done};

fn message(role: v1::Role, parts: Vec<Part>) -> v1::ChatMessage {
    let part = |part| v1::ContentPart { part: Some(part) };
    v1::ChatMessage {
        role: role.into(),
        parts: parts.into_iter().map(part).collect(),
        ..v1::ChatMessage::default()
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn image(source: Source, mime: &str, detail: &str) -> Part {
    Part::Image(v1::ImagePart {
        source: Some(source),
        mime: mime.to_owned(),
        detail: detail.to_owned(),
    })
}

/// What the server is asked for that.
async fn asked(payload: v1::ChatPayload) -> Value {
    let end = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"},{"index":1,"delta":{"content":"b"},"finish_reason":"stop"}]}"#;
    let (miner, server) = Miner::over(Script::Pieces(vec![event(end), done()]), 1).await;
    miner.ask(payload).await.unwrap();
    let body = server.bodies.lock()[0].clone();
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn every_role_and_part_stands_where_it_stood() {
    let address = Source::Url("https://pictures.example/a.png".to_owned());
    let mut named = message(
        v1::Role::User,
        vec![
            text("Look:"),
            image(address, "", "low"),
            image(Source::Data(vec![0xff, 0x00]), "image/jpeg", ""),
            text("Grüße 🦀"),
        ],
    );
    named.name = "Ada".to_owned();
    let mut calls = message(v1::Role::Assistant, Vec::new());
    calls.tool_calls = ["a", "b"]
        .map(|id| v1::ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            arguments: "{not JSON".to_owned(),
        })
        .to_vec();
    let mut answers = message(v1::Role::Tool, vec![text("nothing")]);
    answers.tool_call_id = "a".to_owned();
    let body = asked(v1::ChatPayload {
        messages: vec![
            message(v1::Role::System, vec![text("Be brief.")]),
            message(v1::Role::Developer, vec![text("Briefer.")]),
            named,
            calls,
            answers,
        ],
        ..chat()
    })
    .await;
    let call = |id: &str| {
        json!({"id": id, "type": "function",
            "function": {"name": "look", "arguments": "{not JSON"}})
    };
    let expected = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Briefer."},
        {"role": "user", "name": "Ada", "content": [
            {"type": "text", "text": "Look:"},
            {"type": "image_url", "image_url":
                {"url": "https://pictures.example/a.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/wA="}},
            {"type": "text", "text": "Grüße 🦀"},
        ]},
        {"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "content": "nothing", "tool_call_id": "a"},
    ]);
    assert_eq!(body["messages"], expected);
}

#[tokio::test]
async fn the_form_of_an_answer_and_the_use_of_tools_are_asked_for_as_they_were() {
    let schema = v1::JsonSchemaFormat {
        name: "answer".to_owned(),
        schema_json: r#"{"type":"object"}"#.to_owned(),
        strict: Some(true),
    };
    let forms = [
        (Format::Text(v1::TextFormat {}), json!({"type": "text"})),
        (
            Format::JsonObject(v1::JsonObjectFormat {}),
            json!({"type": "json_object"}),
        ),
        (
            Format::JsonSchema(schema),
            json!({"type": "json_schema", "json_schema":
                {"name": "answer", "schema": {"type": "object"}, "strict": true}}),
        ),
    ];
    for (form, expected) in forms {
        let body = asked(v1::ChatPayload {
            response_format: Some(v1::ResponseFormat { format: Some(form) }),
            ..chat()
        });
        assert_eq!(body.await["response_format"], expected);
    }
    let modes = [
        (v1::ToolMode::Auto, "auto"),
        (v1::ToolMode::None, "none"),
        (v1::ToolMode::Required, "required"),
    ];
    for (mode, expected) in modes {
        let body = asked(v1::ChatPayload {
            tool_choice: Some(v1::ToolChoice {
                choice: Some(Choice::Mode(mode.into())),
            }),
            choices: Some(2),
            ..chat()
        })
        .await;
        assert_eq!(
            (&body["tool_choice"], &body["n"]),
            (&json!(expected), &json!(2))
        );
    }
    let silent = asked(chat()).await;
    for field in [
        "response_format",
        "tool_choice",
        "tools",
        "n",
        "stop",
        "logprobs",
    ] {
        assert_eq!(silent.get(field), None, "{field} was not said");
    }
}
