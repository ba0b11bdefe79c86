//! Words for prompts: sentences that somebody could have written, or passages of a corpus.

use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Where the words of prompts come from.
#[derive(Clone, Debug, Default)]
pub struct Material(Option<Arc<[String]>>);

const ASKS: &[&str] = &[
    "How do I {verb} a {thing} {place}?",
    "Can you explain why the {thing} does not {verb} when the {thing} is {state}?",
    "Write a short {text} about a {thing} that is {state}.",
    "What is the difference between a {thing} and a {thing}?",
    "Please {verb} the {thing} below and tell me what is {state}.",
    "I have a {thing} {place} and want to {verb} it before {time}.",
    "Give me {number} reasons to {verb} a {thing} {place}.",
    "Summarise the {text} in {number} sentences.",
    "Which {thing} would you {verb} first, and why?",
    "Is it better to {verb} the {thing} {time} or to keep it {state}?",
    "List {number} ways to {verb} a {state} {thing}.",
    "Rewrite this {text} so that a beginner can follow it.",
];

const TELLS: &[&str] = &[
    "The {thing} {place} has been {state} since {time}.",
    "We tried to {verb} it {time}, but the {thing} stayed {state}.",
    "My {person} says that a {thing} must never be {state}.",
    "There are {number} of them {place}, and each has its own {thing}.",
    "It worked until the {thing} was {state}.",
    "After that the {person} asked us to {verb} the {thing} again.",
    "Everything else {place} looks {state} to me.",
    "The {text} mentions a {thing}, but not how to {verb} it.",
    "Usually the {thing} needs about {number} minutes.",
    "If the {thing} is {state}, the {person} has to {verb} it by hand.",
    "Nobody {place} knows when the {thing} was last {state}.",
    "In the end we want to {verb} every {thing} {time}.",
];

const ORDERS: &[&str] = &[
    "You are a helpful assistant.",
    "Answer in at most {number} sentences.",
    "If something is {state}, say so.",
    "The user works with a {thing} {place}.",
    "Be friendly and precise.",
    "Do not {verb} anything unless you are asked to.",
    "Explain each step as you would to a {person}.",
    "Write the {text} in plain words.",
];

const THINGS: &[&str] = &[
    "report",
    "server",
    "garden",
    "recipe",
    "contract",
    "script",
    "table",
    "printer",
    "bicycle",
    "database",
    "letter",
    "camera",
    "function",
    "window",
    "budget",
    "spreadsheet",
    "website",
    "battery",
    "novel",
    "kitchen",
    "schedule",
    "request",
    "lesson",
    "engine",
    "form",
    "backup",
    "picture",
    "folder",
    "invoice",
    "sensor",
    "bridge",
    "queue",
    "password",
    "map",
    "story",
    "test",
    "meeting",
    "loop",
    "container",
    "library",
];
const VERBS: &[&str] = &[
    "repair",
    "sort",
    "compare",
    "translate",
    "clean",
    "describe",
    "split",
    "test",
    "plan",
    "move",
    "rename",
    "check",
    "open",
    "improve",
    "measure",
    "paint",
    "merge",
    "copy",
    "review",
    "shorten",
    "print",
    "save",
    "build",
    "replace",
    "count",
    "cook",
    "draw",
    "explain",
];
const STATES: &[&str] = &[
    "empty",
    "broken",
    "too slow",
    "ready",
    "missing",
    "locked",
    "out of date",
    "finished",
    "expensive",
    "wet",
    "duplicated",
    "half full",
    "unclear",
    "wrong",
    "shared",
    "quiet",
    "crowded",
    "blue",
    "unsafe",
    "old",
];
const PLACES: &[&str] = &[
    "in the office",
    "at home",
    "on my laptop",
    "in Python",
    "in the second chapter",
    "on the roof",
    "in production",
    "at school",
    "near the river",
    "in a small town",
    "behind a firewall",
    "on a phone",
    "in the archive",
    "abroad",
    "in Excel",
    "in the basement",
];
const PEOPLE: &[&str] = &[
    "teacher",
    "colleague",
    "customer",
    "neighbour",
    "manager",
    "doctor",
    "child",
    "student",
    "friend",
    "reviewer",
    "driver",
    "guest",
];
const TEXTS: &[&str] = &[
    "poem",
    "summary",
    "email",
    "paragraph",
    "manual",
    "article",
    "review",
    "note",
    "speech",
    "announcement",
    "chapter",
    "comment",
];
const TIMES: &[&str] = &[
    "yesterday",
    "tomorrow",
    "last week",
    "this morning",
    "in winter",
    "before lunch",
    "every Monday",
    "next month",
    "at night",
    "in 2019",
    "after the update",
    "on Friday",
];
const NUMBERS: &[&str] = &[
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "ten",
    "12",
    "15",
    "20",
    "30",
    "a hundred",
];

