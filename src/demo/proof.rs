//! The proof of the books: what receipts, counters and grants say must agree, and must be
//! what the client was told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

use super::DemoError;
use super::checks::Checked;
use super::network::Network;
use super::told::Told;
use crate::client::replay::report::{Latency, Report};
use crate::registry::declaration::Subject;

/// The longest that calls and receipts get to end.
const SETTLE: Duration = Duration::from_secs(5);

/// Between two looks at what is still held.
const LOOK: Duration = Duration::from_millis(5);

/// What came out.
#[derive(Debug, Serialize)]
pub(super) struct Proof {
    miners: Vec<MinerLine>,
    calls: u64,
    whole: u64,
    refused: BTreeMap<String, u64>,
    first_delta: Latency,
    answer: Latency,
    /// Whether the traffic was ended before its end.
    interrupted: bool,
    /// Jain's index of posted / allotment (as far as it was shown) over the miners that did not
    /// fail; 1: all equal.
    fairness: f64,
    periods: usize,
    checked: Checked,
    /// Units of receipts over all periods.
    receipts: u64,
    /// Units of the store's counters.
    counters: u64,
    /// Units that the client was told as recorded.
    told: u64,
    /// Units still held by calls.
    reserved: u64,
    faults: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct MinerLine {
    name: &'static str,
    declared: u64,
    allotment: u64,
    posted: u64,
    share_of_units: f64,
    share_of_capacity: f64,
    good: u64,
    busy: u64,
    failed: u64,
    /// Units of checks.
    checks: u64,
    /// What was shown, units a period.
    verified: u64,
    /// Its part of all rewards.
    weight: f64,
    first_delta: Latency,
    answer: Latency,
}

// === impl Proof ===

impl Proof {
    /// Reads the durable books of all periods and compares.
    pub(super) async fn take(
        network: &Network,
        told: &Told,
        report: Report,
    ) -> Result<Self, DemoError> {
        let gateway = network.gateway();
        gateway.end_checks();
        let mut proof = Self::of_calls(network, told, report);
        until_nothing_is_reserved(network).await;
        gateway.books().settle(SETTLE).await;
        let periods = gateway.store().periods().await?;
        proof.periods = periods.len();
        for period in periods {
            proof.add_books(network, period).await?;
            proof.add_attempts(network, period).await?;
            proof.checked.add(network, period).await?;
        }
        proof.add_scores(network).await?;
        proof.compare_receipts(network, told).await?;
        proof.look_at_reserved(network);
        proof.share();
        proof.fairness = fairness(&proof.miners);
        Ok(proof)
    }

    pub(super) fn closes(&self) -> bool {
        self.faults.is_empty()
    }

    fn of_calls(network: &Network, told: &Told, report: Report) -> Self {
        let offers = network.offers();
        let miners = network.miners().iter().map(|(name, hotkey)| {
            let offer = offers.iter().find(|offer| *offer.miner.hotkey == **hotkey);
            let part = report.miners.get(hotkey).copied().unwrap_or_default();
            MinerLine {
                name,
                declared: offer.map_or(0, |offer| offer.declared.get()),
                allotment: offer.map_or(0, |offer| offer.allotment.get()),
                first_delta: part.first_delta,
                answer: part.answer,
                ..MinerLine::default()
            }
        });
        Self {
            miners: miners.collect(),
            calls: report.calls,
            whole: report.whole,
            refused: report.refused,
            first_delta: report.first_delta,
            answer: report.answer,
            interrupted: report.interrupted,
            fairness: 0.0,
            periods: 0,
            checked: Checked::default(),
            receipts: 0,
            counters: 0,
            told: told.recorded.values().sum(),
            reserved: 0,
            faults: Vec::new(),
        }
    }

    async fn add_books(
        &mut self,
        network: &Network,
        period: taugate_ledger::period::Period,
    ) -> Result<(), DemoError> {
        for row in network.gateway().book_rows(period).await? {
            if !row.closes() {
                self.faults
                    .push(format!("period {period}, cell {:?}: {row:?}", row.cell));
            }
            let Subject::Miner { hotkey, .. } = &row.subject else {
                continue;
            };
            let [_, synthetic] = row.posted;
            let posted = row.posted.into_iter().sum::<Units>().get();
            self.receipts += row.receipts.into_iter().sum::<Units>().get();
            self.counters += posted;
            if let Some(line) = line(&mut self.miners, network, &hotkey.to_string()) {
                line.posted += posted;
                line.checks += synthetic.get();
            }
        }
        Ok(())
    }

