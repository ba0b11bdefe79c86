//! Built-in checks of an answer, and answers for who judges better.
//!
//! They see the crudest faults only: an answer that is empty, garbled, of the wrong size, too
//! slow once it began, quicker than any model writes, or the same as one to another question.
//! Whether a sound text answers its question, an outside checker says, which reads the answers
//! that are kept here for a while.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use taugate_ledger::receipt::{Finish, Outcome};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::finding::{BUILT_IN, Finding, FindingStore};
use crate::call::witness::{Seen, SeenAttempt, Witness};
use crate::clock::SharedClock;
use crate::proto::v1;
use crate::report::wire;
use crate::task::Task;

/// Answers that are remembered, to know one that comes again.
const KNOWN_MAX: usize = 4096;

/// A shorter answer may well be given twice ("Yes.").
const TELLING_CHARS: usize = 64;

/// No model writes an answer of this many units at a higher rate, its prefill included.
const UNITS_A_SECOND_MAX: f64 = 5000.0;

/// A shorter answer says nothing of a rate.
const TELLING_UNITS: f64 = 200.0;

/// Answers that wait for outside checkers, at most.
const KEPT_MAX: usize = 512;

/// Bytes of them, at most.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long they wait.
const KEPT_FOR_MS: u64 = 10 * 60 * 1000;

/// Findings that wait for the store; more are left out.
const WAITING_MAX: usize = 4096;

/// Between two tries of a store that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Judges answers, and keeps them for others for a while.
#[derive(Debug)]
pub struct Judge {
    clock: SharedClock,
    store: Arc<dyn FindingStore>,
    known: Mutex<Known>,
    kept: Mutex<Kept>,
    news: broadcast::Sender<Arc<v1::Answer>>,
    findings: mpsc::Sender<Finding>,
    /// Taken by who writes them.
    waiting: Mutex<Option<mpsc::Receiver<Finding>>>,
}

/// Digests of the newest answers.
#[derive(Debug, Default)]
struct Known {
    digests: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

/// The newest answers.
#[derive(Debug, Default)]
struct Kept {
    answers: VecDeque<(u64, Arc<v1::Answer>)>,
    bytes: usize,
}

/// What is known of an answer beside its text.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The task.
    pub task: &'a Task,
    /// The most tokens that were asked for.
    pub max_tokens: Option<u32>,
    /// The attempt that brought it.
    pub attempt: &'a SeenAttempt,
    /// Units of the answer, without the prompt's.
    pub output: f64,
    /// Whether the same text answered another question.
    pub known: bool,
}

// === impl Judge ===

impl Judge {
    /// A judge that keeps its findings there.
    #[must_use]
    pub fn new(store: Arc<dyn FindingStore>, clock: SharedClock) -> Self {
        let (findings, waiting) = mpsc::channel(WAITING_MAX);
        Self {
            clock,
            store,
            known: Mutex::default(),
            kept: Mutex::default(),
            news: broadcast::channel(KEPT_MAX).0,
            findings,
            waiting: Mutex::new(Some(waiting)),
        }
    }

    /// Sees a request's answer. Of a client's request, only where its key allows it.
    #[must_use]
    pub fn witness(self: &Arc<Self>, request: v1::GenerateRequest) -> Witness {
        let judge = Arc::clone(self);
        Witness::new(move |seen| judge.answered(seen, request))
    }

