//! What a replay came to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

use super::Heard;

/// Latencies above an hour count as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Digits of latencies over all calls.
const DIGITS: u8 = 3;

/// Digits of each miner's latencies; there may be hundreds of miners.
const MINER_DIGITS: u8 = 2;

/// The sums of a replay while it runs.
#[derive(Debug)]
pub struct Tally {
    calls: u64,
    whole: u64,
    broken: u64,
    recorded: u64,
    units: u64,
    prompt_units: u64,
    code_points: u64,
    refused: BTreeMap<String, u64>,
    miners: BTreeMap<String, MinerSums>,
    first_us: Histogram<u64>,
    total_us: Histogram<u64>,
    late_us: Histogram<u64>,
    /// What a miner's latencies begin as.
    blank_us: Histogram<u64>,
}

/// A miner's sums.
#[derive(Debug)]
struct MinerSums {
    calls: u64,
    whole: u64,
    units: u64,
    first_us: Histogram<u64>,
    total_us: Histogram<u64>,
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Calls that ended, whatever their end.
    pub calls: u64,
    /// Calls whose whole answer came.
    pub whole: u64,
    /// Calls that broke off after the answer had begun; also among `refused`.
    pub broken: u64,
    /// Whole answers whose receipt was durable when they ended.
    pub recorded: u64,
    /// Units of whole answers, prompt and output.
    pub units: u64,
    /// Of these, charged for prompts.
    pub prompt_units: u64,
    /// Unicode code points that came, those of broken answers included.
    pub code_points: u64,
    /// Calls without a whole answer, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Who answered, by hotkey.
    pub miners: BTreeMap<String, MinerPart>,
    /// From a call's dispatch to its first delta.
    pub first_delta: Latency,
    /// From a call's dispatch to the end of its whole answer.
    pub answer: Latency,
    /// From the time at which a call was due to its dispatch: what the bound on calls at
    /// once held back.
    pub late: Latency,
    /// How long the replay took, seconds.
    pub seconds: f64,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// A miner's part in a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MinerPart {
    /// Answers that it began.
    pub calls: u64,
    /// Of these, whole ones.
    pub whole: u64,
    /// Their units.
    pub units: u64,
    /// From a call's dispatch to its first delta.
    pub first_delta: Latency,
    /// From a call's dispatch to the end of its whole answer.
    pub answer: Latency,
}

/// Percentiles, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half were no slower.
    pub p50_ms: f64,
    /// Nine of ten were no slower.
    pub p90_ms: f64,
    /// 99 of a hundred were no slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

// === impl Tally ===

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never: the precision is one that histograms have.
    pub fn new() -> Result<Self, CreationError> {
        let histogram = || Histogram::new_with_max(LATENCY_US_MAX, DIGITS);
        Ok(Self {
            calls: 0,
            whole: 0,
            broken: 0,
            recorded: 0,
            units: 0,
            prompt_units: 0,
            code_points: 0,
            refused: BTreeMap::new(),
            miners: BTreeMap::new(),
            first_us: histogram()?,
            total_us: histogram()?,
            late_us: histogram()?,
            blank_us: Histogram::new_with_max(LATENCY_US_MAX, MINER_DIGITS)?,
        })
    }

    /// Counts a call that ended.
    pub fn add(&mut self, heard: Heard) {
        self.calls += 1;
        self.code_points += heard.code_points;
        self.late_us.saturating_record(micros(heard.late));
        if let Some(first) = heard.first_delta {
            self.first_us.saturating_record(micros(first));
        }
        let begun = !heard.miner.is_empty();
        if begun {
            self.add_to_miner(&heard);
        }
        match heard.ended {
            Ok(cost) => {
                self.total_us.saturating_record(micros(heard.total));
                self.whole += 1;
                self.recorded += u64::from(cost.recorded);
                self.units += cost.units;
                self.prompt_units += cost.prompt_units;
            }
            Err(refused) => {
                self.broken += u64::from(begun);
                *self.refused.entry(refused.reason).or_default() += 1;
            }
        }
    }

    fn add_to_miner(&mut self, heard: &Heard) {
        let miner = self.miners.entry(heard.miner.clone());
        let miner = miner.or_insert_with(|| MinerSums::new(&self.blank_us));
        miner.calls += 1;
        if let Some(first) = heard.first_delta {
            miner.first_us.saturating_record(micros(first));
        }
        if let Ok(cost) = &heard.ended {
            miner.whole += 1;
            miner.units += cost.units;
            miner.total_us.saturating_record(micros(heard.total));
        }
    }

    /// Calls that ended so far, and those of them without a whole answer.
    #[must_use]
    pub const fn progress(&self) -> (u64, u64) {
        (self.calls, self.calls - self.whole)
    }

    /// What it came to.
    #[must_use]
    pub fn report(&self, took: Duration, interrupted: bool) -> Report {
        Report {
            calls: self.calls,
            whole: self.whole,
            broken: self.broken,
            recorded: self.recorded,
            units: self.units,
            prompt_units: self.prompt_units,
            code_points: self.code_points,
            refused: self.refused.clone(),
            miners: self
                .miners
                .iter()
                .map(|(hotkey, sums)| (hotkey.clone(), sums.part()))
                .collect(),
            first_delta: Latency::of(&self.first_us),
            answer: Latency::of(&self.total_us),
            late: Latency::of(&self.late_us),
            seconds: took.as_secs_f64(),
            interrupted,
        }
    }
}

