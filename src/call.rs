//! The life of one request, from admission to its receipt.
//!
//! ```text
//! Admitted -> routing -> hold -> dispatch -> relay -> settle -> receipt
//! ```
//!
//! A call runs as one task on the shard that took it. The task owns the [`record::Record`]
//! and the reservation inside a guard, so that a cancel, a panic or a shutdown at any await
//! ends in the same place: [`settle`]. What the client has is an [`outlet::Answer`]; what it
//! has taken out of it counts as delivered.

pub mod attempt;
pub mod delivery;
pub mod displaced;
mod ending;
mod observed;
pub mod order;
pub mod outlet;
pub mod payload;
pub mod record;
pub mod relay;
pub mod settle;
pub mod shapes;
pub mod trace;
pub mod waiting;
pub mod whole;
pub mod witness;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use taugate_ledger::ids::{Origin, RequestId};
use taugate_ledger::units::Units;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::retry::budget::{Budget as _, TpsBudget};

use crate::books::{Books, Slot};
use crate::miner_client::Pool;
use crate::proto::v1;
use crate::registry::Registry;
use crate::routing::{Router, Vitals};
use crate::task::{Task, TaskId};
use crate::telemetry::Instruments;

pub use outlet::{Answer, Event};

/// How calls behave.
#[derive(Clone, Copy, Debug)]
pub struct CallSettings {
    /// The longest that a call waits for a free miner.
    pub wait: Duration,
    /// Calls that may wait per task.
    pub waiting_max: usize,
    /// Dispatches per call.
    pub attempts_max: usize,
    /// A `Progress` leaves after this much silence.
    pub progress_every: Duration,
    /// A part is booked after this long.
    pub part_every: Duration,
    /// A client that takes nothing for this long is cut.
    pub slow_consumer: Duration,
    /// The longest that a final message waits for its receipt.
    pub record_wait: Duration,
    /// Units by which a stream grows that outgrew what was held.
    pub growth: Units,
}

/// A request that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// Names it.
    pub id: RequestId,
    /// When, Unix milliseconds; in the period of `table`, unless the clock steps back.
    pub admitted_ms: u64,
    /// The public id of the client's key; empty for none.
    pub client: Arc<str>,
    /// What is to be done.
    pub task: Arc<Task>,
    /// The request as it goes to miners, defaults filled in.
    pub payload: v1::miner_generate_request::Payload,
    /// Size of the prompt, bytes; for the time limit of the first chunk.
    pub prompt_bytes: usize,
    /// Units of the prompt, charged once anything is delivered.
    pub prompt_units: Units,
    /// Units held for the answer at the start.
    pub output_units: Units,
    /// The most units that the answer may grow to.
    pub output_units_max: Units,
    /// Independent answers.
    pub choices: u32,
    /// When the client's time is up.
    pub deadline: Instant,
    /// Where it comes from.
    pub origin: Origin,
    /// The hotkey of the one miner that may answer.
    pub pinned: Option<Arc<str>>,
    /// Whether only miners may answer that have proven their capacity: its client asks for that,
    /// or it holds for all clients here.
    pub proven_only: bool,
    /// For a check: whether it is still due once it holds its units; `None`: it always is.
    pub due: Option<StillDue>,
    /// Who sees its answer beside the client; the call takes it.
    pub witness: Option<witness::Witness>,
    /// Whether `Started` explains the choice.
    pub explain: bool,
    /// On the receipt only.
    pub labels: Vec<(String, String)>,
    /// The table of the period that is charged.
    pub table: Arc<taugate_ledger::table::Table>,
    /// A place for the receipt; the call takes it.
    pub slot: Option<Slot>,
}

/// Whether a check is still due, asked once: when it holds its units (these are told), before
/// it is sent. What was due when it was planned may have been done by clients' requests since.
#[derive(Clone)]
pub struct StillDue(Arc<dyn Fn(Units) -> bool + Send + Sync>);

