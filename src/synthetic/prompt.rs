//! What a check asks: the form of a client's request, filled with other words.
//!
//! Three sources say what a request looks like, the first that knows enough counts: the shapes
//! of the newest requests of the task, lengths of receipts that an earlier start left, and the
//! recorded hour that is shipped. The words are drawn under a secret seed, so that no two
//! miners, validators or periods see the same ones, and nobody can foretell them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use super::Check;
use super::material::Material;
use crate::call::shapes::{Shape, Shapes};
use crate::identity::StoreAway;
use crate::proto::v1;
use crate::task::{Task, TaskId};

/// Shapes of a task's requests that say enough of them.
const ENOUGH: usize = 32;

/// Receipts that are looked at for lengths.
const LENGTHS_MAX: usize = 512;

/// Tokens of prompts in the recorded hour, at 0, 1/32, ... 1 of its calls in order of length
/// (`data/README.md`; it is what `taugate demo` and `taugate replay` send).
const PROMPT_TOKENS: [u32; 33] = [
    3, 51, 90, 137, 185, 246, 348, 462, 578, 700, 825, 915, 1016, 1093, 1196, 1342, 1469, 1605,
    1734, 1885, 2048, 2195, 2371, 2539, 2745, 2982, 3330, 3775, 4434, 5510, 6499, 7435, 7437,
];

/// Tokens of answers in it, likewise. They do not follow the prompts' (correlation 0.001), so
/// that both are drawn by themselves.
const ANSWER_TOKENS: [u32; 33] = [
    6, 6, 6, 7, 7, 8, 8, 9, 9, 9, 10, 10, 11, 11, 12, 12, 13, 14, 15, 15, 16, 18, 19, 21, 24, 27,
    31, 37, 46, 58, 77, 126, 1899,
];

/// The mean of these answers.
const ANSWER_MEAN: f64 = 27.9;

/// Code points of a token, about.
const TOKEN_CHARS: usize = 4;

/// What a receipt tells of a request's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Units that its prompt was charged.
    pub prompt: Units,
    /// Units of its answer.
    pub output: Units,
}

/// Reads how long clients' requests were.
pub trait LengthStore: Send + Sync + std::fmt::Debug {
    /// The newest organic calls of a task that delivered something, at most so many.
    fn lengths(&self, task: TaskId, max: usize) -> BoxFuture<'_, Result<Vec<Length>, StoreAway>>;
}

/// Makes prompts.
#[derive(Debug)]
pub struct Prompts {
    material: Material,
    /// Nobody else knows it.
    secret: [u8; 32],
    /// Numbers prompts.
    made: AtomicU64,
    store: Arc<dyn LengthStore>,
    /// What the store said of a task, asked once: shapes of this process replace it soon.
    lengths: Mutex<HashMap<TaskId, Arc<[Length]>>>,
}

/// A prompt, and how it is to be sent.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What is asked.
    pub chat: v1::ChatPayload,
    /// The time that it gets.
    pub deadline: Duration,
    /// The pool whose requests it is like; `None`: any.
    pub pool: Option<u32>,
}

// === impl Prompts ===

impl Prompts {
    /// Prompts of that material under a secret seed.
    #[must_use]
    pub fn new(material: Material, secret: [u8; 32], store: Arc<dyn LengthStore>) -> Self {
        Self {
            material,
            secret,
            made: AtomicU64::new(0),
            store,
            lengths: Mutex::default(),
        }
    }

    /// A prompt for a check in a period.
    pub async fn make(&self, check: &Check, period: Period, shapes: &Shapes) -> Prompt {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut seed = Sha256::new();
        seed.update(self.secret);
        for part in [check.hotkey.as_bytes(), check.task.id.as_bytes()] {
            seed.update(part.len().to_le_bytes());
            seed.update(part);
        }
        seed.update(period.start_s().to_le_bytes());
        seed.update(number.to_le_bytes());
        let mut draws = StdRng::from_seed(seed.finalize().into());
        let (pick, task) = (draws.random_range(0..usize::MAX), &check.task);
        let shape = match shapes.pick(&task.id, pick, ENOUGH) {
            _ if check.burst => of_a_burst(task, check.units, &mut draws),
            Some(shape) => Shape::clone(&shape),
            None => match self.length(&task.id, pick).await {
                Some(length) => of_length(task, length, &mut draws),
                None => of_the_recorded_hour(task, check.units, &mut draws),
            },
        };
        Prompt {
            pool: (shape.pool != ANY_POOL).then_some(shape.pool),
            deadline: shape.deadline.min(task.limits.total),
            chat: self.fill(shape, task, &mut draws),
        }
    }

    async fn length(&self, task: &TaskId, pick: usize) -> Option<Length> {
        let known = self.lengths.lock().get(task).map(Arc::clone);
        let lengths = match known {
            Some(known) => known,
            None => {
                let read = self.store.lengths(Arc::clone(task), LENGTHS_MAX).await;
                let read: Arc<[Length]> = read.ok()?.into();
                self.lengths
                    .lock()
                    .insert(Arc::clone(task), Arc::clone(&read));
                read
            }
        };
        let place = pick.checked_rem(lengths.len())?;
        (lengths.len() >= ENOUGH).then(|| lengths[place])
    }