    /// Judges a whole answer and keeps it for outside checkers; another is no answer.
    pub fn answered(&self, seen: Seen, request: v1::GenerateRequest) {
        let Some(attempt) = seen.attempt.as_ref() else {
            return;
        };
        if seen.finish != Finish::Attempt(Outcome::Good) {
            return;
        }
        let now_ms = self.clock.unix_ms();
        let max_tokens = match &request.payload {
            Some(v1::generate_request::Payload::Chat(chat)) => chat.max_tokens,
            _ => None,
        };
        let quality = quality(
            &seen.response,
            &Circumstances {
                task: &seen.task,
                max_tokens,
                attempt,
                output: attempt.units.saturating_sub(seen.prompt_units).as_f64(),
                known: self.known.lock().note(&seen.response),
            },
        );
        let finding = Finding {
            id: seen.id,
            checker: Arc::from(BUILT_IN),
            cell: attempt.cell,
            quality,
            units: attempt.units,
            duration: attempt.duration,
            at_ms: now_ms,
        };
        if self.findings.try_send(finding).is_err() {
            tracing::warn!("a finding is left out: too many wait for the store");
        }
        let answer = Arc::new(v1::Answer {
            request_id: seen.id.to_string(),
            miner: attempt.hotkey.to_string(),
            request: Some(request),
            first_chunk: attempt
                .first_chunk
                .and_then(|first| prost_types::Duration::try_from(first).ok()),
            duration: prost_types::Duration::try_from(attempt.duration).ok(),
            origin: wire::origin(seen.origin).into(),
            response: Some(seen.response),
        });
        self.kept.lock().put(now_ms, Arc::clone(&answer));
        // Nobody listens, most of the time.
        drop(self.news.send(answer));
    }

    /// The answers that are kept, and those that come from now on.
    #[must_use]
    pub fn answers(&self) -> (Vec<Arc<v1::Answer>>, broadcast::Receiver<Arc<v1::Answer>>) {
        // Listened to first: an answer in both is better than one in neither.
        let news = self.news.subscribe();
        let kept = self.kept.lock().fresh(self.clock.unix_ms());
        (kept, news)
    }

    /// Writes findings to the store until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(mut waiting) = self.waiting.lock().take() else {
            return;
        };
        let mut batch = Vec::new();
        while stop
            .run_until_cancelled(waiting.recv_many(&mut batch, 256))
            .await
            .is_some_and(|many| many > 0)
        {
            while self.store.put_findings(batch.clone()).await.is_err() {
                if stop
                    .run_until_cancelled(tokio::time::sleep(PAUSE))
                    .await
                    .is_none()
                {
                    return;
                }
            }
            batch.clear();
        }
    }
}

// === impl Known ===

impl Known {
    /// Whether the text was an answer before; every question is another one.
    fn note(&mut self, response: &v1::GenerateResponse) -> bool {
        let mut digest = Sha256::new();
        let mut chars = 0_usize;
        for choice in &response.choices {
            for word in choice.content.split_whitespace() {
                chars = chars.saturating_add(word.chars().count());
                digest.update(word);
                digest.update([0]);
            }
        }
        if chars < TELLING_CHARS {
            return false;
        }
        let digest: [u8; 32] = digest.finalize().into();
        if !self.digests.insert(digest) {
            return true;
        }
        self.order.push_back(digest);
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
        false
    }
}

// === impl Kept ===

impl Kept {
    fn put(&mut self, now_ms: u64, answer: Arc<v1::Answer>) {
        self.bytes = self.bytes.saturating_add(answer.encoded_len());
        self.answers.push_back((now_ms, answer));
        self.forget(now_ms);
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((at_ms, oldest)) = self.answers.front() {
            let old = at_ms.saturating_add(KEPT_FOR_MS) < now_ms;
            if !old && self.answers.len() <= KEPT_MAX && self.bytes <= KEPT_BYTES_MAX {
                return;
            }
            self.bytes = self.bytes.saturating_sub(oldest.encoded_len());
            self.answers.pop_front();
        }
    }

    fn fresh(&mut self, now_ms: u64) -> Vec<Arc<v1::Answer>> {
        self.forget(now_ms);
        let answers = self.answers.iter();
        answers.map(|(_, answer)| Arc::clone(answer)).collect()
    }
}