    /// Where each miner stands at the end.
    async fn add_scores(&mut self, network: &Network) -> Result<(), DemoError> {
        let standing = network.gateway().scorer().standing(None).await?;
        for (hotkey, weight) in &standing.weights {
            if let Some(line) = line(&mut self.miners, network, &hotkey.to_string()) {
                line.weight = *weight;
            }
        }
        let miners = standing.tasks.iter().flat_map(|task| &task.miners);
        for (hotkey, steps) in miners {
            if let Some(line) = line(&mut self.miners, network, &hotkey.to_string()) {
                line.verified = steps.verified.get();
            }
        }
        Ok(())
    }

    async fn add_attempts(
        &mut self,
        network: &Network,
        period: taugate_ledger::period::Period,
    ) -> Result<(), DemoError> {
        let offers = network.offers();
        for tally in network.gateway().store().tallies(period).await? {
            let offer = offers.iter().find(|offer| offer.cell == tally.cell);
            let Some(offer) = offer else { continue };
            let Some(line) = line(&mut self.miners, network, &offer.miner.hotkey) else {
                continue;
            };
            for (outcome, count) in Outcome::ALL.into_iter().zip(tally.attempts) {
                match outcome {
                    Outcome::Good => line.good += count,
                    Outcome::Busy => line.busy += count,
                    Outcome::Lost | Outcome::Stalled | Outcome::Protocol => line.failed += count,
                    Outcome::Refused | Outcome::Cancelled => {}
                }
            }
        }
        Ok(())
    }

    /// Each `recorded = true` that the client saw has one receipt with the same units; every
    /// other answer that began has one with no less than what came.
    async fn compare_receipts(&mut self, network: &Network, told: &Told) -> Result<(), DemoError> {
        for (id, units) in &told.recorded {
            let booked = self.booked(network, id).await?;
            if booked != Some(*units) {
                self.faults.push(format!(
                    "{id}: told {units} units, the receipt says {booked:?}"
                ));
            }
        }
        for (id, came) in &told.at_least {
            let booked = self.booked(network, id).await?;
            if booked.is_none_or(|booked| booked < *came) {
                self.faults.push(format!(
                    "{id}: {came} units came, the receipt says {booked:?}"
                ));
            }
        }
        if self.receipts != self.counters {
            self.faults.push("receipts and counters differ".to_owned());
        }
        if self.told > self.receipts {
            self.faults
                .push("the client was told more than is booked".to_owned());
        }
        Ok(())
    }

    /// The units of a receipt, if there is one.
    async fn booked(&mut self, network: &Network, id: &str) -> Result<Option<u64>, DemoError> {
        let Ok(request) = id.parse() else {
            self.faults.push(format!("{id} is no request id"));
            return Ok(None);
        };
        let stored = network.gateway().store().receipt(request).await?;
        Ok(stored.map(|stored| stored.receipt.units.get()))
    }