    /// Words for a shape.
    fn fill(&self, shape: Shape, task: &Task, draws: &mut StdRng) -> v1::ChatPayload {
        let messages = shape.messages.iter().map(|(role, length)| {
            let length = near(*length, draws);
            let text = match v1::Role::try_from(*role).unwrap_or_default() {
                v1::Role::System | v1::Role::Developer => self.material.instructions(length, draws),
                v1::Role::Assistant => self.material.answer(length, draws),
                v1::Role::User | v1::Role::Tool | v1::Role::Unspecified => {
                    self.material.question(length, draws)
                }
            };
            message(*role, text)
        });
        let messages = messages.collect();
        let largest = u32::try_from(task.largest_request).unwrap_or(u32::MAX);
        let mut sampling = shape.sampling;
        if let Some(seed) = sampling
            .as_mut()
            .and_then(|sampling| sampling.seed.as_mut())
        {
            *seed = draws.random_range(0..i64::from(i32::MAX));
        }
        v1::ChatPayload {
            messages,
            max_tokens: shape
                .max_tokens
                .map(|tokens| tokens.clamp(1, largest.max(1))),
            sampling,
            stop: (0..shape.stops).map(|at| self.material.stop(at)).collect(),
            logprobs: shape.logprobs.0,
            top_logprobs: shape.logprobs.1,
            choices: shape.choices,
            reasoning_effort: shape.reasoning_effort,
            response_format: shape.response_format,
            ..v1::ChatPayload::default()
        }
    }
}

/// Tokens of a question in a burst: what is to be shown is how much a miner writes.
const BURST_PROMPT: usize = 40;

/// Stands for no pool.
const ANY_POOL: u32 = u32::MAX;

/// A length beside the one that was seen: nobody says the same thing twice.
fn near(length: usize, draws: &mut StdRng) -> usize {
    let spread = length / 32;
    length - spread + draws.random_range(0..=spread * 2)
}

fn message(role: i32, text: String) -> v1::ChatMessage {
    let part = v1::content_part::Part::Text(text);
    v1::ChatMessage {
        role,
        parts: vec![v1::ContentPart { part: Some(part) }],
        ..v1::ChatMessage::default()
    }
}

/// A request as long as a receipt says. Receipts know no limits of tokens: clients round up.
fn of_length(task: &Task, length: Length, draws: &mut StdRng) -> Shape {
    let chars = if task.prompt_factor > 0.0 {
        Units::new(4).scaled(length.prompt.as_f64() / task.prompt_factor)
    } else {
        Units::new(u64::from(quantile(&PROMPT_TOKENS, draws)) * TOKEN_CHARS as u64)
    };
    let limit = length.output.get().max(16).next_power_of_two();
    usual(
        task,
        usize::try_from(chars.get()).unwrap_or(0),
        limit,
        draws,
    )
}

/// A request as the recorded hour has them; its answer is bounded so that in the mean about
/// `units` are held.
fn of_the_recorded_hour(task: &Task, units: Units, draws: &mut StdRng) -> Shape {
    let prompt = quantile(&PROMPT_TOKENS, draws) as usize;
    let part = f64::from(quantile(&ANSWER_TOKENS, draws)) / ANSWER_MEAN;
    // The longest answers of that hour are sixty times the mean: those bound the tail.
    let limit = units.scaled(part.min(4.0) / task.reserve_factor.max(0.1));
    usual(task, prompt * TOKEN_CHARS, limit.get(), draws)
}

/// A request that holds `units`: an answer of that length, to a question that is short.
fn of_a_burst(task: &Task, units: Units, draws: &mut StdRng) -> Shape {
    let limit = units.scaled(task.reserve_factor.max(0.1).recip());
    usual(task, BURST_PROMPT * TOKEN_CHARS, limit.get(), draws)
}

fn usual(task: &Task, chars: usize, tokens: u64, draws: &mut StdRng) -> Shape {
    let tokens = tokens.clamp(1, task.largest_request.max(1));
    let context = match task.context_tokens {
        0 => usize::MAX,
        all => usize::try_from(all.saturating_sub(tokens)).unwrap_or(usize::MAX),
    };
    // A token has less than four code points in some texts.
    let chars = chars.min(context.saturating_mul(2)).max(8);
    Shape {
        messages: turns(chars, draws),
        max_tokens: u32::try_from(tokens).ok(),
        sampling: sampling(draws),
        stops: 0,
        logprobs: (None, None),
        choices: None,
        reasoning_effort: None,
        response_format: None,
        deadline: task.limits.default_deadline,
        pool: ANY_POOL,
    }
}

/// Most ask once, some with instructions, some go on with a conversation.
fn turns(chars: usize, draws: &mut StdRng) -> Vec<(i32, usize)> {
    let user = i32::from(v1::Role::User);
    let system = i32::from(v1::Role::System);
    let assistant = i32::from(v1::Role::Assistant);
    let (eighth, quarter) = ((chars / 8).max(1), (chars / 4).max(1));
    match draws.random_range(0..10_u32) {
        0..=5 => vec![(user, chars)],
        6..=7 => vec![(system, eighth), (user, chars - eighth.min(chars - 1))],
        _ => vec![(user, quarter), (assistant, quarter * 2), (user, quarter)],
    }
}

