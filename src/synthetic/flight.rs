//! The checks of a cell that run, each with what it holds.

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

/// Names a check that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) cell: CellId,
    number: u64,
}

/// All that run of a cell. Bounded by the checks that a miner is sent at once.
#[derive(Debug, Default)]
pub(super) struct Flights {
    begun: u64,
    live: Vec<Live>,
}

#[derive(Debug)]
struct Live {
    flight: Flight,
    /// What it was planned to hold, then what it holds.
    units: Units,
    holds: bool,
}

// === impl Flights ===

impl Flights {
    /// A check leaves that will hold about so much.
    pub(super) fn begin(&mut self, cell: CellId, units: Units) -> Flight {
        self.begun = self.begun.wrapping_add(1);
        let flight = Flight {
            cell,
            number: self.begun,
        };
        self.live.push(Live {
            flight,
            units,
            holds: false,
        });
        flight
    }

    /// It holds its units now; `false` when it is not known.
    pub(super) fn hold(&mut self, flight: Flight, units: Units) -> bool {
        let live = self.live.iter_mut().find(|live| live.flight == flight);
        live.is_some_and(|live| {
            (live.units, live.holds) = (units, true);
            true
        })
    }

    pub(super) fn end(&mut self, flight: Flight) {
        self.live.retain(|live| live.flight != flight);
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// What all hold, or will.
    pub(super) fn planned(&self) -> Units {
        self.live.iter().map(|live| live.units).sum()
    }

    /// What those hold that hold anything.
    pub(super) fn held(&self) -> Units {
        let held = self.live.iter().filter(|live| live.holds);
        held.map(|live| live.units).sum()
    }
}