/// Texts that clients let answers end with.
const STOPS: &[&str] = &[
    "\n\n",
    "###",
    "User:",
    "</s>",
    "END",
    "\n",
    "---",
    "Question:",
];

// === impl Material ===

impl Material {
    /// Passages of a corpus in place of the sentences that are built in. Without one that says
    /// anything, these stay.
    #[must_use]
    pub fn corpus(passages: Vec<String>) -> Self {
        let said = |passage: &String| !passage.trim().is_empty();
        let passages: Vec<_> = passages.into_iter().filter(said).collect();
        Self((!passages.is_empty()).then(|| passages.into()))
    }

    /// What a user says, of about so many code points.
    pub(super) fn question(&self, length: usize, draws: &mut StdRng) -> String {
        // The question may stand at the beginning or at the end of what is told.
        let first = draws.random_bool(0.5);
        self.text(length, draws, |rest| {
            let ask = if first { rest == length } else { rest < 100 };
            if ask { ASKS } else { TELLS }
        })
    }

    /// What a model said before.
    pub(super) fn answer(&self, length: usize, draws: &mut StdRng) -> String {
        self.text(length, draws, |_| TELLS)
    }

    /// What an application's author says.
    pub(super) fn instructions(&self, length: usize, draws: &mut StdRng) -> String {
        self.text(length, draws, |_| ORDERS)
    }

    /// A text that ends answers.
    #[expect(clippy::unused_self, reason = "a corpus may have its own")]
    pub(super) fn stop(&self, at: usize) -> String {
        STOPS[at % STOPS.len()].to_owned()
    }

    /// Sentences until the length is reached, cut behind a word.
    fn text<'a>(
        &self,
        length: usize,
        draws: &mut StdRng,
        kind: impl Fn(usize) -> &'a [&'a str],
    ) -> String {
        let mut text = String::with_capacity(length + 128);
        let mut chars = 0;
        while chars < length.max(1) {
            if !text.is_empty() {
                text.push(' ');
                chars += 1;
            }
            let next = match &self.0 {
                Some(passages) => passages[draws.random_range(0..passages.len())].clone(),
                None => {
                    let kinds = kind(length.saturating_sub(chars));
                    sentence(kinds[draws.random_range(0..kinds.len())], draws)
                }
            };
            chars += next.chars().count();
            text.push_str(&next);
        }
        cut(text, length.max(1))
    }
}

/// A sentence with its places filled.
fn sentence(template: &str, draws: &mut StdRng) -> String {
    let mut text = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').unwrap_or((after, ""));
        let words = match name {
            "thing" => THINGS,
            "verb" => VERBS,
            "state" => STATES,
            "place" => PLACES,
            "person" => PEOPLE,
            "text" => TEXTS,
            "time" => TIMES,
            _ => NUMBERS,
        };
        text.push_str(before);
        text.push_str(words[draws.random_range(0..words.len())]);
        rest = behind;
    }
    text.push_str(rest);
    text
}

/// At most so many code points, ending behind a word where one ends nearby; what was cut ends
/// as it began to.
fn cut(mut text: String, length: usize) -> String {
    const NEARBY: usize = 24;
    let Some((end, _)) = text.char_indices().nth(length) else {
        return text;
    };
    let word = text[..end]
        .rfind(' ')
        .filter(|at| end - at <= NEARBY && *at > 0);
    text.truncate(word.unwrap_or(end));
    text
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_text_has_about_its_length_repeats_by_its_seed_and_only_by_it() {
        let corpus = Material::corpus(vec![
            "One word.".into(),
            " ".into(),
            "Noch viele Wörter.".into(),
        ]);
        for material in [Material::default(), corpus] {
            for length in [1, 5, 40, 300, 9000] {
                let text = |seed| {
                    let mut draws = StdRng::seed_from_u64(seed);
                    material.question(length, &mut draws)
                };
                let found = text(7).chars().count();
                assert!(found <= length && found + 24 >= length, "{length}: {found}");
                assert_eq!(text(7), text(7));
                assert!(length < 40 || text(7) != text(8), "{}", text(7));
            }
        }
    }

    #[test]
    fn no_place_stays_unfilled() {
        let mut draws = StdRng::seed_from_u64(1);
        for template in [ASKS, TELLS, ORDERS].into_iter().flatten() {
            let text = sentence(template, &mut draws);
            assert!(!text.contains(['{', '}']) && !text.is_empty(), "{text}");
        }
    }
}
