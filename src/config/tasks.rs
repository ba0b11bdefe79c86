//! `[tasks.<id>]`: what is asked for, and how it counts.

use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::units::Units;
use toml::{Table, Value};

use crate::task::{
    ID_BYTES_MAX, Task, TaskId, TaskKind, TaskLimits, Tasks, UnitRule, UsualTime, is_id,
};

use super::fault::{Fault, Wrong};
use super::field::{Fields, Section};
use super::reader;
use super::slot::{Decimal, MaybeDecimal, MaybeWhole, Millis, Seconds, Text, Whole, Word};

/// More tasks than any network ever had, by a factor of ten.
const TASKS_MAX: usize = 512;

/// A task that stands alone has all the weight.
const WEIGHT: f64 = 1.0;

/// Vision 4.0's cap of a chat task: 160 tokens a second for an hour.
const TEXT_CAP: Units = Units::new(576_000);

/// Ten inputs a second for an hour.
const EMBEDDINGS_CAP: Units = Units::new(36_000);

/// Vision 4.0: one step a second for an hour.
const IMAGE_CAP: Units = Units::new(3_600);

/// Vision 4.0: repainting was a little quicker.
const INPAINT_CAP: Units = Units::new(4_000);

/// Vision 4.0: portraits were three times as slow.
const AVATAR_CAP: Units = Units::new(1_120);

/// A page of text.
const TEXT_REQUEST: u64 = 512;

/// What most models can write in one go.
const TEXT_REQUEST_MAX: u64 = 8_192;

/// One input, unless the request has more.
const EMBEDDINGS_REQUEST: u64 = 1;

/// A batch that a model server takes in one go.
const EMBEDDINGS_REQUEST_MAX: u64 = 256;

/// Where most pictures are done.
const IMAGE_REQUEST: u64 = 20;

/// More steps do not make them better.
const IMAGE_REQUEST_MAX: u64 = 50;

/// English and code give 1.11 to 1.17 units (characters / 4) a token; a little above that
/// makes extensions rare.
const TEXT_RESERVE_FACTOR: f64 = 1.25;

/// Characters per token vary by language: twice covers all that a token limit lets through.
const TEXT_GROWTH_FACTOR: f64 = 2.0;

/// Steps and items are known exactly.
const EXACT_FACTOR: f64 = 1.0;

/// Prefill costs a tenth of decoding, token for token.
const TEXT_PROMPT_FACTOR: f64 = 0.1;

/// A prompt for a picture costs next to nothing.
const OTHER_PROMPT_FACTOR: f64 = 0.0;

/// A paragraph or two: long enough to judge, and an eightieth of what is checked most often of
/// the largest text allotment.
const TEXT_CHECK: u64 = 300;

/// A miner that says nothing for ten seconds is not worth the wait.
const FIRST_CHUNK: Duration = Duration::from_secs(10);

/// A KiB is some 250 tokens; a modest machine reads a thousand a second.
const FIRST_CHUNK_PER_KIB: Duration = Duration::from_millis(250);

/// Even a busy machine writes a token in less.
const BETWEEN_CHUNKS: Duration = Duration::from_secs(15);

/// The largest text at fourteen tokens a second.
const TEXT_TOTAL: Duration = Duration::from_secs(600);

/// Two minutes for a picture; the slowest task of Vision 4.0 had 50 s.
const OTHER_TOTAL: Duration = Duration::from_secs(120);

/// Half of what may be asked for.
const TEXT_DEADLINE: Duration = Duration::from_secs(300);

/// Half of what may be asked for.
const OTHER_DEADLINE: Duration = Duration::from_secs(60);

/// A token in five seconds helps nobody.
const SLOWEST_UNIT: Duration = Duration::from_secs(5);

/// The largest text with log probabilities.
const TEXT_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Some pictures, or a batch of vectors.
const OTHER_ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A day: no call is longer.
const DURATION_S_MAX: u64 = 86_400;

/// The same in milliseconds.
const DURATION_MS_MAX: u64 = DURATION_S_MAX * 1000;

