//! Clients' requests as the recorded hour has them, and what a miner can measure of them.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::client::replay::trace::{self, Recorded};
use taugate::proto::v1;

use super::classifier::Example;
use super::{chat_of, length};
use crate::support::TASK;
use crate::support::miner::FakeMiner;

/// Clients.
pub(super) struct Traffic {
    draws: StdRng,
    texts: Vec<String>,
    hour: Vec<Recorded>,
}

/// Sentences of one hand, in two halves that share none. There are so many that a half is known
/// by nothing but the sentences themselves: words follow each other as in this project's pages.
pub(super) fn halves() -> (Vec<String>, Vec<String>) {
    const SENTENCES: usize = 8000;
    let pages = [
        include_str!("../../../README.md"),
        include_str!("../../../docs/ARCHITECTURE.md"),
        include_str!("../../../docs/TESTING.md"),
        include_str!("../../../CONTRIBUTING.md"),
    ];
    let words: Vec<&str> = pages
        .iter()
        .flat_map(|page| page.split_whitespace())
        .collect();
    let mut after: HashMap<&str, Vec<&str>> = HashMap::new();
    for pair in words.windows(2) {
        after.entry(pair[0]).or_default().push(pair[1]);
    }
    let mut draws = StdRng::seed_from_u64(11);
    let mut sentences = (0..SENTENCES).map(|_| {
        let mut sentence = Vec::new();
        let mut word = words[draws.random_range(0..words.len())];
        while sentence.len() < 24 && !(sentence.len() > 5 && word.ends_with('.')) {
            sentence.push(word);
            let next = after.get(word).filter(|next| !next.is_empty());
            word = next.map_or(words[0], |next| next[draws.random_range(0..next.len())]);
        }
        sentence.join(" ") + "."
    });
    let one = sentences.by_ref().take(SENTENCES / 2).collect();
    (one, sentences.collect())
}

// === impl Traffic ===

impl Traffic {
    pub(super) fn new(seed: u64, texts: Vec<String>) -> Self {
        Self {
            draws: StdRng::seed_from_u64(seed),
            texts,
            hour: trace::shipped().expect("the shipped hour"),
        }
    }

    /// The next request: a size of the hour (prompts an eighth as long, so that a test is
    /// quick), set as clients do.
    pub(super) fn next(&mut self) -> tonic::Request<v1::GenerateRequest> {
        let call = self.hour[self.draws.random_range(0..self.hour.len())];
        let chars = (call.context_tokens as usize / 2).clamp(20, 4000);
        let messages = match self.draws.random_range(0..4_u32) {
            0 => vec![
                self.say(v1::Role::System, 60),
                self.say(v1::Role::User, chars),
            ],
            1 => vec![
                self.say(v1::Role::User, chars / 2),
                self.say(v1::Role::Assistant, chars / 4),
                self.say(v1::Role::User, chars / 4),
            ],
            _ => vec![self.say(v1::Role::User, chars)],
        };
        let sampling = match self.draws.random_range(0..3_u32) {
            0 => None,
            1 => Some(v1::Sampling {
                temperature: Some([0.0, 0.3, 0.7, 1.0][self.draws.random_range(0..4)]),
                seed: Some(self.draws.random_range(0..1_000_000)),
                ..v1::Sampling::default()
            }),
            _ => Some(v1::Sampling {
                temperature: Some(0.7),
                top_p: Some(0.9),
                ..v1::Sampling::default()
            }),
        };
        let chat = v1::ChatPayload {
            messages,
            sampling,
            stop: vec!["\n\n".to_owned(); usize::from(self.draws.random_bool(0.1))],
            max_tokens: Some(call.generated_tokens.clamp(1, 512)),
            ..v1::ChatPayload::default()
        };
        let mut request = tonic::Request::new(v1::GenerateRequest {
            task: TASK.to_owned(),
            payload: Some(v1::generate_request::Payload::Chat(chat)),
            ..v1::GenerateRequest::default()
        });
        request.set_timeout(Duration::from_secs([30, 60][self.draws.random_range(0..2)]));
        request
    }

    fn say(&mut self, role: v1::Role, length: usize) -> v1::ChatMessage {
        let mut text = String::new();
        while text.len() < length {
            text.push_str(&self.texts[self.draws.random_range(0..self.texts.len())]);
            text.push(' ');
        }
        let end = text
            .char_indices()
            .nth(length)
            .map_or(text.len(), |(at, _)| at);
        let end = text[..end].rfind(' ').unwrap_or(end);
        text.truncate(end);
        let part = v1::content_part::Part::Text(text);
        v1::ChatMessage {
            role: role.into(),
            parts: vec![v1::ContentPart { part: Some(part) }],
            ..v1::ChatMessage::default()
        }
    }
}

/// What a miner saw from its request `from` on, measured, in the order in which it came; with
/// the time since the one before where that is `timed`.
pub(super) fn stream(
    miner: &FakeMiner,
    (from, timed): (usize, bool),
    is_check: impl Fn(&v1::MinerGenerateRequest) -> bool,
) -> Vec<Example> {
    let (seen, metadata, arrivals) = (miner.seen(), miner.metadata(), miner.arrivals());
    let places = from.max(1)..seen.len();
    let measured = places.map(|at| {
        let chat = chat_of(&seen[at]);
        let gap = arrivals[at] - arrivals[at - 1];
        let timeout = metadata[at].get("grpc-timeout").expect("a time");
        let timeout = timeout.to_str().expect("text");
        let (digits, unit) = timeout.split_at(timeout.len() - 1);
        let told: f64 = digits.parse().expect("digits");
        let told = told * f64::from(u8::from(unit == "m")) / 1e3
            + told * f64::from(u8::from(unit == "u")) / 1e6;
        let sampling = chat.sampling.unwrap_or_default();
        let text: String = chat
            .messages
            .iter()
            .flat_map(|message| &message.parts)
            .map(|part| match &part.part {
                Some(v1::content_part::Part::Text(text)) => text.as_str(),
                _ => "",
            })
            .collect();
        let of = |which: fn(char) -> bool| {
            let many = text.chars().filter(|letter| which(*letter)).count();
            number(many) / number(text.chars().count().max(1))
        };
        let chars: usize = chat.messages.iter().map(length).sum();
        Example {
            is_check: is_check(&seen[at]),
            measures: vec![
                number(chars).ln_1p(),
                number(chat.messages.len()),
                f64::from(chat.max_tokens.unwrap_or(0)).ln_1p(),
                sampling.temperature.unwrap_or(-1.0),
                sampling.top_p.unwrap_or(-1.0),
                f64::from(u8::from(sampling.seed.is_some())),
                number(chat.stop.len()),
                told,
                ((told * 2e6).round() / 1e6).fract(),
                if timed { gap.as_secs_f64() } else { 0.0 },
                of(char::is_uppercase),
                of(char::is_whitespace),
                of(|letter| letter.is_ascii_punctuation()),
                of(char::is_numeric),
                f64::from(u8::from(text.ends_with(['.', '?', ';']))),
            ],
        }
    });
    measured.collect()
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("few"))
}
