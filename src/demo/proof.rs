//! The proof of the books: what receipts, counters and grants say must agree, and must be
//! what the client was told.

use std::collections::BTreeMap;

use serde::Serialize;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

use super::DemoError;
use super::network::{Network, TASK};
use super::replay::Told;
use crate::registry::declaration::Subject;

/// What came out.
#[derive(Debug, Serialize)]
pub(super) struct Proof {
    miners: Vec<MinerLine>,
    calls: u64,
    whole: u64,
    refused: BTreeMap<String, u64>,
    first_ms: Percentiles,
    total_ms: Percentiles,
    periods: usize,
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
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
}

// === impl Proof ===

impl Proof {
    /// Reads the durable books of all periods and compares.
    pub(super) async fn take(network: &Network, told: &Told) -> Result<Self, DemoError> {
        let mut proof = Self::of_calls(network, told);
        let gateway = network.gateway();
        gateway
            .books()
            .settle(std::time::Duration::from_secs(5))
            .await;
        let periods = gateway.store().periods().await?;
        proof.periods = periods.len();
        for period in periods {
            proof.add_books(network, period).await?;
            proof.add_attempts(network, period).await?;
        }
        proof.compare_receipts(network, told).await?;
        proof.look_at_reserved(network);
        proof.share();
        Ok(proof)
    }

    pub(super) fn closes(&self) -> bool {
        self.faults.is_empty()
    }

    fn of_calls(network: &Network, told: &Told) -> Self {
        let snapshot = network.gateway().registry().snapshot();
        let offers = snapshot
            .markets
            .get(TASK)
            .map(|market| market.offers.as_slice());
        let offers = offers.unwrap_or_default();
        let miners = network.miners().iter().map(|(name, hotkey)| {
            let offer = offers.iter().find(|offer| *offer.miner.hotkey == **hotkey);
            MinerLine {
                name,
                declared: offer.map_or(0, |offer| offer.declared.get()),
                allotment: offer.map_or(0, |offer| offer.allotment.get()),
                ..MinerLine::default()
            }
        });
        Self {
            miners: miners.collect(),
            calls: told.calls(),
            whole: u64::try_from(told.recorded.len()).unwrap_or(u64::MAX) + told.unrecorded,
            refused: told.refused.clone(),
            first_ms: Percentiles::of(&told.first_us),
            total_ms: Percentiles::of(&told.total_us),
            periods: 0,
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
            let posted = row.posted.into_iter().sum::<Units>().get();
            self.receipts += row.receipts.into_iter().sum::<Units>().get();
            self.counters += posted;
            if let Some(line) = line(&mut self.miners, network, &hotkey.to_string()) {
                line.posted += posted;
            }
        }
        Ok(())
    }

    async fn add_attempts(
        &mut self,
        network: &Network,
        period: taugate_ledger::period::Period,
    ) -> Result<(), DemoError> {
        let snapshot = network.gateway().registry().snapshot();
        let offers = snapshot
            .markets
            .get(TASK)
            .map(|market| market.offers.as_slice());
        for tally in network.gateway().store().tallies(period).await? {
            let offers = offers.unwrap_or_default();
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

    /// Each `recorded = true` that the client saw has one receipt with the same units.
    async fn compare_receipts(&mut self, network: &Network, told: &Told) -> Result<(), DemoError> {
        for (text, units) in &told.recorded {
            let Ok(id) = text.parse() else {
                self.faults.push(format!("{text} is no request id"));
                continue;
            };
            let stored = network.gateway().store().receipt(id).await?;
            let booked = stored.map(|stored| stored.receipt.units.get());
            if booked != Some(*units) {
                self.faults.push(format!(
                    "{text}: told {units} units, the receipt says {booked:?}"
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

    fn look_at_reserved(&mut self, network: &Network) {
        let books = network.gateway().books();
        for table in books
            .tables()
            .periods()
            .into_iter()
            .filter_map(|p| books.tables().get(p))
        {
            self.reserved += table
                .touched()
                .map(|cell| table.reserved(cell).get())
                .sum::<u64>();
        }
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
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "miner",
            "declared",
            "allotment",
            "posted",
            "of units",
            "of capacity",
            "good",
            "busy",
            "failed",
        ]);
        for line in &self.miners {
            table.add_row([
                line.name.to_owned(),
                line.declared.to_string(),
                line.allotment.to_string(),
                line.posted.to_string(),
                format!("{:.1} %", line.share_of_units * 100.0),
                format!("{:.1} %", line.share_of_capacity * 100.0),
                line.good.to_string(),
                line.busy.to_string(),
                line.failed.to_string(),
            ]);
        }
        format!(
            "{table}\n(declared and allotment: units a period; {} periods)",
            self.periods
        )
    }

    /// The proof in words.
    pub(super) fn verdict(&self) -> String {
        let mut text = format!(
            "{} calls, {} whole answers; first delta {}, whole {}\n",
            self.calls, self.whole, self.first_ms, self.total_ms
        );
        for (reason, count) in &self.refused {
            text.push_str(&format!("  {count} x {reason}\n"));
        }
        text.push_str(&format!(
            "Books: receipts {} = counters {}; told to the client as recorded {}; reserved {}\n",
            self.receipts, self.counters, self.told, self.reserved
        ));
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

// === impl Percentiles ===

impl Percentiles {
    #[expect(clippy::cast_precision_loss, reason = "a latency needs no more digits")]
    fn of(histogram: &hdrhistogram::Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
        }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} / {:.0} / {:.0} ms (p50 / p90 / p99)",
            self.p50, self.p90, self.p99
        )
    }
}
