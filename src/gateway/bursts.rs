//! What bursts see of a gateway, and tell it.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use taugate_ledger::ids::CellId;

use crate::call::Calls;
use crate::config::Config;
use crate::registry::snapshot::{Proofs, Snapshot};
use crate::store::sqlite::SqliteStore;
use crate::synthetic::Mode;
use crate::synthetic::burst::BurstSettings;
use crate::synthetic::bursts::{Bursts, Condition, Floor};
use crate::synthetic::measure::Measures;

/// What bursts see.
#[derive(Debug)]
struct Ground(Arc<Calls>);

// === impl Ground ===

impl Floor for Ground {
    fn unix_ms(&self) -> u64 {
        self.0.books.unix_ms()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.registry.snapshot()
    }

    fn condition(&self, cell: CellId) -> Condition {
        let (pulse, history) = (self.0.vitals.pulse(cell), self.0.vitals.history(cell));
        let now_ms = self.0.now_ms();
        Condition {
            in_flight: pulse.in_flight(),
            concurrency: pulse.concurrency(),
            service_s: history.service() / 1e6,
            closed: pulse.is_pausing(now_ms) || pulse.is_ejected(now_ms),
        }
    }

    fn prove(&self, proofs: Proofs) {
        self.0.registry.set_proofs(proofs);
    }
}

/// How bursts are planned: none where another sends the checks, or nobody.
pub(super) fn settings(config: &Config) -> BurstSettings {
    let mut settings = config.planner.bursts;
    if config.planner.mode != Mode::BuiltIn {
        settings.per_period = 0;
    }
    settings
}

/// The bursts of a gateway.
pub(super) fn bursts(
    config: &Config,
    calls: &Arc<Calls>,
    store: &Arc<SqliteStore>,
    measures: Arc<Measures>,
) -> Arc<Bursts> {
    let seed = config.planner.seed;
    let rng = seed.map_or_else(|| StdRng::from_seed(rand::random()), StdRng::seed_from_u64);
    Arc::new(Bursts::new(
        (settings(config), calls.books.length()),
        calls.books.incarnation(),
        Arc::new(Ground(Arc::clone(calls))),
        (measures, Arc::clone(store) as _),
        rng,
    ))
}
