//! From a request to an admitted call: every field checked before anything is held, all
//! faults reported at once.

use super::status::FieldFault;
use crate::call::order::{Order, Prompt};
use crate::proto::v1;
use crate::proto::v1::generate_request::Payload;
use crate::task::{Task, TaskKind};

/// Messages of a conversation.
const MESSAGES_MAX: usize = 4096;
/// Tools of a request.
const TOOLS_MAX: usize = 256;
/// Texts that end an answer.
const STOPS_MAX: usize = 16;
/// Answers per request.
const CHOICES_MAX: u32 = 16;
/// Bytes of pictures in a request.
const IMAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Labels of a request.
const LABELS_MAX: usize = 8;
/// A token is at least about a quarter of these many bytes in every script that models
/// read, so that a longer prompt cannot fit whatever its tokenizer.
const BYTES_PER_TOKEN_MAX: u64 = 16;

/// Collects faults with their field paths.
#[derive(Debug, Default)]
struct Faults(Vec<FieldFault>);

// === impl Faults ===

impl Faults {
    fn add(&mut self, field: impl Into<String>, fault: impl Into<String>) {
        // Enough to mend a request; a status has to stay small.
        const FAULTS_MAX: usize = 16;
        if self.0.len() < FAULTS_MAX {
            self.0.push(FieldFault {
                field: field.into(),
                fault: fault.into(),
            });
        }
    }

    fn check(&mut self, holds: bool, field: &str, fault: &str) {
        if !holds {
            self.add(field, fault);
        }
    }

    fn range(&mut self, value: Option<f64>, field: &str, low: f64, high: f64) {
        // Written so that NaN is a fault.
        let holds = value.is_none_or(|value| value >= low && value <= high);
        if !holds {
            self.add(field, format!("must be between {low} and {high}"));
        }
    }

    fn done<T>(self, value: T) -> Result<T, Vec<FieldFault>> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.0)
        }
    }
}

/// Checks what stands beside the payload.
pub(super) fn check_envelope(request: &v1::GenerateRequest) -> Result<(), Vec<FieldFault>> {
    let mut faults = Faults::default();
    faults.check(
        !request.task.is_empty(),
        "task",
        "is missing; ListTasks names the tasks",
    );
    let key = &request.idempotency_key;
    let printable = key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ');
    faults.check(
        key.len() <= 128 && printable,
        "idempotency_key",
        "must be at most 128 bytes of printable ASCII",
    );
    faults.check(
        request.affinity_key.len() <= 128,
        "affinity_key",
        "must be at most 128 bytes",
    );
    faults.check(
        request.labels.len() <= LABELS_MAX,
        "labels",
        "must be at most 8",
    );
    let fits =
        |(key, value): (&String, &String)| (1..=32).contains(&key.len()) && value.len() <= 64;
    let labels = request.labels.iter().all(fits);
    faults.check(
        labels,
        "labels",
        "must have keys of 1 to 32 bytes and values of at most 64",
    );
    faults.done(())
}

/// Checks a payload against its task and fills in what is missing.
pub(super) fn order(task: &Task, payload: Option<Payload>) -> Result<Order, Vec<FieldFault>> {
    let mut faults = Faults::default();
    match payload {
        Some(Payload::Chat(chat)) if task.kind == TaskKind::Chat => return chat_order(task, chat),
        Some(_) => faults.add(
            "payload",
            format!("must be of the task's kind, {:?}", task.kind),
        ),
        None => faults.add("payload", "is missing"),
    }
    Err(faults.0)
}