const KINDS: &[(&str, TaskKind)] = &[
    ("chat", TaskKind::Chat),
    ("completion", TaskKind::Completion),
    ("embeddings", TaskKind::Embeddings),
    ("text_to_image", TaskKind::TextToImage),
    ("image_to_image", TaskKind::ImageToImage),
    ("inpaint", TaskKind::Inpaint),
    ("avatar", TaskKind::Avatar),
];

const UNIT_RULES: &[(&str, UnitRule)] = &[
    ("chars_div_4", UnitRule::CharsDiv4),
    ("steps", UnitRule::Steps),
    ("items", UnitRule::Items),
];

/// The fields of one task.
pub(super) struct TaskSection<'a>(pub(super) &'a mut Task);

/// A task of that kind with every default: what a file that says no more than the kind means,
/// and what a declared model becomes where tasks are open.
#[must_use]
pub fn task_of(id: TaskId, kind: TaskKind) -> Task {
    let text = matches!(kind, TaskKind::Chat | TaskKind::Completion);
    let (cap, default_request, largest_request) = sizes_of(kind);
    let pick = |of_text, other| if text { of_text } else { other };
    Task {
        model: Arc::clone(&id),
        id,
        kind,
        unit_rule: unit_rules_of(kind)[0],
        weight: WEIGHT,
        usual: None,
        cap,
        ceiling: None,
        context_tokens: 0,
        default_request,
        largest_request,
        reserve_factor: pick(TEXT_RESERVE_FACTOR, EXACT_FACTOR),
        growth_factor: pick(TEXT_GROWTH_FACTOR, EXACT_FACTOR),
        prompt_factor: pick(TEXT_PROMPT_FACTOR, OTHER_PROMPT_FACTOR),
        check_units: Units::new(if text { TEXT_CHECK } else { default_request }),
        limits: limits_of(text),
    }
}

/// (cap, default request, largest request).
const fn sizes_of(kind: TaskKind) -> (Units, u64, u64) {
    match kind {
        TaskKind::Chat | TaskKind::Completion => (TEXT_CAP, TEXT_REQUEST, TEXT_REQUEST_MAX),
        TaskKind::Embeddings => (EMBEDDINGS_CAP, EMBEDDINGS_REQUEST, EMBEDDINGS_REQUEST_MAX),
        TaskKind::TextToImage | TaskKind::ImageToImage => {
            (IMAGE_CAP, IMAGE_REQUEST, IMAGE_REQUEST_MAX)
        }
        TaskKind::Inpaint => (INPAINT_CAP, IMAGE_REQUEST, IMAGE_REQUEST_MAX),
        TaskKind::Avatar => (AVATAR_CAP, IMAGE_REQUEST, IMAGE_REQUEST_MAX),
    }
}

const fn limits_of(text: bool) -> TaskLimits {
    TaskLimits {
        first_chunk: FIRST_CHUNK,
        first_chunk_per_kib: FIRST_CHUNK_PER_KIB,
        between_chunks: BETWEEN_CHUNKS,
        total: if text { TEXT_TOTAL } else { OTHER_TOTAL },
        default_deadline: if text { TEXT_DEADLINE } else { OTHER_DEADLINE },
        slowest_unit: SLOWEST_UNIT,
        answer_bytes_max: if text {
            TEXT_ANSWER_BYTES_MAX
        } else {
            OTHER_ANSWER_BYTES_MAX
        },
    }
}

/// By which rules a kind can be counted; the first is the default.
pub(super) const fn unit_rules_of(kind: TaskKind) -> &'static [UnitRule] {
    match kind {
        TaskKind::Chat | TaskKind::Completion => &[UnitRule::CharsDiv4],
        TaskKind::Embeddings => &[UnitRule::Items],
        TaskKind::TextToImage | TaskKind::ImageToImage | TaskKind::Inpaint | TaskKind::Avatar => {
            &[UnitRule::Steps, UnitRule::Items]
        }
    }
}