    fn look_at_reserved(&mut self, network: &Network) {
        self.reserved = reserved(network);
        if self.reserved > 0 {
            self.faults
                .push(format!("{} units are still reserved", self.reserved));
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    fn share(&mut self) {
        let (units, capacity) = (
            self.counters.max(1),
            self.miners.iter().map(|m| m.allotment),
        );
        let capacity = capacity.sum::<u64>().max(1);
        for line in &mut self.miners {
            line.share_of_units = line.posted as f64 / units as f64;
            line.share_of_capacity = line.allotment as f64 / capacity as f64;
        }
    }

    /// A line per miner.
    pub(super) fn table(&self) -> String {
        let mut table = super::table(&[
            "miner",
            "allotment",
            "verified",
            "posted",
            "checks",
            "% of units\n(capacity)",
            "weight",
            "end, ms\n(50, 99 %)",
            "good/busy/\nfailed",
        ]);
        for line in &self.miners {
            table.add_row([
                line.name.to_owned(),
                line.allotment.to_string(),
                line.verified.to_string(),
                line.posted.to_string(),
                line.checks.to_string(),
                format!(
                    "{:.1} ({:.1})",
                    line.share_of_units * 100.0,
                    line.share_of_capacity * 100.0
                ),
                format!("{:.3}", line.weight),
                line.answer.brief(),
                format!("{}/{}/{}", line.good, line.busy, line.failed),
            ]);
        }
        format!(
            "{table}\n(allotment and verified are units a period; posted is the sum of {} periods, \
             checks are part of it)",
            self.periods
        )
    }

    /// A line per period of what was checked.
    pub(super) fn checks(&self) -> String {
        self.checked.table()
    }

    /// The proof in words.
    pub(super) fn verdict(&self) -> String {
        let mut text = format!(
            "{} calls, {} whole answers{}; ms (50, 99 %) to the first delta {}, to the end {}; \
             fairness over miners that do not fail {:.3}\n",
            self.calls,
            self.whole,
            if self.interrupted {
                " (interrupted)"
            } else {
                ""
            },
            self.first_delta.brief(),
            self.answer.brief(),
            self.fairness,
        );
        for (reason, count) in &self.refused {
            text.push_str(&format!("  {count} x {reason}\n"));
        }
        text.push_str(&format!(
            "Books: receipts {} = counters {}; told to the client as recorded {}; reserved {}\n",
            self.receipts, self.counters, self.told, self.reserved
        ));
        text.push_str(&self.checked.verdict());
        text.push('\n');
        if self.closes() {
            text.push_str("The books close.");
        } else {
            text.push_str("THE BOOKS DO NOT CLOSE:");
            for fault in &self.faults {
                text.push_str(&format!("\n  {fault}"));
            }
        }
        text
    }
}

fn line<'a>(
    lines: &'a mut [MinerLine],
    network: &Network,
    hotkey: &str,
) -> Option<&'a mut MinerLine> {
    let (name, _) = network.miners().iter().find(|(_, known)| known == hotkey)?;
    lines.iter_mut().find(|line| line.name == *name)
}

/// Units held by calls, over all periods.
fn reserved(network: &Network) -> u64 {
    let tables = network.gateway().books().tables();
    let periods = tables.periods().into_iter();
    let open = periods.filter_map(|period| tables.get(period));
    open.map(|table| {
        let cells = table.touched().map(|cell| table.reserved(cell).get());
        cells.sum::<u64>()
    })
    .sum()
}

/// Calls that a client left end a moment later.
async fn until_nothing_is_reserved(network: &Network) {
    let nothing = async {
        while reserved(network) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    // What is still held then stands in the proof.
    drop(tokio::time::timeout(SETTLE, nothing).await);
}

/// Jain's index of posted / allotment over the miners that fail less than one time in ten; what
/// a miner did not show of its allotment does not count.
#[expect(clippy::cast_precision_loss, reason = "an index needs no more digits")]
fn fairness(miners: &[MinerLine]) -> f64 {
    let healthy = miners
        .iter()
        .filter(|line| line.failed * 10 <= line.good && line.allotment > 0);
    let used: Vec<_> = healthy
        .map(|line| line.posted as f64 / line.allotment.min(line.verified).max(1) as f64)
        .collect();
    let (sum, squares) = (
        used.iter().sum::<f64>(),
        used.iter().map(|one| one * one).sum::<f64>(),
    );
    if squares > 0.0 {
        sum * sum / (used.len() as f64 * squares)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::told::first_answer;
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_receipt_that_says_otherwise_opens_the_proof() {
        let mut network = Network::start(10).await.unwrap();
        network.add_simulated(0).await.unwrap();
        let client = network.client().await.unwrap();
        let mut told = Told::new().unwrap();
        first_answer((&client, &network), &mut told, &mut Vec::new())
            .await
            .unwrap();
        let report = |told: &Told| told.tally.report(Duration::ZERO, false);
        let proof = Proof::take(&network, &told, report(&told)).await.unwrap();
        assert!(proof.closes(), "{}", proof.verdict());

        for units in told.recorded.values_mut() {
            *units += 1;
        }
        let proof = Proof::take(&network, &told, report(&told)).await.unwrap();
        assert!(!proof.closes());
        assert!(proof.verdict().contains("DO NOT CLOSE"));

        // What came was more than was booked.
        told.at_least = std::mem::take(&mut told.recorded);
        let proof = Proof::take(&network, &told, report(&told)).await.unwrap();
        assert!(!proof.closes());
        network.stop().await.unwrap();
    }
}
