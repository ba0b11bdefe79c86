//! The line that tells a miner, once a minute and task, what it declared, what of it a gateway
//! may use, what was booked, and what keeps it from being more.

use super::condition::Condition;
use super::slots::Slots;
use crate::proto::v1;

/// What keeps a miner from delivering more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The gateway leaves the task out.
    LeftOut,
    /// The model does not answer.
    Model,
    /// What the gateway may use is booked: declare more, or wait for the period's end.
    Allotment,
    /// All slots were taken: allow more requests at once, if the model can.
    Concurrency,
    /// There is not more to do.
    Demand,
}

/// What was seen of the slots since the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that run.
    pub in_flight: usize,
    /// Requests that may run at once.
    pub most: usize,
    /// Requests that were turned away.
    pub turned_away: u64,
}

// === impl Load ===

impl Load {
    /// Of these slots, that had turned away `before` at the last line.
    #[must_use]
    pub fn of(slots: &Slots, before: u64) -> Self {
        Self {
            in_flight: slots.most().saturating_sub(slots.free()),
            most: slots.most(),
            turned_away: slots.turned_away().saturating_sub(before),
        }
    }
}

// === impl Limit ===

impl Limit {
    /// What limits a task, the strongest first.
    #[must_use]
    pub fn of(allotment: &v1::Allotment, condition: &Condition, load: Load) -> Self {
        // Calls reserve before they deliver, so the last bit is seldom booked.
        let spent = allotment.allotment - allotment.allotment / 20;
        if !allotment.left_out.is_empty() {
            Self::LeftOut
        } else if condition.away.contains(allotment.task.as_str()) {
            Self::Model
        } else if allotment.posted >= spent {
            Self::Allotment
        } else if load.turned_away > 0 || load.in_flight >= load.most {
            Self::Concurrency
        } else {
            Self::Demand
        }
    }

    /// As it stands in the line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeftOut => "left_out",
            Self::Model => "model",
            Self::Allotment => "allotment",
            Self::Concurrency => "concurrency",
            Self::Demand => "demand",
        }
    }
}

/// Writes a line for each task.
pub fn tell(gateway: &str, answer: &v1::DeclareResponse, condition: &Condition, load: Load) {
    for told in &answer.allotments {
        let limit = Limit::of(told, condition, load);
        let (task, why) = (told.task.as_str(), told.left_out.as_str());
        if limit == Limit::LeftOut {
            tracing::warn!(gateway, task, why, "a task is left out");
            continue;
        }
        tracing::info!(
            gateway,
            task,
            declared = told.declared,
            allotment = told.allotment,
            posted = told.posted,
            in_flight = load.in_flight,
            concurrency = load.most,
            turned_away = load.turned_away,
            limited_by = limit.as_str(),
            "capacity"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_limit_is_named() {
        let told = |posted, left_out: &str| v1::Allotment {
            task: "m".to_owned(),
            declared: 100,
            allotment: 100,
            posted,
            left_out: left_out.to_owned(),
        };
        let (well, idle) = (
            Condition::default(),
            Load {
                most: 2,
                ..Load::default()
            },
        );
        let full = Load {
            in_flight: 2,
            ..idle
        };
        let refusing = Load {
            turned_away: 1,
            ..idle
        };
        let away = Condition {
            away: ["m".into()].into(),
            ..Condition::default()
        };
        assert_eq!(Limit::of(&told(0, ""), &well, idle), Limit::Demand);
        assert_eq!(Limit::of(&told(94, ""), &well, full), Limit::Concurrency);
        assert_eq!(
            Limit::of(&told(94, ""), &well, refusing),
            Limit::Concurrency
        );
        assert_eq!(Limit::of(&told(95, ""), &well, full), Limit::Allotment);
        assert_eq!(Limit::of(&told(95, ""), &away, full), Limit::Model);
        assert_eq!(
            Limit::of(&told(95, "unknown_task"), &away, full),
            Limit::LeftOut
        );
    }
}
