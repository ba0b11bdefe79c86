//! Prompts of a given length: readable words without meaning.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Code points of a token, about, in most models.
const TOKEN_CHARS: usize = 4;

/// Common words, most of them one token in most models.
const WORDS: &[&str] = &[
    "read", "the", "file", "and", "list", "all", "of", "its", "lines", "in", "order", "then",
    "make", "a", "map", "from", "each", "name", "to", "how", "many", "times", "it", "was", "seen",
    "if", "there", "is", "none", "say", "so", "at", "once", "else", "sort", "them", "by", "size",
    "with", "the", "last", "one", "first", "keep", "this", "short", "test", "it", "for", "an",
    "empty", "input", "too", "what", "does", "that", "part", "do", "when", "two", "calls", "come",
    "at", "the", "same", "time", "show", "me", "why", "not", "just", "where",
];

/// A text of about so many tokens. The same seed gives the same text.
pub(super) fn prompt(seed: u64, tokens: u32) -> String {
    let chars = usize::try_from(tokens.max(1))
        .unwrap_or(usize::MAX)
        .saturating_mul(TOKEN_CHARS);
    let mut draws = StdRng::seed_from_u64(seed);
    let mut text = String::with_capacity(chars.saturating_add(16));
    let mut rest = 0_u32;
    while text.len() < chars {
        if !text.is_empty() {
            text.push(' ');
        }
        let word = WORDS[draws.random_range(0..WORDS.len())];
        if rest == 0 {
            rest = draws.random_range(6..=14);
            text.extend(word.chars().next().map(|first| first.to_ascii_uppercase()));
            text.push_str(word.get(1..).unwrap_or_default());
        } else {
            text.push_str(word);
        }
        rest -= 1;
        if rest == 0 {
            text.push('.');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_its_length_and_repeats_by_its_seed() {
        for tokens in [1, 10, 1469, 7437] {
            let text = prompt(7, tokens);
            let found = text.chars().count().div_ceil(4);
            assert!(found.abs_diff(tokens as usize) <= 3, "{tokens}: {found}");
            assert_eq!(text, prompt(7, tokens));
            assert_ne!(text, prompt(8, tokens));
        }
    }
}
