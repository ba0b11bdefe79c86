//! The digest of an answer: what a miner says it sent and a gateway saw.

use sha2::{Digest as _, Sha256};

use crate::proto::v1;

/// Collects an answer's texts by choice. Whatever the chunking, the digest is the same.
#[derive(Clone, Debug)]
pub struct ChoiceDigests(Vec<Texts>);

#[derive(Clone, Debug, Default)]
struct Texts {
    content: Sha256Of,
    reasoning: String,
    refusal: String,
    arguments: Vec<String>,
}

/// The content comes first in the hash, so that it need not be kept.
#[derive(Clone, Debug, Default)]
struct Sha256Of(Sha256);

/// Calls of tools whose arguments are told apart; what comes beyond goes with the last.
const CALLS_MAX: usize = 128;

// === impl ChoiceDigests ===

impl ChoiceDigests {
    /// The digests of so many choices.
    #[must_use]
    pub fn new(choices: u32) -> Self {
        Self((0..choices).map(|_| Texts::default()).collect())
    }

    /// Adds a delta; one of an unknown choice is not counted.
    pub fn add(&mut self, delta: &v1::Delta) {
        let choice = usize::try_from(delta.choice)
            .ok()
            .and_then(|at| self.0.get_mut(at));
        let Some(texts) = choice else { return };
        texts.content.0.update(&delta.content);
        texts.reasoning.push_str(&delta.reasoning);
        texts.refusal.push_str(&delta.refusal);
        for call in &delta.tool_calls {
            let at = (call.index as usize).min(CALLS_MAX);
            if texts.arguments.len() <= at {
                texts.arguments.resize_with(at + 1, String::new);
            }
            texts.arguments[at].push_str(&call.arguments);
        }
    }

    /// The digests, by choice.
    #[must_use]
    pub fn finish(self) -> Vec<v1::ChoiceDigest> {
        let texts = self.0.into_iter().zip(0..);
        texts
            .map(|(texts, choice)| v1::ChoiceDigest {
                choice,
                sha256: texts.finish(),
            })
            .collect()
    }
}

// === impl Texts ===

impl Texts {
    fn finish(self) -> Vec<u8> {
        let mut sha256 = self.content.0;
        for text in [&self.reasoning, &self.refusal]
            .into_iter()
            .chain(&self.arguments)
        {
            sha256.update([0]);
            sha256.update(text);
        }
        sha256.finalize().to_vec()
    }
}

/// One digest over those of all choices; for receipts.
#[must_use]
pub fn whole(digests: &[v1::ChoiceDigest]) -> [u8; 32] {
    let mut sha256 = Sha256::new();
    for digest in digests {
        sha256.update(&digest.sha256);
    }
    sha256.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(content: &str, reasoning: &str) -> v1::Delta {
        v1::Delta {
            content: content.to_owned(),
            reasoning: reasoning.to_owned(),
            ..v1::Delta::default()
        }
    }

    #[test]
    fn chunking_changes_nothing_and_moving_text_does() {
        let digest = |deltas: &[v1::Delta]| {
            let mut digests = ChoiceDigests::new(1);
            deltas.iter().for_each(|delta| digests.add(delta));
            digests.finish()
        };
        let whole = digest(&[delta("ab", "cd")]);
        assert_eq!(
            whole,
            digest(&[delta("a", "c"), delta("", "d"), delta("b", "")])
        );
        assert_ne!(whole, digest(&[delta("abc", "d")]));
    }
}
