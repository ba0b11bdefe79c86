//! Code points beyond the first 65,536 stand in JSON as two escapes. A server that cuts its
//! text in between, as those do whose strings are UTF-16, sends one half in each of two
//! chunks, and neither is text by itself.

use std::borrow::Cow;

/// Puts halves together.
#[derive(Debug, Default)]
pub(super) struct Halves {
    /// The escape that ended a text, until its other half begins the next one.
    first: Option<String>,
}

/// What an escape stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// The first half of a code point.
    First,
    /// The second half.
    Second,
    /// All else.
    Whole,
}

/// Length of `\uXXXX`.
const UNIT: usize = 6;

// === impl Halves ===

impl Halves {
    /// JSON in which no code point is cut: a first half at a text's end waits for the second
    /// at the begin of the next, and one that stands alone is replaced.
    pub(super) fn join<'a>(&mut self, json: &'a str) -> Cow<'a, str> {
        if !(json.contains("\\ud") || json.contains("\\uD")) {
            return Cow::Borrowed(json);
        }
        let mut joined = String::with_capacity(json.len() + UNIT);
        let mut rest = json;
        while let Some((before, at)) = rest.find('\\').map(|at| rest.split_at(at)) {
            joined.push_str(before);
            let (escape, behind) = split(at);
            rest = behind;
            match kind(escape) {
                Escape::Whole => joined.push_str(escape),
                Escape::First if kind(split(rest).0) == Escape::Second => {
                    let (second, behind) = split(rest);
                    joined.push_str(escape);
                    joined.push_str(second);
                    rest = behind;
                }
                Escape::First if rest.starts_with('"') => self.first = Some(escape.to_owned()),
                Escape::Second if opens(&joined) && self.first.is_some() => {
                    joined.extend(self.first.take());
                    joined.push_str(escape);
                }
                Escape::First | Escape::Second => joined.push('\u{fffd}'),
            }
        }
        joined.push_str(rest);
        Cow::Owned(joined)
    }
}

/// The escape at the begin of a text, and what is behind it.
fn split(text: &str) -> (&str, &str) {
    let length = if text.starts_with("\\u") { UNIT } else { 2 };
    // What is no JSON is found to be none later.
    text.split_at_checked(length).unwrap_or((text, ""))
}

fn kind(escape: &str) -> Escape {
    let digits = escape.strip_prefix("\\u");
    let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
    match unit {
        Some(0xd800..=0xdbff) => Escape::First,
        Some(0xdc00..=0xdfff) => Escape::Second,
        Some(_) | None => Escape::Whole,
    }
}

/// Whether a text begins here.
fn opens(json: &str) -> bool {
    json.ends_with('"') && !json.ends_with("\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_find_each_other_over_chunks() {
        let mut halves = Halves::default();
        let mut join = |json: &str| halves.join(json).into_owned();
        assert_eq!(join(r#"{"a":"x\ud83e"}"#), r#"{"a":"x"}"#);
        assert_eq!(join(r#"{"b":"no text yet"}"#), r#"{"b":"no text yet"}"#);
        assert_eq!(join(r#"{"a":"\uDD80y"}"#), r#"{"a":"\ud83e\uDD80y"}"#);
        // Whole ones stay, and what looks like one is text.
        for whole in [
            r#"{"a":"\ud83e\udd80 \u00e9 \\ud83e \n"}"#,
            r#"{"a":"\"#,
            "\\u",
        ] {
            assert_eq!(join(whole), whole);
        }
    }

    #[test]
    fn a_half_that_stands_alone_is_replaced() {
        let mut halves = Halves::default();
        let mut join = |json: &str| halves.join(json).into_owned();
        assert_eq!(
            join(r#"{"a":"\udd80x\ud83ey\""}"#),
            "{\"a\":\"\u{fffd}x\u{fffd}y\\\"\"}"
        );
        assert_eq!(
            join(r#"{"a":"\ud83e\ud83e\udd80"}"#),
            "{\"a\":\"\u{fffd}\\ud83e\\udd80\"}"
        );
    }
}
