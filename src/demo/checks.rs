//! What checks there were: what was to be shown in each period, how much of it clients'
//! requests did, and what was sent.

use std::collections::BTreeMap;

use serde::Serialize;
use taugate_ledger::period::Period;

use super::DemoError;
use super::network::Network;
use crate::registry::declaration::Subject;

/// The checks of all periods.
#[derive(Debug, Default, Serialize)]
pub(super) struct Checked {
    periods: Vec<PeriodLine>,
    all: PeriodLine,
}

/// The checks of a period, units.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PeriodLine {
    /// Its start, Unix seconds.
    period_s: u64,
    /// What was to be shown, over all miners.
    target: u64,
    /// What clients got.
    organic: u64,
    /// What of the target clients' requests showed.
    covered: u64,
    /// What checks brought.
    sent: u64,
}

// === impl Checked ===

impl Checked {
    /// Reads the plan of a period and the books beside it.
    pub(super) async fn add(&mut self, network: &Network, period: Period) -> Result<(), DemoError> {
        let gateway = network.gateway();
        let drawn = gateway.store().drawn(period).await?;
        let parts: BTreeMap<_, _> = drawn.iter().map(|drawn| (drawn.cell, drawn.part)).collect();
        let mut line = PeriodLine {
            period_s: period.start_s(),
            ..PeriodLine::default()
        };
        for row in gateway.book_rows(period).await? {
            let (Subject::Miner { .. }, Some(part)) = (&row.subject, parts.get(&row.cell)) else {
                continue;
            };
            let target = part.of(row.allotment);
            let [organic, synthetic] = row.posted;
            line.target += target.get();
            line.organic += organic.get();
            line.covered += organic.min(target).get();
            line.sent += synthetic.get();
        }
        // The demo ends soon after a turn: nothing was drawn for anybody then.
        if line.target > 0 {
            self.all.add(line);
            self.periods.push(line);
        }
        Ok(())
    }

    /// A line a period.
    pub(super) fn table(&self) -> String {
        let mut table = super::table(&["period", "to be shown", "by clients", "checks", "organic"]);
        let lines = self.periods.iter().enumerate();
        for (number, line) in lines {
            table.add_row([
                (number + 1).to_string(),
                line.target.to_string(),
                line.covered.to_string(),
                line.sent.to_string(),
                line.organic.to_string(),
            ]);
        }
        format!(
            "{table}\n(units over all miners; clients' requests count for what was to be shown)"
        )
    }

    /// What clients' requests saved.
    pub(super) fn verdict(&self) -> String {
        let PeriodLine {
            target,
            covered,
            sent,
            ..
        } = self.all;
        format!(
            "Clients' requests saved {covered} of {target} synthetic units ({}); checks brought {sent}.",
            super::percent(covered, target)
        )
    }
}

// === impl PeriodLine ===

impl PeriodLine {
    fn add(&mut self, other: Self) {
        self.target += other.target;
        self.organic += other.organic;
        self.covered += other.covered;
        self.sent += other.sent;
    }
}
