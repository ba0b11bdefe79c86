//! The outer form of clients' requests, the newest of each task, so that checks can look like
//! them: lengths and settings, never a word of what was said.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Admitted;
use crate::proto::v1;
use crate::proto::v1::miner_generate_request::Payload;
use crate::task::TaskId;

/// Shapes that are kept of each task.
const KEPT: usize = 512;

/// Once that many are kept, one more is taken at most this often: a busy task costs no more
/// than a quiet one.
const EACH: Duration = Duration::from_millis(10);

/// A longer conversation has no shape.
const MESSAGES_MAX: usize = 64;

/// The newest shapes of all tasks. Bounded by the tasks, which configuration bounds.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<HashMap<TaskId, Ring>>);

#[derive(Debug)]
struct Ring {
    shapes: Vec<Arc<Shape>>,
    /// Where the next one goes once all places are taken.
    next: usize,
    last: Instant,
}

/// The outer form of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Who speaks (as on the wire), and how many code points.
    pub messages: Vec<(i32, usize)>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// How tokens are drawn.
    pub sampling: Option<v1::Sampling>,
    /// How many texts end the answer.
    pub stops: usize,
    /// Whether, and with what, tokens come with their log probabilities.
    pub logprobs: (Option<bool>, Option<u32>),
    /// Independent answers.
    pub choices: Option<u32>,
    /// How much a reasoning model should think.
    pub reasoning_effort: Option<String>,
    /// The form of the answer.
    pub response_format: Option<v1::ResponseFormat>,
    /// The time that its client gave it.
    pub deadline: Duration,
    /// Which of the gateway's pools it went through.
    pub pool: u32,
}

// === impl Shapes ===

impl Shapes {
    /// Takes the shape of a client's request that goes through that pool.
    pub(super) fn note(&self, admitted: &Admitted, pool: u32) {
        // Whoever would wait for another call leaves its shape out.
        let Some(mut rings) = self.0.try_lock() else {
            return;
        };
        let now = Instant::now();
        let ring = rings
            .entry(Arc::clone(&admitted.task.id))
            .or_insert_with(|| Ring {
                shapes: Vec::new(),
                next: 0,
                last: now,
            });
        if ring.shapes.len() >= KEPT && now.saturating_duration_since(ring.last) < EACH {
            return;
        }
        if let Some(shape) = Shape::of(admitted, pool, now) {
            ring.last = now;
            ring.put(Arc::new(shape));
        }
    }

    /// One of a task's shapes; `draw` says which. `None` where fewer than `enough` are known.
    #[must_use]
    pub fn pick(&self, task: &str, draw: usize, enough: usize) -> Option<Arc<Shape>> {
        let rings = self.0.lock();
        let shapes = &rings.get(task)?.shapes;
        let known = shapes.len() >= enough.max(1);
        let picked = known.then(|| Arc::clone(&shapes[draw % shapes.len()]));
        drop(rings);
        picked
    }
}

// === impl Ring ===

impl Ring {
    fn put(&mut self, shape: Arc<Shape>) {
        if self.shapes.len() < KEPT {
            self.shapes.push(shape);
        } else {
            self.shapes[self.next] = shape;
            self.next = (self.next + 1) % KEPT;
        }
    }
}

// === impl Shape ===

impl Shape {
    /// `None` for a request with pictures, tools or a schema: what stands in these is its
    /// client's own, and a check cannot have the like.
    fn of(admitted: &Admitted, pool: u32, now: Instant) -> Option<Self> {
        let Payload::Chat(chat) = &admitted.payload else {
            return None;
        };
        let plain = chat.tools.is_empty()
            && chat.tool_choice.is_none()
            && chat.messages.len() <= MESSAGES_MAX
            && !chat.response_format.as_ref().is_some_and(has_schema);
        let messages = chat.messages.iter().map(length_of).filter(|_| plain);
        let messages: Vec<_> = messages.collect::<Option<_>>()?;
        (!messages.is_empty()).then(|| Self {
            messages,
            max_tokens: chat.max_tokens,
            sampling: chat.sampling,
            stops: chat.stop.len(),
            logprobs: (chat.logprobs, chat.top_logprobs),
            choices: chat.choices,
            reasoning_effort: chat.reasoning_effort.clone(),
            response_format: chat.response_format.clone(),
            deadline: given(admitted.deadline.saturating_duration_since(now)),
            pool,
        })
    }
}

/// The time that a client gave, from what is left of it now: a few milliseconds went by since.
fn given(rest: Duration) -> Duration {
    const STEP_US: u128 = 20_000;
    let steps = rest.as_micros().div_ceil(STEP_US);
    Duration::from_micros(u64::try_from(steps * STEP_US).unwrap_or(u64::MAX))
}

fn has_schema(format: &v1::ResponseFormat) -> bool {
    let schema = |format: &v1::response_format::Format| {
        matches!(format, v1::response_format::Format::JsonSchema(_))
    };
    format.format.as_ref().is_some_and(schema)
}

fn length_of(message: &v1::ChatMessage) -> Option<(i32, usize)> {
    let bare =
        message.name.is_empty() && message.tool_calls.is_empty() && message.tool_call_id.is_empty();
    match message.parts.as_slice() {
        [part] if bare => match &part.part {
            Some(v1::content_part::Part::Text(text)) => Some((message.role, text.chars().count())),
            Some(v1::content_part::Part::Image(_)) | None => None,
        },
        _ => None,
    }
}
