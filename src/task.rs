//! Tasks (a model and what it does) and the rules by which their work is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::units::Units;

use crate::proto::v1;

/// A task's id, such as `llama-3-8b`. Cheap to clone.
pub type TaskId = Arc<str>;

/// An id stands in every request and in labels.
pub const ID_BYTES_MAX: usize = 128;

/// Whether a text can be a task's id: letters, digits and `. _ - / : @ +`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let fits = |letter: char| {
        letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | '/' | ':' | '@' | '+')
    };
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.chars().all(fits)
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Continues conversations.
    Chat,
    /// Continues a text.
    Completion,
    /// Turns texts into vectors.
    Embeddings,
    /// Makes pictures from words.
    TextToImage,
    /// Changes a picture.
    ImageToImage,
    /// Repaints a part of a picture.
    Inpaint,
    /// Makes pictures of a given person.
    Avatar,
}

/// How work is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitRule {
    /// Unicode code points delivered / 4, rounded up once per call.
    CharsDiv4,
    /// Steps x images.
    Steps,
    /// One per input.
    Items,
}

/// A task as configuration (or, in development, a miner's declaration) defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The model's name as model servers know it; the id where none is given.
    pub model: Arc<str>,
    /// What it does.
    pub kind: TaskKind,
    /// How its work is counted.
    pub unit_rule: UnitRule,
    /// Its part of all scores, 0 to 1; all weights sum to 1.
    pub weight: f64,
    /// Its usual time, against which speed is held in scores; none: speed counts for nothing.
    pub usual: Option<UsualTime>,
    /// The most that counts per miner and period.
    pub cap: Units,
    /// The most that organic calls may spend of it per period, over all miners; `None`: no ceiling.
    pub ceiling: Option<Units>,
    /// Tokens that prompt and answer may have together; 0: not bounded.
    pub context_tokens: u64,
    /// `max_tokens` (or steps) of a request that names none.
    pub default_request: u64,
    /// The largest `max_tokens` (or steps).
    pub largest_request: u64,
    /// Units per token of `max_tokens` that are reserved at the start.
    pub reserve_factor: f64,
    /// A call may grow to this many times its token limit in units before it ends with LENGTH.
    pub growth_factor: f64,
    /// Units per unit of prompt (code points / 4) that the prompt is charged.
    pub prompt_factor: f64,
    /// About so many units are asked for by one check.
    pub check_units: Units,
    /// How long its stages may take.
    pub limits: TaskLimits,
}

/// How long answers to a task usually take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsualTime {
    /// Seconds that an answer takes before its first unit.
    pub overhead_s: f64,
    /// Seconds a unit.
    pub unit_s: f64,
    /// How fast slower answers lose: by `exp(-variance)` for each second a unit more.
    pub variance: f64,
}

/// How long the stages of a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLimits {
    /// To the first delta, without the part for the prompt.
    pub first_chunk: Duration,
    /// More of it for each KiB of prompt.
    pub first_chunk_per_kib: Duration,
    /// Between deltas.
    pub between_chunks: Duration,
    /// The whole call; also the largest deadline.
    pub total: Duration,
    /// The deadline of a request that names none.
    pub default_deadline: Duration,
    /// The least rate of an answer: a drip that stays below it over this long is a stall.
    /// At least one unit in this time.
    pub slowest_unit: Duration,
    /// The largest answer, bytes; more ends the call with LENGTH.
    pub answer_bytes_max: usize,
}

/// All tasks by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tasks(BTreeMap<TaskId, Arc<Task>>);

/// Counts the units of a text answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CharCount(u64);

// === impl TaskKind ===

impl TaskKind {
    /// As on the wire.
    #[must_use]
    pub const fn to_proto(self) -> v1::TaskKind {
        match self {
            Self::Chat => v1::TaskKind::Chat,
            Self::Completion => v1::TaskKind::Completion,
            Self::Embeddings => v1::TaskKind::Embeddings,
            Self::TextToImage => v1::TaskKind::TextToImage,
            Self::ImageToImage => v1::TaskKind::ImageToImage,
            Self::Inpaint => v1::TaskKind::Inpaint,
            Self::Avatar => v1::TaskKind::Avatar,
        }
    }

    /// From the wire; `None` where it was not said.
    #[must_use]
    pub const fn from_proto(kind: v1::TaskKind) -> Option<Self> {
        match kind {
            v1::TaskKind::Unspecified => None,
            v1::TaskKind::Chat => Some(Self::Chat),
            v1::TaskKind::Completion => Some(Self::Completion),
            v1::TaskKind::Embeddings => Some(Self::Embeddings),
            v1::TaskKind::TextToImage => Some(Self::TextToImage),
            v1::TaskKind::ImageToImage => Some(Self::ImageToImage),
            v1::TaskKind::Inpaint => Some(Self::Inpaint),
            v1::TaskKind::Avatar => Some(Self::Avatar),
        }
    }
}

// === impl UnitRule ===

impl UnitRule {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CharsDiv4 => "chars_div_4",
            Self::Steps => "steps",
            Self::Items => "items",
        }
    }
}

// === impl Task ===

impl Task {
    /// The chat task that a development gateway opens for a model that a miner declares:
    /// no weight, no cap to speak of, the usual limits.
    #[must_use]
    pub fn open_chat(id: TaskId) -> Self {
        Self {
            model: Arc::clone(&id),
            id,
            kind: TaskKind::Chat,
            unit_rule: UnitRule::CharsDiv4,
            weight: 0.0,
            usual: None,
            cap: Units::MAX,
            ceiling: None,
            context_tokens: 0,
            default_request: 512,
            largest_request: 8_192,
            reserve_factor: 1.25,
            growth_factor: 2.0,
            prompt_factor: 0.1,
            check_units: Units::new(300),
            limits: TaskLimits {
                first_chunk: Duration::from_secs(10),
                first_chunk_per_kib: Duration::from_millis(250),
                between_chunks: Duration::from_secs(15),
                total: Duration::from_secs(600),
                default_deadline: Duration::from_secs(300),
                slowest_unit: Duration::from_secs(5),
                answer_bytes_max: 4 * 1024 * 1024,
            },
        }
    }
}

// === impl Tasks ===

impl Tasks {
    /// The task of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Task>> {
        self.0.get(id)
    }

    /// All tasks, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.0.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Task> for Tasks {
    fn from_iter<I: IntoIterator<Item = Task>>(tasks: I) -> Self {
        Self(
            tasks
                .into_iter()
                .map(|task| (Arc::clone(&task.id), Arc::new(task)))
                .collect(),
        )
    }
}

// === impl CharCount ===

impl CharCount {
    /// Adds a text's Unicode code points.
    pub fn add(&mut self, text: &str) {
        let chars = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        self.0 = self.0.saturating_add(chars);
    }

    /// The code points so far.
    #[must_use]
    pub const fn chars(self) -> u64 {
        self.0
    }

    /// Their units: a fourth, rounded up once over all of them.
    #[must_use]
    pub const fn units(self) -> Units {
        Units::new(self.0.div_ceil(4))
    }
}
