//! Readable text without meaning, token by token.

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::proto::v1::FinishReason;

/// Short words, so that a token is about the four code points that it is in other models.
const WORDS: &[&str] = &[
    "the", "sea", "was", "calm", "and", "a", "thin", "line", "of", "light", "ran", "over", "it",
    "to", "far", "shore", "we", "had", "left", "our", "boat", "in", "lee", "some", "old", "wall",
    "where", "grass", "grew", "tall", "no", "one", "came", "by", "that", "day", "but", "two",
    "birds", "sat", "on", "mast", "as", "if", "they", "knew", "wind", "would", "turn", "soon",
    "when", "rain", "fell", "all", "at", "once", "café", "lamps", "lit", "up", "town", "for", "us",
    "so", "i", "read", "my", "book", "aloud", "until", "he", "slept", "she", "made", "tea", "with",
    "mint", "from", "this", "small", "yard", "an", "hour", "more", "then", "dawn", "time", "is",
    "long", "here", "you", "can", "hear", "how", "each", "bell", "rings", "out", "not",
];

/// What one choice says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Never empty texts.
    pub(super) tokens: Vec<String>,
    /// Why it ends behind them.
    pub(super) finish: FinishReason,
}

/// An answer of `length` tokens, ended earlier by `bound` or by one of the `stop` texts,
/// which does not appear itself.
pub(super) fn answer(rng: &mut StdRng, length: u32, bound: u32, stop: &[String]) -> Answer {
    let finish = if length > bound {
        FinishReason::Length
    } else {
        FinishReason::Stop
    };
    let mut tokens = Vec::new();
    let mut opens = true;
    let mut rest = 0_u32;
    for _ in 0..length.min(bound) {
        if opens {
            rest = rng.random_range(5..=14);
        }
        let word = WORDS[rng.random_range(0..WORDS.len())];
        let mut token = if tokens.is_empty() {
            String::new()
        } else {
            " ".to_owned()
        };
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if opens => token.extend(first.to_uppercase()),
            first => token.extend(first),
        }
        token.push_str(letters.as_str());
        rest -= 1;
        opens = rest == 0;
        if opens {
            token.push('.');
        }
        tokens.push(token);
    }
    cut(tokens, finish, stop)
}

/// Ends the text before the first stop text in it.
fn cut(mut tokens: Vec<String>, finish: FinishReason, stop: &[String]) -> Answer {
    let text = tokens.concat();
    let stop = stop.iter().filter(|stop| !stop.is_empty());
    let Some(end) = stop.filter_map(|stop| text.find(stop.as_str())).min() else {
        return Answer { tokens, finish };
    };
    let mut left = end;
    for token in &mut tokens {
        token.truncate(left.min(token.len()));
        left -= token.len();
    }
    tokens.retain(|token| !token.is_empty());
    Answer {
        tokens,
        finish: FinishReason::Stop,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn an_answer_ends_at_its_bound_or_before_a_stop_text() {
        let answer = |length, bound, stop: &[&str]| {
            let stop: Vec<_> = stop.iter().map(|&stop| stop.to_owned()).collect();
            answer(&mut StdRng::seed_from_u64(7), length, bound, &stop)
        };
        let whole = answer(60, 100, &[]);
        assert_eq!((whole.tokens.len(), whole.finish), (60, FinishReason::Stop));
        let short = answer(60, 20, &[]);
        assert_eq!(short.finish, FinishReason::Length);
        assert_eq!(short.tokens, whole.tokens[..20]);

        let text = whole.tokens.concat();
        let (before, _) = text.split_once(". ").unwrap();
        let stopped = answer(60, 100, &[". ", "nowhere"]);
        assert_eq!(stopped.tokens.concat(), before);
        assert_eq!(stopped.finish, FinishReason::Stop);
    }
}
