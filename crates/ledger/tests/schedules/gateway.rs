//! One start of a gateway: the production's tables, lender and journal, and the calls that
//! hold units.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::journal::{Journal, Permit};
use taugate_ledger::lease::{Lender, LenderSettings};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::reservation::{Cause, Reservation};
use taugate_ledger::table::{Room, Tables};
use taugate_ledger::units::Units;

use crate::world::{Broken, Checked, ensure};

/// A call that holds units.
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) origin: Origin,
    pub(crate) held: Reservation,
    pub(crate) slot: Permit<u64>,
}

pub(crate) struct Gateway {
    pub(crate) name: usize,
    pub(crate) inc: Incarnation,
    pub(crate) tables: Arc<Tables>,
    pub(crate) lender: Lender,
    pub(crate) journal: Arc<Journal<u64>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) numbers: u64,
    /// Calls that were told to be durable.
    pub(crate) recorded: BTreeSet<(Period, u64)>,
    /// Units of each ended call.
    pub(crate) ended: BTreeMap<(Period, u64), Units>,
    pub(crate) alive: bool,
    pub(crate) stopping: bool,
    /// Does nothing and hears nothing before this step.
    pub(crate) paused_until: u64,
}

// === impl Gateway ===

impl Gateway {
    pub(crate) fn start(
        name: usize,
        inc: Incarnation,
        period: Period,
        length: PeriodLength,
    ) -> Self {
        let tables = Arc::new(Tables::with_room(period, Room::of(4)));
        let settings = LenderSettings {
            cells_max: 2,
            first_part: 5,
            ..LenderSettings::default()
        };
        Self {
            name,
            inc,
            lender: Lender::new(inc, settings, Arc::clone(&tables), length),
            tables,
            journal: Arc::new(Journal::new(inc, 12)),
            calls: Vec::new(),
            numbers: 0,
            recorded: BTreeSet::new(),
            ended: BTreeMap::new(),
            alive: true,
            stopping: false,
            paused_until: 0,
        }
    }

    pub(crate) const fn admits(&self) -> bool {
        self.alive && !self.stopping
    }

    /// Ends a call in one of four ways.
    pub(crate) fn end(&mut self, call: Call, how: u64) -> Result<Units, Broken> {
        let Call {
            number,
            origin,
            held,
            slot,
        } = call;
        let cells = held.cells().to_vec();
        let (delivered, reserved) = (held.delivered(), held.reserved());
        let posted = match how {
            0 => match held.void(Cause::Failed) {
                Ok(settled) => settled.posted,
                Err(refused) => refused.posted,
            },
            1 => {
                drop(held);
                delivered
            }
            2 => held.post(reserved).posted,
            _ => held.post(delivered).posted,
        };
        ensure!(
            posted <= reserved,
            "I3",
            "posted {posted} of {reserved} reserved"
        );
        let told = self.ended.insert((slot.period(), number), posted);
        ensure!(told.is_none(), "I2", "call {number} ended twice");
        let finish = Finish::Attempt(Outcome::Good);
        slot.send(
            receipt(number, origin, &cells, posted, finish),
            Some(number),
        );
        Ok(posted)
    }

    /// Whether its books close, cell by cell.
    pub(crate) fn check(&self, cells: &[CellId]) -> Checked {
        for period in self.tables.periods() {
            let Some(table) = self.tables.get(period) else {
                continue;
            };
            for cell in cells {
                let granted = table.granted(*cell);
                let (posted, reserved) = (table.posted_total(*cell), table.reserved(*cell));
                let sum = posted.get() + reserved.get() + table.free(*cell).get();
                ensure!(
                    granted.get() == sum,
                    "I1",
                    "{cell:?}: {granted} granted, posted + reserved + free is {sum}"
                );
            }
        }
        Ok(())
    }
}

pub(crate) fn receipt(
    call: u64,
    origin: Origin,
    cells: &[CellId],
    units: Units,
    finish: Finish,
) -> Receipt {
    let attempt = Attempt {
        cell: cells[0],
        outcome: Outcome::Good,
        units,
        first_chunk_us: None,
        duration_us: 1,
    };
    Receipt {
        call,
        origin,
        client: Arc::default(),
        task: Arc::default(),
        admitted_ms: 0,
        finish,
        quality: Quality::Exact,
        units,
        prompt_units: Units::ZERO,
        held: cells.iter().copied().collect(),
        attempts: std::iter::once(attempt).collect(),
        digest: [0; 32],
        labels: Vec::new(),
        claim: None,
    }
}
