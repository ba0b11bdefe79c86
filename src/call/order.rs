//! What a request asks to be held and sent: its prompt measured, its defaults filled in.

use taugate_ledger::units::Units;

use crate::proto::v1;
use crate::proto::v1::miner_generate_request::Payload;
use crate::task::{CharCount, Task};

/// A request, measured.
#[derive(Debug)]
pub struct Order {
    /// The payload for miners, defaults filled in.
    pub payload: Payload,
    /// Size of the prompt, bytes, its pictures with it: a miner gets time for all of them.
    pub prompt_bytes: usize,
    /// Units of the prompt.
    pub prompt_units: Units,
    /// Units to hold for the answer.
    pub output_units: Units,
    /// The most units of the answer.
    pub output_units_max: Units,
    /// Independent answers.
    pub choices: u32,
}

/// What a prompt measures. A model reads its tools and the schema of its answer like the rest
/// of it: what they cost is charged, and a miner gets time for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prompt {
    /// Code points of its texts.
    pub chars: CharCount,
    /// Bytes of its texts.
    pub bytes: usize,
    /// Bytes of pictures, beside those of its texts.
    pub image_bytes: usize,
}

// === impl Order ===

impl Order {
    /// Of a chat that holds to its task's bounds.
    #[must_use]
    pub fn chat(task: &Task, mut chat: v1::ChatPayload, prompt: &Prompt) -> Self {
        let choices = chat.choices.unwrap_or(1);
        let tokens = u64::from(chat.max_tokens.unwrap_or_else(|| tokens_default(task)));
        chat.max_tokens = u32::try_from(tokens).ok();
        let limit = Units::new(tokens).saturating_mul(u64::from(choices));
        Self {
            prompt_bytes: prompt.bytes.saturating_add(prompt.image_bytes),
            prompt_units: prompt_units(prompt.chars, task.prompt_factor),
            output_units: limit.scaled(task.reserve_factor).max(Units::new(1)),
            output_units_max: limit.scaled(task.growth_factor).max(Units::new(1)),
            choices,
            payload: Payload::Chat(chat),
        }
    }
}

fn tokens_default(task: &Task) -> u32 {
    u32::try_from(task.default_request.min(task.largest_request)).unwrap_or(u32::MAX)
}

/// `ceil(code points x factor / 4)`, in integers: the factor in millionths.
fn prompt_units(chars: CharCount, factor: f64) -> Units {
    const MILLION: u64 = 1_000_000;
    let millionths = Units::new(MILLION).scaled(factor).get();
    let product = u128::from(chars.chars()) * u128::from(millionths);
    let units = product.div_ceil(u128::from(MILLION) * 4);
    Units::new(u64::try_from(units).unwrap_or(u64::MAX))
}

// === impl Prompt ===

impl Prompt {
    /// Measures a chat.
    #[must_use]
    pub fn of(chat: &v1::ChatPayload) -> Self {
        let mut prompt = Self::default();
        for message in &chat.messages {
            for part in &message.parts {
                match &part.part {
                    Some(v1::content_part::Part::Text(text)) => prompt.text(text),
                    Some(v1::content_part::Part::Image(image)) => prompt.image(image),
                    None => {}
                }
            }
            for call in &message.tool_calls {
                prompt.text(&call.arguments);
                prompt.text(&call.name);
            }
        }
        for tool in &chat.tools {
            for text in [&tool.name, &tool.description, &tool.parameters_json] {
                prompt.text(text);
            }
        }
        let format = chat.response_format.as_ref();
        if let Some(v1::response_format::Format::JsonSchema(schema)) =
            format.and_then(|format| format.format.as_ref())
        {
            prompt.text(&schema.schema_json);
        }
        prompt
    }

    fn text(&mut self, text: &str) {
        self.chars.add(text);
        self.bytes = self.bytes.saturating_add(text.len());
    }

    fn image(&mut self, image: &v1::ImagePart) {
        if let Some(v1::image_part::Source::Data(data)) = &image.source {
            self.image_bytes = self.image_bytes.saturating_add(data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_and_schemas_are_part_of_the_prompt() {
        let schema = v1::JsonSchemaFormat {
            schema_json: "{}".into(),
            ..v1::JsonSchemaFormat::default()
        };
        let chat = v1::ChatPayload {
            tools: vec![v1::Tool {
                name: "look".into(),
                description: "grüßt".into(),
                parameters_json: "[1]".into(),
                strict: None,
            }],
            response_format: Some(v1::ResponseFormat {
                format: Some(v1::response_format::Format::JsonSchema(schema)),
            }),
            ..v1::ChatPayload::default()
        };
        let prompt = Prompt::of(&chat);
        assert_eq!((prompt.chars.chars(), prompt.bytes), (14, 16));
    }

    #[test]
    fn a_prompt_is_charged_by_its_factor_rounded_up_once() {
        // N23.
        let units = |text: &str, factor| {
            let mut chars = CharCount::default();
            chars.add(text);
            prompt_units(chars, factor).get()
        };
        assert_eq!(units("hello", 0.1), 1);
        assert_eq!(units(&"x".repeat(400), 0.1), 10);
        assert_eq!(units(&"x".repeat(401), 0.1), 11);
        assert_eq!(units("hello", 0.0), 0);
        assert_eq!(units("hello", 1.0), 2);
    }
}