/// All kinds, in the order in which they are described.
pub(super) fn kinds() -> impl Iterator<Item = (&'static str, TaskKind)> {
    KINDS.iter().copied()
}

/// Reads `[tasks]`.
pub(super) fn read(value: &Value, faults: &mut Vec<Fault>) -> Tasks {
    let Some(table) = reader::table("tasks", value, faults) else {
        return Tasks::default();
    };
    if table.len() > TASKS_MAX {
        let wrong = Wrong::TooMany {
            found: table.len(),
            most: TASKS_MAX,
        };
        faults.push(Fault::new("tasks", wrong));
        return Tasks::default();
    }
    let weights = table.values().any(|task| task.get("weight").is_some());
    let equal = f64::from(u32::try_from(table.len()).unwrap_or(u32::MAX)).recip();
    let tasks = table.iter().filter_map(|(id, value)| {
        let task = read_one(id, value, faults)?;
        // Who says nothing of weights means none in particular.
        let weight = if weights { task.weight } else { equal };
        Some(Task { weight, ..task })
    });
    tasks.collect()
}

fn read_one(id: &str, value: &Value, faults: &mut Vec<Fault>) -> Option<Task> {
    let path = reader::under("tasks", id);
    if !is_id(id) {
        let found = Value::String(id.to_owned());
        let right = format!(
            "an id of 1 to {ID_BYTES_MAX} letters, digits and . _ - / : @ +, such as llama-3-8b"
        );
        faults.push(Fault::new(path, Wrong::value(&found, right)));
        return None;
    }
    let table = reader::table(&path, value, faults)?;
    let mut task = task_of(id.into(), kind_in(table));
    reader::read(&path, table, &mut TaskSection(&mut task), faults);
    Some(task)
}

/// The kind that a table names, whose defaults hold for the rest; a bad one is noted when the
/// field itself is read.
fn kind_in(table: &Table) -> TaskKind {
    let named = table.get("kind").and_then(Value::as_str);
    KINDS
        .iter()
        .find(|(word, _)| Some(*word) == named)
        .map_or(TaskKind::Chat, |(_, kind)| *kind)
}

// === impl TaskSection ===

impl Section for TaskSection<'_> {
    fn fields(&mut self, fields: &mut dyn Fields) {
        let task = &mut *self.0;
        fields.field(
            "kind",
            "What the task does: \"chat\", \"completion\", \"embeddings\", \"text_to_image\", \
             \"image_to_image\", \"inpaint\" or \"avatar\". The other defaults depend on it.",
            &mut Word(&mut task.kind, KINDS),
        );
        fields.field(
            "model",
            "The model's name as model servers know it; the task's id by default.",
            &mut Text(&mut task.model),
        );
        fields.field(
            "weight",
            "The task's part of all scores. The weights of all tasks sum to 1; where no task has one, \
             all are alike.",
            &mut Decimal(&mut task.weight, 0.0..=1.0),
        );
        usual(&mut task.usual, fields);
        amounts(task, fields);
        requests(task, fields);
        limits(&mut task.limits, fields);
    }
}

/// One place for each number; they are together or none.
fn usual(usual: &mut Option<UsualTime>, fields: &mut dyn Fields) {
    let mut overhead = usual.map(|usual| usual.overhead_s);
    let mut unit = usual.map(|usual| usual.unit_s);
    let mut variance = usual.map(|usual| usual.variance);
    fields.field(
        "usual_unit_s",
        "Seconds that a unit usually takes; quicker answers score more, slower ones less. Not \
         set: speed counts for nothing.",
        &mut MaybeDecimal(&mut unit, 1e-6..=3600.0, "0.05"),
    );
    fields.field(
        "usual_overhead_s",
        "Seconds that an answer takes before its first unit; they are not counted.",
        &mut MaybeDecimal(&mut overhead, 0.0..=3600.0, "1.0"),
    );
    fields.field(
        "usual_variance",
        "How fast slower answers lose: by exp(-variance) for each second a unit more.",
        &mut MaybeDecimal(&mut variance, 0.0..=1e6, "20.0"),
    );
    if unit.is_some() || overhead.is_some() || variance.is_some() {
        *usual = Some(UsualTime {
            overhead_s: overhead.unwrap_or(0.0),
            unit_s: unit.unwrap_or(0.0),
            variance: variance.unwrap_or(0.0),
        });
    }
}

