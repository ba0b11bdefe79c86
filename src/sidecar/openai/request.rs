//! A conversation as `/v1/chat/completions` takes it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::proto::v1;
use crate::proto::v1::content_part::Part;
use crate::proto::v1::image_part::Source;
use crate::proto::v1::response_format::Format;
use crate::proto::v1::tool_choice::Choice;

/// A schema is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson;

/// The request's body. Schemas stand in it as they were written: the order of their members
/// guides some models.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    model: &'a str,
    messages: Vec<Value>,
    stream: bool,
    stream_options: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
    /// The same, as llama.cpp calls it: it would overlook the other name in silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Debug, Serialize)]
struct Function<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Debug, Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    json_schema: Option<Schema<'a>>,
}

#[derive(Debug, Serialize)]
struct Schema<'a> {
    name: &'a str,
    schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

// === impl Body ===

impl<'a> Body<'a> {
    /// The body that asks `model` for this.
    pub(super) fn new(model: &'a str, payload: &'a v1::ChatPayload) -> Result<Self, NotJson> {
        let sampling = payload.sampling.unwrap_or_default();
        let tools: Result<_, _> = payload.tools.iter().map(tool).collect();
        let format = payload.response_format.as_ref();
        let format = format.and_then(|format| format.format.as_ref());
        Ok(Self {
            model,
            messages: payload.messages.iter().map(message).collect(),
            stream: true,
            stream_options: json!({"include_usage": true}),
            tools: tools?,
            tool_choice: payload.tool_choice.as_ref().and_then(tool_choice),
            response_format: format.map(response_format).transpose()?,
            stop: &payload.stop,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            seed: sampling.seed,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            repeat_penalty: sampling.repetition_penalty,
            logprobs: payload.logprobs,
            top_logprobs: payload.top_logprobs,
            max_tokens: payload.max_tokens,
            n: payload.choices,
            reasoning_effort: payload.reasoning_effort.as_deref(),
        })
    }
}

fn raw(text: &str) -> Result<&RawValue, NotJson> {
    serde_json::from_str(text).map_err(|_| NotJson)
}

fn tool(tool: &v1::Tool) -> Result<Tool<'_>, NotJson> {
    let parameters = Some(tool.parameters_json.as_str()).filter(|text| !text.is_empty());
    Ok(Tool {
        r#type: "function",
        function: Function {
            name: &tool.name,
            description: &tool.description,
            parameters: parameters.map(raw).transpose()?,
            strict: tool.strict,
        },
    })
}

fn tool_choice(choice: &v1::ToolChoice) -> Option<Value> {
    Some(match choice.choice.as_ref()? {
        Choice::Mode(mode) => match v1::ToolMode::try_from(*mode).unwrap_or_default() {
            v1::ToolMode::Unspecified | v1::ToolMode::Auto => json!("auto"),
            v1::ToolMode::None => json!("none"),
            v1::ToolMode::Required => json!("required"),
        },
        Choice::Function(name) => json!({"type": "function", "function": {"name": name}}),
    })
}

fn response_format(format: &Format) -> Result<ResponseFormat<'_>, NotJson> {
    let (r#type, json_schema) = match format {
        Format::Text(_) => ("text", None),
        Format::JsonObject(_) => ("json_object", None),
        Format::JsonSchema(given) => {
            let schema = Schema {
                name: &given.name,
                schema: raw(&given.schema_json)?,
                strict: given.strict,
            };
            ("json_schema", Some(schema))
        }
    };
    Ok(ResponseFormat {
        r#type,
        json_schema,
    })
}

fn message(message: &v1::ChatMessage) -> Value {
    let role = match message.role() {
        v1::Role::System => "system",
        v1::Role::Unspecified | v1::Role::User => "user",
        v1::Role::Assistant => "assistant",
        v1::Role::Tool => "tool",
        v1::Role::Developer => "developer",
    };
    let mut json = json!({"role": role, "content": content(&message.parts)});
    if !message.name.is_empty() {
        json["name"] = json!(message.name);
    }
    if !message.tool_call_id.is_empty() {
        json["tool_call_id"] = json!(message.tool_call_id);
    }
    if !message.tool_calls.is_empty() {
        json["tool_calls"] = message.tool_calls.iter().map(tool_call).collect();
    }
    json
}

fn tool_call(call: &v1::ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

/// One text is a string, which every server takes; lists are for what needs them.
fn content(parts: &[v1::ContentPart]) -> Value {
    match parts {
        [] => Value::Null,
        [
            v1::ContentPart {
                part: Some(Part::Text(text)),
            },
        ] => json!(text),
        parts => parts
            .iter()
            .filter_map(|part| content_part(part.part.as_ref()?))
            .collect(),
    }
}

fn content_part(part: &Part) -> Option<Value> {
    let image = match part {
        Part::Text(text) => return Some(json!({"type": "text", "text": text})),
        Part::Image(image) => image,
    };
    let url = match image.source.as_ref()? {
        Source::Url(url) => url.clone(),
        Source::Data(data) => format!(
            "data:{};base64,{}",
            image.mime,
            BASE64_STANDARD.encode(data)
        ),
    };
    let mut json = json!({"type": "image_url", "image_url": {"url": url}});
    if !image.detail.is_empty() {
        json["image_url"]["detail"] = json!(image.detail);
    }
    Some(json)
}
