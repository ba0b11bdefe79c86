//! What the client of the demo was told: the outer side of the proof.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::DemoError;
use super::network::{Network, TASK};
use crate::client::replay::report::Tally;
use crate::client::replay::{Heard, ask};
use crate::client::{Client, chat};

/// Code points of text that make a unit.
const UNIT_CODE_POINTS: u64 = 4;

/// What the client was told.
#[derive(Debug)]
pub(super) struct Told {
    /// Units by request id, where `recorded` was true.
    pub(super) recorded: BTreeMap<String, u64>,
    /// The least units by request id, of answers that began and were not recorded when they
    /// ended, or broke off: the text that came.
    pub(super) at_least: BTreeMap<String, u64>,
    /// The sums.
    pub(super) tally: Tally,
}

// === impl Told ===

impl Told {
    pub(super) fn new() -> Result<Self, DemoError> {
        Ok(Self {
            recorded: BTreeMap::new(),
            at_least: BTreeMap::new(),
            tally: Tally::new()?,
        })
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        let id = heard.request_id.clone();
        match &heard.ended {
            Ok(cost) if cost.recorded => drop(self.recorded.insert(id, cost.units)),
            Ok(cost) => drop(self.at_least.insert(id, cost.units)),
            Err(_) if id.is_empty() => {}
            Err(_) => {
                let came = heard.code_points.div_ceil(UNIT_CODE_POINTS);
                self.at_least.insert(id, came);
            }
        }
        self.tally.add(heard);
    }
}

/// One answer, written as it comes. A miner of the demo fails on purpose: whoever gets it
/// asks again, as a person would.
pub(super) async fn first_answer(
    (client, network): (&Client, &Network),
    told: &mut Told,
    out: &mut (impl Write + Send),
) -> Result<(), DemoError> {
    const TRIES: u32 = 5;
    let question = "What does a gateway keep?";
    writeln!(out, "> {question}")?;
    let mut tried = 1;
    loop {
        let mut written = Ok(());
        let request = chat(TASK, question, Some(super::FIRST_TOKENS));
        let heard = ask(client, &request, Duration::ZERO, |text| {
            if written.is_ok() {
                written = write!(out, "{text}").and_then(|()| out.flush());
            }
        })
        .await;
        written?;
        let (ended, miner) = (
            heard.ended.clone(),
            network.name_of(&heard.miner).to_owned(),
        );
        told.hear(heard);
        match ended {
            Ok(cost) => {
                let recorded = if cost.recorded { "" } else { "not yet " };
                writeln!(
                    out,
                    "\n({} units by {miner}, {recorded}recorded)",
                    cost.units
                )?;
                return Ok(());
            }
            Err(refused) if tried == TRIES => return Err(refused.into()),
            Err(refused) => writeln!(out, "\n({refused}; once more)")?,
        }
        tried += 1;
    }
}
