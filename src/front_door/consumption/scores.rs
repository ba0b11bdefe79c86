//! Scores on the wire.

use crate::identity::hotkey::Hotkey;
use crate::proto::v1;
use crate::report::wire;
use crate::scoring::standing::Standing;

/// What a standing says, with the uids of miners that have one.
pub(super) fn told(
    standing: &Standing,
    uid: impl Fn(&Hotkey) -> Option<u16>,
) -> v1::GetScoresResponse {
    let scores = standing.weights.iter().map(|(miner, weight)| {
        let tasks = standing.tasks.iter().filter_map(|task| {
            let steps = task.miners.get(miner)?;
            Some(v1::TaskScore {
                task: task.task.id.to_string(),
                score: steps.part,
                capacity: steps.capacity.get(),
                verified: steps.verified.get(),
                quality: steps.score.quality,
                reliability: steps.score.reliability,
            })
        });
        v1::MinerScore {
            miner: miner.to_string(),
            uid: uid(miner).map(u32::from),
            weight: *weight,
            tasks: tasks.collect(),
        }
    });
    v1::GetScoresResponse {
        profile: standing.scale.name.to_string(),
        period: Some(wire::period(standing.scale.period)),
        scores: scores.collect(),
    }
}