/// The quality of a whole answer, 0 to 1, as far as the crudest faults tell: the least of what
/// each look finds.
#[must_use]
pub fn quality(response: &v1::GenerateResponse, of: &Circumstances<'_>) -> f64 {
    if of.known || response.choices.is_empty() {
        return 0.0;
    }
    let choices = response.choices.iter();
    let worst = choices
        .map(|choice| soundness(choice).min(size(choice, of.max_tokens)))
        .fold(1.0, f64::min);
    worst.min(pace(of))
}

/// Whether a text can be one: some words, no replacement characters, no loop.
fn soundness(choice: &v1::Choice) -> f64 {
    let texts = [&choice.content, &choice.reasoning, &choice.refusal];
    let calls = !choice.tool_calls.is_empty();
    if texts.iter().all(|text| text.trim().is_empty()) {
        return if calls { 1.0 } else { 0.0 };
    }
    let (mut chars, mut broken) = (0.0, 0.0);
    for letter in texts.iter().flat_map(|text| text.chars()) {
        chars += 1.0;
        let control = letter.is_control() && !letter.is_whitespace();
        broken += if control || letter == char::REPLACEMENT_CHARACTER {
            1.0
        } else {
            0.0
        };
    }
    // A cut code point may be a tokenizer's; one in ten letters is noise.
    let readable: f64 = 1.0 - 10.0 * broken / chars;
    readable.clamp(0.0, 1.0).min(variety(&choice.content))
}

/// How much of a long text is not the same few words again and again: 1 from a fifth on.
fn variety(text: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let triples: Vec<&[&str]> = words.windows(3).collect();
    if triples.len() < 60 {
        return 1.0;
    }
    let different: HashSet<&[&str]> = triples.iter().copied().collect();
    let count = |many: usize| f64::from(u32::try_from(many).unwrap_or(u32::MAX));
    (5.0 * count(different.len()) / count(triples.len())).min(1.0)
}

/// An answer that was cut at its limit of tokens has at least a letter each.
fn size(choice: &v1::Choice, max_tokens: Option<u32>) -> f64 {
    let texts = [&choice.content, &choice.reasoning, &choice.refusal];
    let calls = choice.tool_calls.iter().map(|call| &call.arguments);
    let chars: usize = texts
        .into_iter()
        .chain(calls)
        .map(|text| text.chars().count())
        .sum();
    let cut = choice.finish_reason() == v1::FinishReason::Length;
    let tokens = max_tokens.and_then(|tokens| usize::try_from(tokens).ok());
    if cut && tokens.is_some_and(|tokens| chars < tokens) {
        0.0
    } else {
        1.0
    }
}