fn amounts(task: &mut Task, fields: &mut dyn Fields) {
    fields.field(
        "unit_rule",
        "How work is counted: \"chars_div_4\" (text delivered, Unicode code points / 4), \"steps\" \
         (steps x images) or \"items\" (inputs, or images).",
        &mut Word(&mut task.unit_rule, UNIT_RULES),
    );
    fields.field(
        "cap",
        "The most units that count per miner and period; 0 switches the task off.",
        &mut Whole(&mut task.cap, 0..=Units::MAX.get()),
    );
    fields.field(
        "ceiling",
        "The most units that organic calls may spend of the task per period, over all miners. \
         Not set: no ceiling.",
        &mut MaybeWhole(&mut task.ceiling, 0..=Units::MAX.get(), "5000000"),
    );
}

fn requests(task: &mut Task, fields: &mut dyn Fields) {
    fields.field(
        "context_tokens",
        "Tokens that prompt and answer may have together; 0: not bounded here.",
        &mut Whole(&mut task.context_tokens, 0..=1_000_000_000),
    );
    fields.field(
        "default_request",
        "max_tokens (or steps, or inputs) of a request that names none.",
        &mut Whole(&mut task.default_request, 1..=100_000_000),
    );
    fields.field(
        "largest_request",
        "The largest max_tokens (or steps, or inputs).",
        &mut Whole(&mut task.largest_request, 1..=100_000_000),
    );
    fields.field(
        "reserve_factor",
        "Units that are reserved at the start for each token of max_tokens.",
        &mut Decimal(&mut task.reserve_factor, 0.1..=10.0),
    );
    fields.field(
        "growth_factor",
        "A call may grow to this many units for each token of max_tokens; then it ends with \
         LENGTH.",
        &mut Decimal(&mut task.growth_factor, 0.1..=20.0),
    );
    fields.field(
        "prompt_factor",
        "Units that the prompt is charged for each four of its characters.",
        &mut Decimal(&mut task.prompt_factor, 0.0..=10.0),
    );
    fields.field(
        "check_units",
        "About so many units are asked for by one check; at most the largest request, and a \
         fourth of a miner's allotment.",
        &mut Whole(&mut task.check_units, 1..=100_000_000),
    );
}

fn limits(limits: &mut TaskLimits, fields: &mut dyn Fields) {
    fields.field(
        "first_chunk_ms",
        "How long the first delta may take, without the part for the prompt.",
        &mut Millis(&mut limits.first_chunk, 1..=DURATION_MS_MAX),
    );
    fields.field(
        "first_chunk_per_kib_ms",
        "More of it for each KiB of prompt.",
        &mut Millis(&mut limits.first_chunk_per_kib, 0..=DURATION_MS_MAX),
    );
    fields.field(
        "between_chunks_ms",
        "How long a miner may say nothing between deltas; reasoning models need a minute.",
        &mut Millis(&mut limits.between_chunks, 1..=DURATION_MS_MAX),
    );
    fields.field(
        "total_s",
        "How long a call may take; also the largest deadline.",
        &mut Seconds(&mut limits.total, 1..=DURATION_S_MAX),
    );
    fields.field(
        "default_deadline_s",
        "The deadline of a request that names none.",
        &mut Seconds(&mut limits.default_deadline, 1..=DURATION_S_MAX),
    );
    fields.field(
        "slowest_unit_ms",
        "The least rate of an answer: one unit in this time.",
        &mut Millis(&mut limits.slowest_unit, 1..=DURATION_MS_MAX),
    );
    fields.field(
        "answer_bytes_max",
        "The largest answer; more ends the call with LENGTH.",
        &mut Whole(&mut limits.answer_bytes_max, 1024..=1_073_741_824),
    );
}