fn chat_order(task: &Task, chat: v1::ChatPayload) -> Result<Order, Vec<FieldFault>> {
    let mut faults = Faults::default();
    let prompt = Prompt::of(&chat);
    check_messages(&mut faults, &chat.messages);
    faults.check(
        prompt.image_bytes <= IMAGE_BYTES_MAX,
        "chat.messages",
        "have more than 8 MiB of images",
    );
    check_tools(&mut faults, &chat);
    check_sampling(&mut faults, chat.sampling.as_ref());
    check_bounds(&mut faults, &chat, task);
    if task.context_tokens > 0 {
        let fits = prompt.bytes as u64 / BYTES_PER_TOKEN_MAX <= task.context_tokens;
        faults.check(
            fits,
            "chat.messages",
            &format!(
                "are too long for a context of {} tokens",
                task.context_tokens
            ),
        );
    }
    faults.done(())?;
    Ok(Order::chat(task, chat, &prompt))
}

fn check_messages(faults: &mut Faults, messages: &[v1::ChatMessage]) {
    let count = (1..=MESSAGES_MAX).contains(&messages.len());
    faults.check(count, "chat.messages", "must be 1 to 4096");
    for (index, message) in messages.iter().enumerate().take(MESSAGES_MAX) {
        let field = |name: &str| format!("chat.messages[{index}].{name}");
        if v1::Role::try_from(message.role).unwrap_or_default() == v1::Role::Unspecified {
            faults.add(field("role"), "is missing or unknown");
        }
        if message.parts.is_empty() && message.tool_calls.is_empty() {
            faults.add(field("parts"), "are missing");
        }
        if message.name.len() > 64 {
            faults.add(field("name"), "must be at most 64 bytes");
        }
        if message.tool_call_id.len() > 256 {
            faults.add(field("tool_call_id"), "must be at most 256 bytes");
        }
        for part in &message.parts {
            match &part.part {
                Some(v1::content_part::Part::Text(_)) => {}
                Some(v1::content_part::Part::Image(image)) => {
                    check_image(faults, &field("parts"), image);
                }
                None => faults.add(field("parts"), "must have text or an image each"),
            }
        }
    }
}

fn check_image(faults: &mut Faults, field: &str, image: &v1::ImagePart) {
    match &image.source {
        Some(v1::image_part::Source::Data(_)) => {
            let typed = image.mime.starts_with("image/") && image.mime.len() <= 64;
            faults.check(
                typed,
                field,
                "need the image's media type, such as image/png",
            );
        }
        Some(v1::image_part::Source::Url(url)) => {
            let web = url.starts_with("https://") || url.starts_with("http://");
            faults.check(
                web && url.len() <= 2048,
                field,
                "need an http(s) address of at most 2048 bytes",
            );
        }
        None => faults.add(field, "need an image's data or address"),
    }
    let detail = matches!(image.detail.as_str(), "" | "auto" | "low" | "high");
    faults.check(detail, field, "know the details auto, low and high");
}

fn check_tools(faults: &mut Faults, chat: &v1::ChatPayload) {
    faults.check(
        chat.tools.len() <= TOOLS_MAX,
        "chat.tools",
        "must be at most 256",
    );
    for (index, tool) in chat.tools.iter().enumerate().take(TOOLS_MAX) {
        let plain = tool
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !plain || !(1..=64).contains(&tool.name.len()) {
            faults.add(
                format!("chat.tools[{index}].name"),
                "must be 1 to 64 of a-z, A-Z, 0-9, _ and -",
            );
        }
        if tool.description.len() > 16 * 1024 || tool.parameters_json.len() > 64 * 1024 {
            faults.add(format!("chat.tools[{index}]"), "is too large");
        }
        let schema = tool.parameters_json.as_str();
        if !schema.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(schema).is_err() {
            faults.add(format!("chat.tools[{index}].parameters_json"), "is no JSON");
        }
    }
    if let Some(v1::tool_choice::Choice::Function(name)) = chat
        .tool_choice
        .as_ref()
        .and_then(|choice| choice.choice.as_ref())
    {
        let known = chat.tools.iter().any(|tool| tool.name == *name);
        faults.check(
            known,
            "chat.tool_choice.function",
            "must name one of the tools",
        );
    }
    if let Some(v1::response_format::Format::JsonSchema(schema)) = chat
        .response_format
        .as_ref()
        .and_then(|format| format.format.as_ref())
    {
        let text = schema.schema_json.as_str();
        let json =
            text.len() <= 64 * 1024 && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        faults.check(
            json,
            "chat.response_format.json_schema.schema_json",
            "must be JSON of at most 64 KiB",
        );
    }
}

