//! What is seen while the traffic runs: a table that follows the books on a terminal, a line
//! now and then elsewhere.

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::DemoError;
use super::network::Network;
use super::told::Told;

/// Between two pictures on a terminal.
const REFRESH: Duration = Duration::from_millis(250);

/// Between two lines elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// Where progress is shown.
#[derive(Debug)]
pub(super) struct Screen {
    bar: Option<ProgressBar>,
}

// === impl Screen ===

impl Screen {
    pub(super) fn new(calls: usize) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Self {
            bar: terminal.then(|| {
                let target = ProgressDrawTarget::stderr();
                let bar = ProgressBar::with_draw_target(u64::try_from(calls).ok(), target);
                match ProgressStyle::with_template("{msg}\n{bar:40} {pos}/{len} calls, {eta} left")
                {
                    Ok(style) => bar.with_style(style),
                    Err(_) => bar,
                }
            }),
        }
    }

    /// Shows how it goes until it is dropped.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub(super) async fn follow(
        &self,
        network: &Network,
        told: &Mutex<Told>,
        out: &mut (impl Write + Send),
    ) -> Result<(), DemoError> {
        let mut tick = tokio::time::interval(if self.bar.is_some() { REFRESH } else { LINE });
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        if self.bar.is_none() {
            // The first one comes at once.
            tick.tick().await;
        }
        loop {
            tick.tick().await;
            let (calls, without) = told.lock().tally.progress();
            match &self.bar {
                Some(bar) => {
                    bar.set_message(table(network, told));
                    bar.set_position(calls);
                }
                None => writeln!(
                    out,
                    "  {calls} calls, {without} without a whole answer, period {}",
                    network.gateway().books().table().period()
                )?,
            }
        }
    }

    /// Leaves nothing on the terminal.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The miners at this moment: the running period as the books have it, and all that the
/// client was told.
fn table(network: &Network, told: &Mutex<Told>) -> String {
    let report = told.lock().tally.report(Duration::ZERO, false);
    let books = network.gateway().books();
    let period = books.table();
    let mut table = super::table(&[
        "miner",
        "allotment",
        "posted",
        "reserved",
        "left",
        "in flight",
        "answers",
        "of units",
        "of capacity",
        "end, ms (50, 99 %)",
    ]);
    let offers = network.offers();
    let capacity = offers.iter().map(|offer| offer.allotment.get()).sum();
    for (name, hotkey) in network.miners() {
        let offer = offers.iter().find(|offer| *offer.miner.hotkey == **hotkey);
        let part = report.miners.get(hotkey).copied().unwrap_or_default();
        let mut row = vec![(*name).to_owned()];
        row.extend(match offer {
            Some(offer) => {
                let posted = period.posted_total(offer.cell).get();
                let reserved = period.reserved(offer.cell).get();
                let allotment = offer.allotment.get();
                let left = allotment.saturating_sub(posted).saturating_sub(reserved);
                let in_flight = period.in_flight(offer.cell).into();
                [allotment, posted, reserved, left, in_flight].map(|number| number.to_string())
            }
            None => [const { String::new() }; 5],
        });
        let allotment = offer.map_or(0, |offer| offer.allotment.get());
        row.extend([
            part.calls.to_string(),
            super::percent(part.units, report.units),
            super::percent(allotment, capacity),
            part.answer.brief(),
        ]);
        table.add_row(row);
    }
    let rest = books.period_rest().as_secs_f64();
    format!(
        "period {}, {rest:.0} s left; {} calls, {} without a whole answer\n{table}",
        period.period(),
        report.calls,
        report.calls - report.whole,
    )
}
