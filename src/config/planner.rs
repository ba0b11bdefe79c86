//! `[planner]`: which checks are sent where clients did not ask.

use toml::Value;

use super::fault::Wrong;
use super::field::{Fields, Section, Slot};
use super::slot::{Decimal, Flag, MaybeWhole, Seconds, Whole, Word};
use crate::synthetic::draw::{Draw, Draws};
use crate::synthetic::{Mode, PlannerSettings};

const MODES: &[(&str, Mode)] = &[
    ("built-in", Mode::BuiltIn),
    ("external", Mode::External),
    ("off", Mode::Off),
];

/// More rows than any distribution of checks had, by a factor of ten.
const ROWS_MAX: usize = 50;

/// A distribution: rows of a share, the least part and the largest.
struct Rows<'a>(&'a mut Draws);

// === impl PlannerSettings ===

impl Section for PlannerSettings {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "mode",
            "Who sends checks: \"built-in\" (this gateway), \"external\" (a loop of your own, \
             which reads what is due from Watch) or \"off\".",
            &mut Word(&mut self.mode, MODES),
        );
        fields.field(
            "draws",
            "How much of an allotment is to be checked, drawn for each miner, task and period: \
             rows of a share of all draws, the least part and the largest. The shares sum to 1.",
            &mut Rows(&mut self.draws),
        );
        fields.field(
            "floor",
            "Whether each miner gets one check of each task and period that ends good, also \
             where clients ask for more than was drawn: who is never checked is never judged.",
            &mut Flag(&mut self.floor),
        );
        fields.field(
            "bursts_per_period",
            "Windows in each period in which all miners are asked at once for all that they \
             declare, over all of their tasks. Where there is any, clients' requests reach a \
             miner once it passed a first one, within a minute of its declaration. 0: \
             declarations count as they are.",
            &mut Whole(&mut self.bursts.per_period, 0..=60),
        );
        fields.field(
            "burst_s",
            "The longest that such a window is; a twentieth of a short period.",
            &mut Seconds(&mut self.bursts.length, 1..=60),
        );
        fields.field(
            "burst_passes_at",
            "The part of what it was asked for that a miner must show to pass.",
            &mut Decimal(&mut self.bursts.passes_at, 0.0..=1.0),
        );
        fields.field(
            "seed",
            "Makes draws and waits repeat. For tests only: who knows it knows what is checked.",
            &mut MaybeWhole(&mut self.seed, 0..=u64::MAX >> 1, "1"),
        );
    }
}

// === impl Rows ===

impl Slot for Rows<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        let wrong = || Wrong::value(value, "rows such as [[0.9, 0.05, 0.05], [0.1, 0.4, 0.8]]");
        let rows = value.as_array().ok_or_else(wrong)?;
        if rows.len() > ROWS_MAX {
            let found = rows.len();
            return Err(Wrong::TooMany {
                found,
                most: ROWS_MAX,
            });
        }
        let read: Option<Vec<Draw>> = rows.iter().map(row_of).collect();
        let draws = Draws::new(read.ok_or_else(wrong)?);
        *self.0 = draws.map_err(|error| Wrong::value(value, format!("sound: {error}")))?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        let rows = self.0.rows().iter().map(|row| {
            let numbers = [row.share, row.from, row.to];
            Value::Array(numbers.into_iter().map(Value::Float).collect())
        });
        Some(Value::Array(rows.collect()))
    }
}

fn row_of(value: &Value) -> Option<Draw> {
    let numbers: Vec<f64> = value
        .as_array()?
        .iter()
        .map(super::slot::number)
        .collect::<Option<_>>()?;
    let [share, from, to] = numbers[..] else {
        return None;
    };
    Some(Draw::of(share, from, to))
}