fn check_sampling(faults: &mut Faults, sampling: Option<&v1::Sampling>) {
    let Some(sampling) = sampling else { return };
    faults.range(sampling.temperature, "chat.sampling.temperature", 0.0, 2.0);
    faults.range(
        sampling.top_p,
        "chat.sampling.top_p",
        f64::MIN_POSITIVE,
        1.0,
    );
    faults.range(
        sampling.top_k.map(f64::from),
        "chat.sampling.top_k",
        1.0,
        1000.0,
    );
    faults.range(
        sampling.frequency_penalty,
        "chat.sampling.frequency_penalty",
        -2.0,
        2.0,
    );
    faults.range(
        sampling.presence_penalty,
        "chat.sampling.presence_penalty",
        -2.0,
        2.0,
    );
    faults.range(sampling.min_p, "chat.sampling.min_p", 0.0, 1.0);
    let penalty = sampling.repetition_penalty;
    faults.range(
        penalty,
        "chat.sampling.repetition_penalty",
        f64::MIN_POSITIVE,
        2.0,
    );
}

fn check_bounds(faults: &mut Faults, chat: &v1::ChatPayload, task: &Task) {
    let largest = task.largest_request;
    let tokens = chat
        .max_tokens
        .is_none_or(|tokens| (1..=largest).contains(&u64::from(tokens)));
    faults.check(
        tokens,
        "chat.max_tokens",
        &format!("must be between 1 and {largest}"),
    );
    let choices = chat
        .choices
        .is_none_or(|choices| (1..=CHOICES_MAX).contains(&choices));
    faults.check(choices, "chat.choices", "must be between 1 and 16");
    let stops = chat.stop.iter().all(|stop| (1..=256).contains(&stop.len()));
    faults.check(
        stops && chat.stop.len() <= STOPS_MAX,
        "chat.stop",
        "must be at most 16, each of 1 to 256 bytes",
    );
    let top = chat.top_logprobs.unwrap_or(0);
    faults.check(top <= 20, "chat.top_logprobs", "must be at most 20");
    faults.check(
        top == 0 || chat.logprobs == Some(true),
        "chat.top_logprobs",
        "needs logprobs",
    );
    let effort = chat.reasoning_effort.as_deref().unwrap_or_default();
    faults.check(
        effort.len() <= 32,
        "chat.reasoning_effort",
        "must be at most 32 bytes",
    );
}

#[cfg(test)]
mod tests {
    use taugate_ledger::units::Units;

    use super::*;

    #[test]
    fn a_miner_gets_time_for_pictures_and_no_context_is_too_small_for_them() {
        let mut task = Task::open_chat("tiny".into());
        task.context_tokens = 64;
        let image = v1::ImagePart {
            source: Some(v1::image_part::Source::Data(vec![0; 64 * 1024])),
            mime: "image/png".into(),
            ..v1::ImagePart::default()
        };
        let parts = [
            v1::content_part::Part::Text("look".into()),
            v1::content_part::Part::Image(image),
        ];
        let message = v1::ChatMessage {
            role: v1::Role::User.into(),
            parts: parts
                .map(|part| v1::ContentPart { part: Some(part) })
                .into(),
            ..v1::ChatMessage::default()
        };
        let chat = v1::ChatPayload {
            messages: vec![message],
            ..v1::ChatPayload::default()
        };
        let order = order(&task, Some(Payload::Chat(chat))).unwrap();
        assert_eq!(order.prompt_bytes, 64 * 1024 + 4);
        assert_eq!(order.prompt_units, Units::new(1));
    }
}
