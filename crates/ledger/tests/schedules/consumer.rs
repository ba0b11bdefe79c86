//! A consumer of the engine's counters, which hears late, twice, in any order or not at all,
//! and must come to the engine's totals all the same.

use taugate_ledger::consumed::Consumed;
use taugate_ledger::engine::AppendAsk;
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::model::ModelStore;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use crate::plan::Dice;
use crate::world::{Broken, CELLS, Checked, ensure};

/// A counter: whose, of what.
type Counter = (Incarnation, Period, CellId, Origin);

/// What it heard, and what is on its way to it.
pub(crate) struct Consumer {
    pub(crate) incarnations: Vec<Incarnation>,
    kept: Consumed<Counter>,
    told: Vec<(Counter, u64, Units)>,
    dice: Dice,
}

// === impl Consumer ===

impl Consumer {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            incarnations: Vec::new(),
            kept: Consumed::default(),
            told: Vec::new(),
            dice: Dice::new(seed),
        }
    }

    /// What an ask changed is told as it is now.
    pub(crate) fn told_of(&mut self, engine: &ModelStore, ask: &AppendAsk) {
        for receipt in &ask.receipts {
            for cell in &receipt.held {
                let counter = (ask.incarnation, ask.period, *cell, receipt.origin);
                self.tell(engine, counter);
            }
        }
    }

    /// Some of what was told arrives.
    pub(crate) fn step(&mut self) {
        for _ in 0..self.dice.of(2) {
            self.arrive();
        }
    }

    /// The faults end: each counter is told once more, and what is on its way arrives.
    pub(crate) fn check(&mut self, engine: &ModelStore, periods: &[Period]) -> Checked {
        let mut sum = 0;
        for incarnation in self.incarnations.clone() {
            for (period, cell) in periods.iter().flat_map(|it| CELLS.map(|cell| (*it, cell))) {
                for origin in Origin::ALL {
                    sum += self.tell(engine, (incarnation, period, cell, origin));
                }
            }
        }
        while let Some((counter, rev, units)) = self.take() {
            self.kept.heed(counter, rev, units);
        }
        let total = self.kept.total().get();
        ensure!(total == sum, "I6", "a consumer has {total} units of {sum}");
        Ok(())
    }

    /// Units of a counter serve as its revision: they rise with each change of themselves.
    fn tell(&mut self, engine: &ModelStore, counter: Counter) -> u64 {
        let (incarnation, period, cell, origin) = counter;
        let lease = engine.lease(period, cell, incarnation);
        let units = lease.unwrap_or_default().posted[origin.index()];
        if !units.is_zero() {
            self.told.push((counter, units.get(), units));
        }
        units.get()
    }

    /// One of ten is lost, one of six comes again.
    fn arrive(&mut self) {
        let Some(message) = self.take() else { return };
        if self.dice.one_in(10) {
            return;
        }
        if self.dice.one_in(6) {
            self.told.push(message);
        }
        let (counter, rev, units) = message;
        self.kept.heed(counter, rev, units);
    }

    fn take(&mut self) -> Option<(Counter, u64, Units)> {
        let at = (!self.told.is_empty()).then(|| self.dice.index(self.told.len()))?;
        Some(self.told.swap_remove(at))
    }
}