// === impl MinerSums ===

impl MinerSums {
    fn new(blank_us: &Histogram<u64>) -> Self {
        Self {
            calls: 0,
            whole: 0,
            units: 0,
            first_us: blank_us.clone(),
            total_us: blank_us.clone(),
        }
    }

    fn part(&self) -> MinerPart {
        MinerPart {
            calls: self.calls,
            whole: self.whole,
            units: self.units,
            first_delta: Latency::of(&self.first_us),
            answer: Latency::of(&self.total_us),
        }
    }
}

// === impl Report ===

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let refused = self.calls - self.whole - self.broken;
        let mut text = format!(
            "{} calls in {:.1} s{}: {} whole, {refused} refused, {} broken off\n\
             {} units ({} of them for prompts); {} of {} answers recorded when they ended\n",
            self.calls,
            self.seconds,
            if self.interrupted {
                " (interrupted)"
            } else {
                ""
            },
            self.whole,
            self.broken,
            self.units,
            self.prompt_units,
            self.recorded,
            self.whole,
        );
        text.push_str(&self.latencies());
        if !self.refused.is_empty() {
            let mut table = table(&["no whole answer because", "calls"]);
            for (reason, calls) in &self.refused {
                table.add_row([reason.clone(), calls.to_string()]);
            }
            text.push_str(&format!("\n{table}"));
        }
        if !self.miners.is_empty() {
            let mut table = table(&[
                "miner",
                "answers begun",
                "whole",
                "units",
                "first delta, ms (50, 99 %)",
                "end, ms (50, 99 %)",
            ]);
            for (hotkey, part) in &self.miners {
                let numbers = [part.calls, part.whole, part.units].map(|number| number.to_string());
                let latencies = [part.first_delta, part.answer].map(|latency| latency.brief());
                let row = std::iter::once(hotkey.clone());
                table.add_row(row.chain(numbers).chain(latencies));
            }
            text.push_str(&format!("\n{table}"));
        }
        text
    }

    fn latencies(&self) -> String {
        let mut table = table(&["milliseconds", "50 %", "90 %", "99 %", "slowest"]);
        let rows = [
            ("to the first delta", self.first_delta),
            ("to the end", self.answer),
            ("sent late by", self.late),
        ];
        for (name, latency) in rows {
            let numbers = [
                latency.p50_ms,
                latency.p90_ms,
                latency.p99_ms,
                latency.max_ms,
            ];
            let numbers = numbers.map(|number| format!("{number:.1}"));
            table.add_row(std::iter::once(name.to_owned()).chain(numbers));
        }
        table.to_string()
    }
}

// === impl Latency ===

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
        Self {
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p90_ms: ms(histogram.value_at_quantile(0.9)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }

    /// Half and 99 %, for a column.
    #[must_use]
    pub fn brief(&self) -> String {
        format!("{:.0}, {:.0}", self.p50_ms, self.p99_ms)
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(header.iter().copied());
    table
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::super::Cost;
    use super::*;
    use crate::client::Refused;

    fn heard(miner: &str, ended: Result<Cost, Refused>) -> Heard {
        Heard {
            request_id: String::new(),
            miner: miner.to_owned(),
            late: Duration::ZERO,
            first_delta: (!miner.is_empty()).then_some(Duration::from_millis(10)),
            total: Duration::from_millis(20),
            code_points: 8,
            ended,
        }
    }

    #[test]
    fn every_call_ends_in_exactly_one_sum() {
        let cost = Cost {
            units: 5,
            prompt_units: 3,
            recorded: true,
        };
        let refused = |reason: &str| Refused {
            code: Code::Unavailable,
            reason: reason.to_owned(),
            message: String::new(),
            retry_after: None,
            fields: Vec::new(),
        };
        let mut tally = Tally::new().unwrap();
        tally.add(heard("a", Ok(cost)));
        tally.add(heard("a", Err(refused("MINER_LOST"))));
        tally.add(heard("", Err(refused("NO_CAPACITY"))));
        let report = tally.report(Duration::from_secs(1), false);
        assert_eq!((report.calls, report.whole, report.broken), (3, 1, 1));
        assert_eq!(
            (report.units, report.prompt_units, report.recorded),
            (5, 3, 1)
        );
        assert_eq!(
            report.refused.values().sum::<u64>() + report.whole,
            report.calls
        );
        let part = report.miners["a"];
        assert_eq!((part.calls, part.whole, part.units), (2, 1, 5));
        // Only whole answers have an end that counts.
        assert!((part.answer.p50_ms - 20.0).abs() < 0.5, "{part:?}");
        assert!((report.first_delta.max_ms - 10.0).abs() < 0.1);
        assert!(report.table().contains("1 whole, 1 refused, 1 broken off"));
    }
}
