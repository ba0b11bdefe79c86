//! A simulated model: readable text at a set pace, with set faults. What it writes is made
//! up at the start of an answer and then played.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::model::{Events, Model, ModelError, ModelEvent};
use super::prose::{self, Answer};
use crate::proto::v1;
use crate::proto::v1::content_part::Part;

/// How a simulated model behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simulation {
    /// Pace of each choice, tokens a second; 0: at once.
    pub tokens_per_s: f64,
    /// How much the pause before a token varies, 0 to 1 of itself.
    pub jitter: f64,
    /// Pace of reading the prompt, tokens a second; 0: at once.
    pub prefill_tokens_per_s: f64,
    /// The pause before each answer.
    pub delay: Duration,
    /// Tokens that prompt and answer may have together; 0: any number. What could have more
    /// is refused.
    pub context_tokens: u32,
    /// Part of the answers that break off, 0 to 1.
    pub failure_rate: f64,
    /// Part of the answers that stand still and never end, 0 to 1.
    pub hang_rate: f64,
    /// Shortest and longest answer, tokens, where the request does not end it earlier.
    pub answer_tokens: (u32, u32),
    /// Seeds texts and faults; the same seed and order of requests give the same answers.
    pub seed: u64,
}

/// A model that makes up its answers.
#[derive(Debug)]
pub struct SimulatedModel {
    simulation: Simulation,
    answers: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    BreaksOff,
    StandsStill,
}

/// An answer being played: in each round every choice gets its next token.
struct Play {
    simulation: Simulation,
    rng: StdRng,
    answers: Vec<Answer>,
    logprobs: bool,
    prompt: u64,
    fault: Option<(usize, Fault)>,
    round: usize,
    choice: usize,
    due: Instant,
}

// === impl Simulation ===

impl Default for Simulation {
    fn default() -> Self {
        Self {
            tokens_per_s: 80.0,
            jitter: 0.2,
            prefill_tokens_per_s: 4000.0,
            delay: Duration::ZERO,
            context_tokens: 0,
            failure_rate: 0.0,
            hang_rate: 0.0,
            answer_tokens: (40, 300),
            seed: 0,
        }
    }
}

// === impl SimulatedModel ===

impl SimulatedModel {
    /// A model that behaves so.
    #[must_use]
    pub const fn new(simulation: Simulation) -> Self {
        Self {
            simulation,
            answers: AtomicU64::new(0),
        }
    }

    fn play(&self, payload: &v1::ChatPayload) -> Play {
        let simulation = self.simulation;
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let mut rng = StdRng::seed_from_u64(simulation.seed ^ number.rotate_left(32));
        let drawn = rng.random::<f64>();
        let fault = if drawn < simulation.failure_rate {
            Some(Fault::BreaksOff)
        } else if drawn < simulation.failure_rate + simulation.hang_rate {
            Some(Fault::StandsStill)
        } else {
            None
        };
        // A seed in the request repeats the text, not the faults.
        let seed = payload.sampling.as_ref().and_then(|given| given.seed);
        let mut words = seed.map_or_else(
            || StdRng::seed_from_u64(rng.random()),
            |seed| StdRng::seed_from_u64(seed.cast_unsigned()),
        );
        let (least, most) = simulation.answer_tokens;
        let most = most.max(least);
        let bound = payload.max_tokens.unwrap_or(most);
        let answers: Vec<_> = (0..payload.choices.unwrap_or(1))
            .map(|_| {
                let length = words.random_range(least..=most);
                prose::answer(&mut words, length, bound, &payload.stop)
            })
            .collect();
        let rounds = answers.iter().map(|answer| answer.tokens.len()).max();
        let fault = fault.map(|fault| (rng.random_range(0..=rounds.unwrap_or(0)), fault));
        let prompt = prompt_tokens(payload);
        let prefill = pause(prompt, simulation.prefill_tokens_per_s);
        Play {
            simulation,
            rng,
            answers,
            logprobs: payload.logprobs.unwrap_or(false),
            prompt,
            fault,
            round: 0,
            choice: 0,
            due: Instant::now() + simulation.delay + prefill,
        }
    }
}