/// Too slow once it began, or too quick to have been written for this request.
fn pace(of: &Circumstances<'_>) -> f64 {
    let all = of.attempt.duration.as_secs_f64();
    if of.output >= TELLING_UNITS && of.output > all * UNITS_A_SECOND_MAX {
        return 0.0;
    }
    let first = of.attempt.first_chunk.unwrap_or_default().as_secs_f64();
    let slowest = of.task.limits.slowest_unit.as_secs_f64();
    if of.output < 1.0 || slowest <= 0.0 {
        return 1.0;
    }
    // Below half of the slowest rate that is let pass nothing is lost; at it, all is.
    let unit = (all - first).max(0.0) / of.output;
    (2.0 - 2.0 * unit / slowest).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use taugate_ledger::ids::CellId;
    use taugate_ledger::units::Units;

    use super::*;

    fn response(text: &str, finish: v1::FinishReason) -> v1::GenerateResponse {
        v1::GenerateResponse {
            choices: vec![v1::Choice {
                content: text.to_owned(),
                finish_reason: finish.into(),
                ..v1::Choice::default()
            }],
            ..v1::GenerateResponse::default()
        }
    }

    /// sound, doubtful or worthless.
    fn judged(
        text: &str,
        finish: v1::FinishReason,
        seconds: (f64, f64),
        known: bool,
    ) -> &'static str {
        let task = Task::open_chat("tiny".into());
        let attempt = SeenAttempt {
            cell: CellId(1),
            hotkey: "miner".into(),
            outcome: Outcome::Good,
            units: Units::new(10),
            first_chunk: Some(Duration::from_secs_f64(seconds.0)),
            duration: Duration::from_secs_f64(seconds.1),
        };
        let output = f64::from(u32::try_from(text.chars().count().div_ceil(4)).unwrap());
        let of = Circumstances {
            task: &task,
            max_tokens: Some(100),
            attempt: &attempt,
            output,
            known,
        };
        match quality(&response(text, finish), &of) {
            quality if quality > 0.999 => "sound",
            quality if quality < 0.001 => "worthless",
            _ => "doubtful",
        }
    }

    #[test]
    fn each_crude_fault_is_seen_and_a_sound_answer_is_not_faulted() {
        use v1::FinishReason::{Length, Stop};
        let sound = "The sea was calm, and a thin line of light ran over it to the far shore.";
        let long: String = (0..300).map(|n| format!("word{n} ")).collect();
        let usual = (0.5, 2.0);
        for text in [sound, &long, "Grüße, 世界! 🦀", "Yes."] {
            assert_eq!(judged(text, Stop, usual, false), "sound", "{text}");
        }
        assert_eq!(
            judged(sound, Stop, (200.0, 201.0), false),
            "sound",
            "prefill"
        );
        assert_eq!(judged(" \n", Stop, usual, false), "worthless", "empty");
        let garbled = "\u{fffd}\u{fffd}a\u{1}b\u{fffd}";
        assert_eq!(judged(garbled, Stop, usual, false), "worthless");
        let looped = "no no yes ".repeat(200);
        assert_eq!(judged(&looped, Stop, usual, false), "doubtful");
        assert_eq!(judged(sound, Length, usual, false), "worthless", "cut");
        assert_eq!(
            judged(sound, Stop, (0.5, 200.0), false),
            "worthless",
            "slow"
        );
        assert_eq!(judged(sound, Stop, (0.5, 80.0), false), "doubtful", "slow");
        assert_eq!(
            judged(&long, Stop, (0.0, 0.05), false),
            "worthless",
            "quick"
        );
        assert_eq!(judged(sound, Stop, usual, true), "worthless", "told before");
    }

    #[test]
    fn the_same_long_text_is_known_when_it_comes_again() {
        use v1::FinishReason::Stop;
        let mut known = Known::default();
        let text = "a word and another ".repeat(10);
        assert!(!known.note(&response(&text, Stop)));
        assert!(known.note(&response(&text.replace(' ', "\n"), Stop)));
        assert!(!known.note(&response("Yes.", Stop)));
        assert!(!known.note(&response("Yes.", Stop)));
        for number in 0..2 * KNOWN_MAX {
            assert!(!known.note(&response(&format!("{text}{number}"), Stop)));
        }
        assert_eq!(
            (known.digests.len(), known.order.len()),
            (KNOWN_MAX, KNOWN_MAX)
        );
        assert!(!known.note(&response(&text, Stop)), "long forgotten");
    }

    #[test]
    fn answers_are_kept_within_bounds_and_for_a_while() {
        let mut kept = Kept::default();
        let answer = |bytes: usize| {
            Arc::new(v1::Answer {
                request_id: "x".repeat(bytes),
                ..v1::Answer::default()
            })
        };
        for _ in 0..2 * KEPT_MAX {
            kept.put(0, answer(10));
        }
        assert_eq!(kept.fresh(0).len(), KEPT_MAX);
        kept.put(1, answer(KEPT_BYTES_MAX - 1000));
        assert!(kept.bytes <= KEPT_BYTES_MAX);
        assert!(kept.fresh(1).len() < KEPT_MAX);
        assert_eq!(kept.fresh(KEPT_FOR_MS + 1).len(), 1);
        assert_eq!(kept.fresh(KEPT_FOR_MS + 2).len(), 0);
        assert_eq!(kept.bytes, 0);
    }
}
