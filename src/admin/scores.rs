//! What scores say, as the admin listener tells it: everybody's weight, or how one came about.

use serde::{Deserialize, Serialize};

use super::board::Scores;
use crate::identity::hotkey::Hotkey;
use crate::scoring::explain::explain;
use crate::scoring::scorer::Scorer;
use crate::scoring::standing::{Standing, Steps, TaskStanding};

/// Everybody's weight.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sheet {
    /// The profile that made them.
    pub profile: String,
    /// Start of the running period, Unix seconds; it counts as far as it is.
    pub period_start_s: u64,
    /// By miner, the largest weight first. They sum to 1, or all are 0.
    pub weights: Vec<Weight>,
}

/// A miner's weight.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Weight {
    /// Its number on the network; none where no metagraph says it.
    pub uid: Option<u16>,
    /// Its hotkey, ss58.
    pub hotkey: String,
    /// Its part of everything, 0 to 1.
    pub weight: f64,
    /// Its scores by task.
    pub tasks: Vec<TaskPart>,
}

/// A miner's score in a task.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct TaskPart {
    /// The task's id.
    pub task: String,
    /// Its part of the task, 0 to 1.
    pub score: f64,
    /// The capacity that counts, units a period.
    pub capacity: u64,
    /// What was shown, units a period.
    pub verified: u64,
    /// Quality and speed.
    pub quality: f64,
    /// Reliability over the periods before.
    pub reliability: f64,
}

/// How a weight came about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Explained {
    /// The arithmetic, line by line.
    pub text: String,
}

// === impl Sheet ===

impl Sheet {
    /// Where it is told; a hotkey may follow behind a slash, and `?profile=`.
    pub const PATH: &str = "/v1/scores";

    /// What a standing says, with the uids of miners that have one.
    #[must_use]
    pub fn of(standing: &Standing, uid: impl Fn(&Hotkey) -> Option<u16>) -> Self {
        let part = |task: &TaskStanding, steps: &Steps| TaskPart {
            task: task.task.id.to_string(),
            score: steps.part,
            capacity: steps.capacity.get(),
            verified: steps.verified.get(),
            quality: steps.score.quality,
            reliability: steps.score.reliability,
        };
        let weight = |(miner, weight): (&Hotkey, &f64)| {
            let tasks = standing.tasks.iter();
            Weight {
                uid: uid(miner),
                hotkey: miner.to_string(),
                weight: *weight,
                tasks: tasks
                    .filter_map(|task| Some(part(task, task.miners.get(miner)?)))
                    .collect(),
            }
        };
        let mut weights: Vec<Weight> = standing.weights.iter().map(weight).collect();
        weights.sort_by(|one, other| other.weight.total_cmp(&one.weight));
        Self {
            profile: standing.scale.name.to_string(),
            period_start_s: standing.scale.period.start_s(),
            weights,
        }
    }
}

// === impl Explained ===

impl Explained {
    /// How a miner's weight came about; none for one of which nothing is known.
    #[must_use]
    pub fn of(standing: &Standing, miner: Hotkey) -> Option<Self> {
        explain(standing, miner).map(|text| Self { text })
    }
}

impl Scores for Scorer {
    fn score(&self, miner: &Hotkey, task: &str) -> Option<f64> {
        let latest = self.latest()?;
        let task = latest.tasks.iter().find(|one| &*one.task.id == task)?;
        task.miners.get(miner).map(|steps| steps.part)
    }
}