impl Model for SimulatedModel {
    fn chat(&self, payload: v1::ChatPayload) -> Events {
        let context = u64::from(self.simulation.context_tokens);
        let asked = u64::from(payload.max_tokens.unwrap_or(1));
        if context > 0 && prompt_tokens(&payload).saturating_add(asked) > context {
            return stream::iter([Err(ModelError::Refused)]).boxed();
        }
        let play = self.play(&payload);
        stream::unfold(Some(play), |play| async {
            let mut play = play?;
            let event = play.next().await;
            let goes_on = matches!(event, Ok(ModelEvent::Delta(_)));
            Some((event, goes_on.then_some(play)))
        })
        .boxed()
    }
}

// === impl Play ===

impl Play {
    async fn next(&mut self) -> Result<ModelEvent, ModelError> {
        loop {
            if self.choice == 0 {
                self.begin_round().await?;
            }
            let Some(answer) = self.answers.get(self.choice) else {
                self.choice = 0;
                self.round += 1;
                continue;
            };
            let choice = self.choice;
            self.choice += 1;
            if let Some(token) = answer.tokens.get(self.round) {
                let token = token.clone();
                return Ok(ModelEvent::Delta(self.delta(choice, token)));
            }
            let longest = self.answers.iter().map(|answer| answer.tokens.len()).max();
            if self.round >= longest.unwrap_or(0) {
                return Ok(self.end());
            }
        }
    }

    /// Waits until the round is due. Instants are kept, not pauses, so that the timer's
    /// grain does not slow a fast model down.
    async fn begin_round(&mut self) -> Result<(), ModelError> {
        match self.fault {
            Some((round, Fault::BreaksOff)) if round == self.round => {
                return Err(ModelError::Broken);
            }
            Some((round, Fault::StandsStill)) if round == self.round => {
                std::future::pending::<()>().await;
            }
            Some(_) | None => {}
        }
        tokio::time::sleep_until(self.due).await;
        let jitter = self.simulation.jitter.clamp(0.0, 1.0);
        let stretch = self.rng.random_range(-1.0..=1.0_f64).mul_add(jitter, 1.0);
        self.due += pause(1, self.simulation.tokens_per_s).mul_f64(stretch.max(0.0));
        Ok(())
    }

    fn delta(&mut self, choice: usize, token: String) -> v1::Delta {
        let mut delta = v1::Delta {
            choice: u32::try_from(choice).unwrap_or(u32::MAX),
            ..v1::Delta::default()
        };
        if self.logprobs {
            delta.logprobs.push(v1::TokenLogprob {
                token: token.clone(),
                logprob: -self.rng.random_range(0.0..3.0_f64),
                raw: token.clone().into_bytes(),
                top: Vec::new(),
            });
        }
        delta.content = token;
        delta
    }

    fn end(&self) -> ModelEvent {
        let written: usize = self.answers.iter().map(|answer| answer.tokens.len()).sum();
        let choices = (0..)
            .zip(&self.answers)
            .map(|(choice, answer)| v1::ChoiceEnd {
                choice,
                finish_reason: answer.finish.into(),
            });
        ModelEvent::End {
            choices: choices.collect(),
            claimed: v1::ClaimedTokens {
                prompt: Some(self.prompt),
                completion: u64::try_from(written).ok(),
                ..v1::ClaimedTokens::default()
            },
        }
    }
}

/// How long so many tokens take.
fn pause(tokens: u64, per_s: f64) -> Duration {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    let pause = Duration::try_from_secs_f64(f64::from(tokens) / per_s);
    // No pace, or one that nobody waits for, is no pause.
    pause.unwrap_or_default().min(Duration::from_secs(3600))
}

/// About four code points a token.
fn prompt_tokens(payload: &v1::ChatPayload) -> u64 {
    let parts = payload.messages.iter().flat_map(|message| &message.parts);
    let chars: usize = parts
        .map(|part| match &part.part {
            Some(Part::Text(text)) => text.chars().count(),
            Some(Part::Image(_)) | None => 0,
        })
        .sum();
    u64::try_from(chars.div_ceil(4)).unwrap_or(u64::MAX)
}
