//! Measures of what is asked and delivered: code points, bytes, what is empty.

use prost::Message as _;

use super::Event;
use crate::proto::v1;

/// Code points of all that a model wrote in a delta: content, reasoning, refusal and
/// arguments of tools.
#[must_use]
pub fn code_points(delta: &v1::Delta) -> u64 {
    let texts = [&delta.content, &delta.reasoning, &delta.refusal];
    let arguments = delta.tool_calls.iter().map(|call| &call.arguments);
    let count: usize = texts
        .into_iter()
        .chain(arguments)
        .map(|text| text.chars().count())
        .sum();
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Whether a delta brings anything to a client.
#[must_use]
pub fn is_empty(delta: &v1::Delta) -> bool {
    delta.content.is_empty()
        && delta.reasoning.is_empty()
        && delta.refusal.is_empty()
        && delta.tool_calls.is_empty()
        && delta.logprobs.is_empty()
}

/// Whether a model wrote anything in a delta. The name of a tool that it calls without
/// arguments is something, although units count arguments alone.
#[must_use]
pub fn says_something(delta: &v1::Delta) -> bool {
    let called = |call: &v1::ToolCallFragment| !call.name.is_empty();
    code_points(delta) > 0 || delta.tool_calls.iter().any(called)
}

/// Whether a delta begins no answer: without a word and without the call of a tool, whose
/// name may follow its number. Log probabilities before the first word speak of no text.
#[must_use]
pub fn says_nothing_yet(delta: &v1::Delta) -> bool {
    code_points(delta) == 0 && delta.tool_calls.is_empty()
}

/// A text delta with the fields that are known and nothing else; `None` where a chat's
/// answer holds what is no text, or belongs to none of its choices.
#[must_use]
pub fn text_only(delta: v1::Delta, choices: u32) -> Option<v1::Delta> {
    let text = delta.image.is_none() && delta.embeddings.is_empty();
    (text && delta.choice < choices).then_some(delta)
}

/// Cuts a delta behind so many code points; log probabilities go, because they would speak
/// of text that is not there.
pub fn truncate(delta: &mut v1::Delta, mut code_points: u64) {
    let arguments = delta.tool_calls.iter_mut().map(|call| &mut call.arguments);
    let texts = [&mut delta.content, &mut delta.reasoning, &mut delta.refusal];
    for text in texts.into_iter().chain(arguments) {
        let keep = usize::try_from(code_points).unwrap_or(usize::MAX);
        if let Some((end, _)) = text.char_indices().nth(keep) {
            text.truncate(end);
        }
        let kept = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        code_points = code_points.saturating_sub(kept);
    }
    delta
        .tool_calls
        .retain(|call| !(call.arguments.is_empty() && call.name.is_empty()));
    delta.logprobs.clear();
}

/// What an event takes in a buffer, bytes.
#[must_use]
pub fn size_of(event: &Event) -> usize {
    // What a queued event costs beside its content.
    const OVERHEAD: usize = 64;
    let content = match event {
        Event::Delta(delta) => delta.encoded_len(),
        Event::Started(started) => started.encoded_len(),
        Event::Progress(_) | Event::Completed(_) => 0,
    };
    content.saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_falls_between_code_points_over_all_texts() {
        let mut delta = v1::Delta {
            content: "grüße".to_owned(),
            reasoning: "日本語".to_owned(),
            refusal: "no".to_owned(),
            ..v1::Delta::default()
        };
        assert_eq!(code_points(&delta), 10);
        truncate(&mut delta, 7);
        assert_eq!(
            (delta.content.as_str(), delta.reasoning.as_str()),
            ("grüße", "日本")
        );
        assert_eq!(delta.refusal, "");
        assert_eq!(code_points(&delta), 7);
    }
}