/// As clients set them: most do not.
fn sampling(draws: &mut StdRng) -> Option<v1::Sampling> {
    let temperature = [None, None, Some(0.0), Some(0.2), Some(0.7), Some(1.0)];
    let top_p = [None, None, None, Some(0.9), Some(0.95), Some(1.0)];
    let temperature = temperature[draws.random_range(0..temperature.len())];
    let top_p = top_p[draws.random_range(0..top_p.len())];
    (temperature.is_some() || top_p.is_some()).then(|| v1::Sampling {
        temperature,
        top_p,
        ..v1::Sampling::default()
    })
}

/// A value as a table of quantiles has them, between two of its places.
fn quantile(table: &[u32; 33], draws: &mut StdRng) -> u32 {
    let at = draws.random_range(0..table.len() - 1);
    let (low, high) = (table[at], table[at + 1]);
    draws.random_range(low..=high)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use taugate_ledger::ids::CellId;

    use super::*;
    use crate::call::StillDue;

    #[derive(Debug)]
    struct Receipts(Vec<Length>);

    impl LengthStore for Receipts {
        fn lengths(&self, _: TaskId, max: usize) -> BoxFuture<'_, Result<Vec<Length>, StoreAway>> {
            let lengths = self.0.iter().copied().take(max).collect();
            Box::pin(async move { Ok(lengths) })
        }
    }

    fn prompts(secret: u8, lengths: Vec<Length>) -> Prompts {
        Prompts::new(
            Material::default(),
            [secret; 32],
            Arc::new(Receipts(lengths)),
        )
    }

    fn check(miner: &str, units: u64) -> Check {
        Check {
            cell: CellId(1),
            hotkey: miner.into(),
            task: Arc::new(Task::open_chat("tiny".into())),
            units: Units::new(units),
            burst: false,
            due: StillDue::new(|_| true),
        }
    }

    fn texts(prompt: &Prompt) -> String {
        format!("{:?}", prompt.chat.messages)
    }

    #[tokio::test]
    async fn n35_checks_differ_by_miner_validator_and_period() {
        let shapes = Shapes::default();
        let mut seen = HashSet::new();
        let mut made = 0;
        // A validator's secret is drawn anew at each start: two that start at once have two.
        for secret in [1, 2] {
            let fresh = prompts(secret, Vec::new());
            for miner in ["one", "two"] {
                for period in [0, 3600] {
                    for _ in 0..50 {
                        let period = Period::starting_at(period);
                        let prompt = fresh.make(&check(miner, 300), period, &shapes).await;
                        seen.insert(texts(&prompt));
                        made += 1;
                    }
                }
            }
        }
        assert_eq!(seen.len(), made);
    }

    #[tokio::test]
    async fn the_same_seed_makes_the_same_prompt_and_it_depends_on_all_that_is_in_it() {
        let shapes = Shapes::default();
        let first = async |secret, miner: &str, period| {
            let period = Period::starting_at(period);
            let made = prompts(secret, Vec::new());
            texts(&made.make(&check(miner, 300), period, &shapes).await)
        };
        let one = first(1, "one", 0).await;
        assert_eq!(one, first(1, "one", 0).await);
        for other in [first(2, "one", 0), first(1, "two", 0), first(1, "one", 60)] {
            assert_ne!(one, other.await);
        }
    }

    #[tokio::test]
    async fn without_requests_of_clients_sizes_follow_the_recorded_hour_and_what_is_due() {
        let (shapes, made) = (Shapes::default(), prompts(1, Vec::new()));
        let (mut chars, mut tokens) = (Vec::new(), 0);
        for _ in 0..2000 {
            let period = Period::starting_at(0);
            let prompt = made.make(&check("one", 250), period, &shapes).await;
            let measured = crate::call::order::Prompt::of(&prompt.chat);
            chars.push(measured.chars.chars());
            tokens += u64::from(prompt.chat.max_tokens.unwrap());
        }
        chars.sort_unstable();
        let median = chars[1000] / 4;
        assert!((1200..1750).contains(&median), "{median}");
        // Bounded tails make it less than 250 / 1.25.
        assert!((100..=200).contains(&(tokens / 2000)), "{}", tokens / 2000);
    }

    #[tokio::test]
    async fn receipts_of_an_earlier_start_say_how_long_prompts_are() {
        let length = Length {
            prompt: Units::new(10),
            output: Units::new(100),
        };
        let (shapes, made) = (Shapes::default(), prompts(1, vec![length; ENOUGH]));
        for _ in 0..50 {
            let period = Period::starting_at(0);
            let prompt = made.make(&check("one", 300), period, &shapes).await;
            let chars = crate::call::order::Prompt::of(&prompt.chat).chars.chars();
            assert!((300..=420).contains(&chars), "{chars}");
            assert_eq!(prompt.chat.max_tokens, Some(128));
        }
    }
}