/// What all calls share.
#[derive(Debug)]
pub struct Calls {
    /// The books.
    pub books: Arc<Books>,
    /// Who can do what.
    pub registry: Arc<Registry>,
    /// Who is chosen.
    pub router: Arc<Router>,
    /// How miners do.
    pub vitals: Arc<Vitals>,
    /// What is measured.
    pub instruments: Arc<Instruments>,
    /// Who hears what attempts delivered.
    pub deliveries: Arc<dyn delivery::Deliveries>,
    /// How calls behave; each call keeps what it began with.
    pub settings: ArcSwap<CallSettings>,
    /// Which traces are kept.
    pub trace: trace::TraceSettings,
    /// Calls that wait for a free miner.
    pub waiting: waiting::Waiting,
    /// What clients' requests look like.
    pub shapes: shapes::Shapes,
    /// Checks that run, and give way to clients' calls.
    pub checks: Arc<displaced::Checks>,
    /// How many failed attempts may be tried again: a part of all calls, so that failing
    /// miners do not double the load.
    pub retries: ArcSwap<TpsBudget>,
    /// What is left of each task, looked at now and then.
    pub capacity: ArcSwap<HashMap<TaskId, v1::CapacityLeft>>,
    /// Every running call; a drain waits for it.
    pub running: TaskTracker,
    /// Cancelled when what still runs must end.
    pub cut: CancellationToken,
    /// The start of this process, for monotonic milliseconds.
    pub epoch: Instant,
}

/// Why a call ended without a whole answer. One file of the front door makes a status of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Every miner of the task is busy.
    #[error("every miner is busy")]
    AllBusy,
    /// The allotments are spent.
    #[error("the allotments are spent")]
    AllSpent,
    /// The validator's own ceiling of the task is reached.
    #[error("the task's ceiling is reached")]
    Ceiling,
    /// Those that could take it have not proven their capacity.
    #[error("no miner has proven its capacity")]
    AllUnproven,
    /// The task has no live miner.
    #[error("no live miner")]
    NoMiner,
    /// The engine is away and nothing is held.
    #[error("the engine is away")]
    EngineAway,
    /// Too many calls wait already.
    #[error("too many calls wait")]
    Crowded,
    /// All attempts failed before the first delta.
    #[error("all attempts failed")]
    AttemptsExhausted,
    /// The client's time was up.
    #[error("deadline passed while {0:?}")]
    Deadline(Stage),
    /// A miner broke off in mid-answer.
    #[error("the miner was lost")]
    MinerLost,
    /// A miner stalled in mid-answer.
    #[error("the miner stalled")]
    MinerStalled,
    /// A miner broke the protocol in mid-answer.
    #[error("the miner broke the protocol")]
    MinerProtocol,
    /// The client took nothing for too long.
    #[error("the client is too slow")]
    SlowConsumer,
    /// The gateway ends.
    #[error("the gateway drains")]
    Draining,
    /// A check that gave its place to a client's call.
    #[error("a client's call took the check's place")]
    Displaced,
    /// A check that is not due any more; nothing was sent.
    #[error("not due any more")]
    NotDue,
    /// A bug.
    #[error("unexpected error")]
    Internal,
}

/// What a call was at when its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a free miner.
    Waiting,
    /// Waiting for the first delta.
    Prefill,
    /// Streaming.
    Streaming,
}

// === impl CallSettings ===

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(2),
            waiting_max: 1024,
            attempts_max: 3,
            progress_every: Duration::from_secs(10),
            part_every: Duration::from_secs(5),
            slow_consumer: Duration::from_secs(10),
            record_wait: Duration::from_secs(5),
            growth: Units::new(256),
        }
    }
}

// === impl Calls ===

impl Calls {
    /// Starts a call on this thread's runtime; the answer comes out of what is returned.
    /// Dropping that cancels the call.
    pub fn start(self: &Arc<Self>, pool: &Arc<Pool>, admitted: Admitted) -> Answer {
        self.retries.load().deposit();
        if admitted.origin == Origin::Organic {
            self.shapes.note(&admitted, pool.number());
        }
        let bytes_max = admitted.task.limits.answer_bytes_max;
        let (outlet, answer) = outlet::pair(bytes_max);
        let run = attempt::run(Arc::clone(self), Arc::clone(pool), admitted, outlet);
        drop(self.running.spawn(run));
        answer
    }

    /// What is left of a task in this period, coarsely.
    #[must_use]
    pub fn capacity_left(&self, task: &str) -> v1::CapacityLeft {
        self.capacity.load().get(task).copied().unwrap_or_default()
    }

    /// Milliseconds of monotonic time since the process started.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

// === impl StillDue ===

impl StillDue {
    /// Due as long as `look` says so; it gets the units that the check holds.
    #[must_use]
    pub fn new(look: impl Fn(Units) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// Whether it is, now that it holds so many units.
    #[must_use]
    pub fn is_due(&self, held: Units) -> bool {
        (self.0)(held)
    }
}

impl std::fmt::Debug for StillDue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StillDue").finish_non_exhaustive()
    }
}

// === impl Stage ===

impl Stage {
    /// A word for details and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Prefill => "prefill",
            Self::Streaming => "streaming",
        }
    }
}
