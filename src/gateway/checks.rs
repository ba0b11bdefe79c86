//! What the planner of checks sees of a gateway.

use std::sync::Arc;

use taugate_ledger::table::Table;

use crate::books::Books;
use crate::call::Calls;
use crate::config::Config;
use crate::registry::Registry;
use crate::registry::snapshot::Snapshot;
use crate::synthetic::Mode;
use crate::synthetic::bursts::Bursts;
use crate::synthetic::desk::{Desk, Sight};

/// Where it is known what is due; none where nobody plans.
pub(super) type Planned = Option<Arc<Desk>>;

/// What the planner sees.
#[derive(Debug)]
struct Scene {
    books: Arc<Books>,
    registry: Arc<Registry>,
}

/// Lays out what is due, nothing drawn yet.
pub(super) fn desk(config: &Config, calls: &Calls, bursts: &Arc<Bursts>) -> Planned {
    let books = &calls.books;
    let scene = Scene {
        books: Arc::clone(books),
        registry: Arc::clone(&calls.registry),
    };
    let settings = config.planner.clone();
    let planned = settings.mode != Mode::Off;
    let desk = || Desk::new(Arc::new(scene), books.length(), settings);
    planned.then(|| Arc::new(desk().with(Arc::clone(bursts))))
}

// === impl Scene ===

impl Sight for Scene {
    fn unix_ms(&self) -> u64 {
        self.books.unix_ms()
    }

    fn table(&self) -> Arc<Table> {
        self.books.admit().0
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.registry.snapshot()
    }
}
