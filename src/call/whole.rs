//! The fold of an answer's events: what a client that does not stream gets at once.

use super::Event;
use crate::proto::v1;

/// An answer, as far as it was heard.
#[derive(Debug, Default)]
pub struct Whole(v1::GenerateResponse);

// === impl Whole ===

impl Whole {
    /// Adds what was heard.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Progress(_) => {}
            Event::Started(started) => {
                self.0.request_id = started.request_id;
                self.0.miner = started.miner;
            }
            Event::Delta(delta) => self.delta(&delta),
            Event::Completed(completed) => {
                self.ends(completed.choices);
                self.0.usage = completed.usage;
                self.0.recorded = completed.recorded;
                self.0.capacity_left = completed.capacity_left;
            }
        }
    }

    /// Adds a piece of the answer.
    pub fn delta(&mut self, delta: &v1::Delta) {
        let choice = self.choice(delta.choice);
        choice.content.push_str(&delta.content);
        choice.reasoning.push_str(&delta.reasoning);
        choice.refusal.push_str(&delta.refusal);
        choice.logprobs.extend(delta.logprobs.iter().cloned());
        for fragment in &delta.tool_calls {
            // Bounded: an index beyond the calls that were opened opens the next one.
            let index = (fragment.index as usize).min(choice.tool_calls.len());
            if index == choice.tool_calls.len() {
                choice.tool_calls.push(v1::ToolCall::default());
            }
            let call = &mut choice.tool_calls[index];
            call.id.push_str(&fragment.id);
            call.name.push_str(&fragment.name);
            call.arguments.push_str(&fragment.arguments);
        }
    }

    /// Says how each choice ended.
    pub fn ends(&mut self, ends: impl IntoIterator<Item = v1::ChoiceEnd>) {
        for end in ends {
            self.choice(end.choice).finish_reason = end.finish_reason;
        }
        self.0.choices.sort_unstable_by_key(|choice| choice.choice);
    }

    /// All that was heard.
    #[must_use]
    pub fn into_response(self) -> v1::GenerateResponse {
        self.0
    }

    /// The choice of that number; the relay bounds the numbers.
    fn choice(&mut self, number: u32) -> &mut v1::Choice {
        let found = self
            .0
            .choices
            .iter()
            .position(|choice| choice.choice == number);
        let at = found.unwrap_or_else(|| {
            self.0.choices.push(v1::Choice {
                choice: number,
                ..v1::Choice::default()
            });
            self.0.choices.len() - 1
        });
        &mut self.0.choices[at]
    }
}
