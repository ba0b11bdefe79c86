//! Reads the chunks of a streamed chat completion: strict about what makes an answer whole,
//! lenient about everything else.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::model::{ModelError, ModelEvent};
use super::halves::Halves;
use crate::proto::v1;
use crate::proto::v1::FinishReason;

/// One chunk. Servers leave out, and set to null, whatever they do not have.
#[derive(Debug, Deserialize)]
struct Chunk {
    /// Some servers say `error` here, and nothing in `error`.
    object: Option<String>,
    choices: Option<Vec<Choice>>,
    /// A claim, of a shape that must not cost an answer.
    usage: Option<Box<RawValue>>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    index: Option<u32>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
    /// Extra, in a shape that differs between servers.
    logprobs: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<String>,
    /// As some servers call it,
    reasoning_content: Option<String>,
    /// and as others do; a few send both.
    reasoning: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Debug, Deserialize)]
struct ToolCall {
    index: Option<u32>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Debug, Default, Deserialize)]
struct Function {
    name: Option<String>,
    /// A text that holds JSON; some servers put the JSON itself there.
    arguments: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    content: Option<Vec<Logprob>>,
}

#[derive(Debug, Deserialize)]
struct Logprob {
    token: String,
    /// Null for what the model would never have written.
    logprob: Option<f64>,
    bytes: Option<Vec<u8>>,
    top_logprobs: Option<Vec<Self>>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

/// What has been seen of an answer.
#[derive(Debug)]
pub(super) struct Reader {
    choices: Vec<Seen>,
    claimed: v1::ClaimedTokens,
    halves: Halves,
}

/// What has been seen of a choice.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    begun: bool,
    finish: Option<FinishReason>,
}

// === impl Reader ===

impl Reader {
    /// Reads an answer of so many choices.
    pub(super) fn new(choices: u32) -> Self {
        Self {
            choices: (0..choices).map(|_| Seen::default()).collect(),
            claimed: v1::ClaimedTokens::default(),
            halves: Halves::default(),
        }
    }

    /// Whether every choice ended.
    pub(super) fn finished(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Reads the data of one event; the deltas that are in it.
    pub(super) fn read(&mut self, data: &str) -> Result<Vec<v1::Delta>, ModelError> {
        let data = self.halves.join(data);
        let chunk: Chunk = serde_json::from_str(&data).map_err(|_| ModelError::Broken)?;
        if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
            return Err(ModelError::Broken);
        }
        if let Some(usage) = read_or_none::<Usage>(chunk.usage.as_deref()) {
            // Some servers count along in every chunk; the last one holds.
            self.claimed = usage.into();
        }
        let mut deltas = Vec::new();
        for choice in chunk.choices.unwrap_or_default() {
            deltas.extend(self.choice(choice)?);
        }
        Ok(deltas)
    }

    fn choice(&mut self, choice: Choice) -> Result<Option<v1::Delta>, ModelError> {
        let index = choice.index.unwrap_or(0);
        let seen = usize::try_from(index).ok();
        let Some(seen) = seen.and_then(|at| self.choices.get_mut(at)) else {
            // More choices than were asked for are nobody's.
            return Ok(None);
        };
        let logprobs = choice.logprobs.as_deref();
        let delta = delta(index, choice.delta.unwrap_or_default(), logprobs);
        if let Some(reason) = choice
            .finish_reason
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            seen.finish = Some(finish(reason)?);
        }
        seen.begun |= delta.is_some();
        Ok(delta)
    }

    /// The end, once the server said that it is (`done`) or its stream was over.
    pub(super) fn end(&self, done: bool) -> Result<ModelEvent, ModelError> {
        let ends = (0..).zip(&self.choices).map(|(choice, seen)| {
            // `[DONE]` stands in for a reason that was left out, not for a choice that
            // never came.
            let assumed = Some(FinishReason::Stop).filter(|_| done && seen.begun);
            let finish = seen.finish.or(assumed).ok_or(ModelError::Broken)?;
            Ok(v1::ChoiceEnd {
                choice,
                finish_reason: finish.into(),
            })
        });
        Ok(ModelEvent::End {
            choices: ends.collect::<Result<_, ModelError>>()?,
            claimed: self.claimed,
        })
    }
}

/// What could be read of something that is not worth an answer.
fn read_or_none<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn finish(reason: &str) -> Result<FinishReason, ModelError> {
    match reason {
        "length" | "max_tokens" | "model_length" => Ok(FinishReason::Length),
        "tool_calls" | "tool_use" | "function_call" => Ok(FinishReason::ToolCalls),
        "content_filter" => Ok(FinishReason::ContentFilter),
        // What was cut short must not pass as whole.
        "abort"
        | "aborted"
        | "cancelled"
        | "canceled"
        | "error"
        | "timeout"
        | "insufficient_system_resource" => Err(ModelError::Broken),
        // `stop`, and the names that servers have for ways of being done.
        _ => Ok(FinishReason::Stop),
    }
}

/// `None` where there is nothing in it: opening chunks only name a role.
fn delta(choice: u32, delta: Delta, logprobs: Option<&RawValue>) -> Option<v1::Delta> {
    let reasoning = delta.reasoning_content.filter(|text| !text.is_empty());
    let calls = (0..).zip(delta.tool_calls.unwrap_or_default());
    let logprobs = read_or_none::<Logprobs>(logprobs).and_then(|logprobs| logprobs.content);
    let delta = v1::Delta {
        choice,
        content: delta.content.unwrap_or_default(),
        reasoning: reasoning.or(delta.reasoning).unwrap_or_default(),
        refusal: delta.refusal.unwrap_or_default(),
        tool_calls: calls.map(|(at, call)| fragment(at, call)).collect(),
        logprobs: logprobs
            .into_iter()
            .flatten()
            .filter_map(Logprob::told)
            .collect(),
        ..v1::Delta::default()
    };
    let empty = v1::Delta {
        choice,
        ..v1::Delta::default()
    };
    Some(delta).filter(|delta| *delta != empty)
}

fn fragment(at: u32, call: ToolCall) -> v1::ToolCallFragment {
    let function = call.function.unwrap_or_default();
    v1::ToolCallFragment {
        index: call.index.unwrap_or(at),
        id: call.id.unwrap_or_default(),
        name: function.name.unwrap_or_default(),
        arguments: function
            .arguments
            .map_or_else(String::new, |raw| text(&raw)),
    }
}

/// What a string says; of anything else, the JSON as it was written.
fn text(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
}

// === impl Logprob ===

impl Logprob {
    /// As clients read it; `None` where the server does not say the one thing that counts.
    fn told(self) -> Option<v1::TokenLogprob> {
        let top = self.top_logprobs.unwrap_or_default().into_iter();
        let top = top.filter_map(|top| {
            Some(v1::TopLogprob {
                token: top.token,
                logprob: top.logprob?,
                raw: top.bytes.unwrap_or_default(),
            })
        });
        Some(v1::TokenLogprob {
            top: top.collect(),
            token: self.token,
            logprob: self.logprob?,
            raw: self.bytes.unwrap_or_default(),
        })
    }
}

// === impl Usage ===

impl From<Usage> for v1::ClaimedTokens {
    fn from(usage: Usage) -> Self {
        let prompt = usage.prompt_tokens_details;
        let completion = usage.completion_tokens_details;
        Self {
            prompt: usage.prompt_tokens,
            completion: usage.completion_tokens,
            cached_prompt: prompt.and_then(|details| details.cached_tokens),
            reasoning: completion.and_then(|details| details.reasoning_tokens),
        }
    }
}
