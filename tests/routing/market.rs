//! A small market for tests of single choices: offers, and what is left of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taugate::registry::snapshot::{Availability, Market, Miner, Offer, Snapshot};
use taugate::routing::{
    Balance, Balances, Choices, InFlight, Policy, Router, RouterSettings, Sample, Vitals, Wish,
};
use taugate::task::Task;
use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

pub(crate) const TASK: &str = "task";
/// Units of a call.
pub(crate) const CALL: u64 = 100;

/// What is left of cells, and how often it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Purse {
    spent: Mutex<HashMap<CellId, u64>>,
    allotted: Mutex<HashMap<CellId, u64>>,
    looks: AtomicUsize,
}

/// A market, its router, and a clock that stands still unless told.
pub(crate) struct Fair {
    pub(crate) router: Router,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) purse: Purse,
    pub(crate) now_ms: u64,
    offers: Vec<Offer>,
}

impl Purse {
    pub(crate) fn spend(&self, cell: CellId, units: u64) {
        *self.spent.lock().entry(cell).or_default() += units;
    }

    /// How often a balance was looked at since the last time.
    pub(crate) fn looks(&self) -> usize {
        self.looks.swap(0, Ordering::Relaxed)
    }
}

impl Balances for Purse {
    fn balance(&self, cell: CellId) -> Balance {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let allotted = self.allotted.lock().get(&cell).copied().unwrap_or_default();
        let spent = self.spent.lock().get(&cell).copied().unwrap_or_default();
        Balance {
            left: Units::new(allotted.saturating_sub(spent)),
            spent: Units::new(spent),
        }
    }
}

impl Fair {
    /// Miners with so many units each.
    pub(crate) fn new(allotments: &[u64]) -> Self {
        Self::with(Policy::TwoChoices, allotments)
    }

    pub(crate) fn with(policy: Policy, allotments: &[u64]) -> Self {
        let settings = RouterSettings {
            policy,
            period: Duration::from_secs(3600),
        };
        let vitals = Arc::new(Vitals::default());
        let mut fair = Self {
            router: Router::new(settings, 7, Arc::clone(&vitals)),
            vitals,
            purse: Purse::default(),
            now_ms: 1_000_000,
            offers: Vec::new(),
        };
        for allotment in allotments {
            fair.join(*allotment);
        }
        fair.rebuild();
        fair
    }

    /// A miner more; it counts from the next `rebuild` on.
    pub(crate) fn join(&mut self, allotment: u64) -> CellId {
        let number = u32::try_from(self.offers.len()).expect("a few");
        let cell = CellId(number);
        let allotted = Units::new(allotment);
        self.purse.allotted.lock().insert(cell, allotment);
        self.offers.push(Offer {
            cell,
            miner: Arc::new(Miner {
                hotkey: format!("miner-{number}").into(),
                number,
                endpoint: http::Uri::from_static("http://127.0.0.1:1"),
            }),
            declared: allotted,
            allotment: allotted,
            verified: allotted,
            proven: true,
            concurrency: None,
            availability: Availability::Free,
        });
        cell
    }

    /// Changes an offer; it counts from the next `rebuild` on.
    pub(crate) fn change(&mut self, at: usize, change: impl FnOnce(&mut Offer)) {
        change(&mut self.offers[at]);
    }

    pub(crate) fn rebuild(&self) {
        let market = Market {
            task: Arc::new(Task::open_chat(TASK.into())),
            ceiling: None,
            revision: 1,
            offers: self.offers.clone(),
        };
        let snapshot = Snapshot {
            proving: false,
            markets: HashMap::from([(TASK.into(), Arc::new(market))]),
            ..Snapshot::default()
        };
        self.router.rebuild(&snapshot, &self.purse, self.now_ms);
    }

    pub(crate) fn choices<'a>(&'a self, wish: Wish<'a>) -> Choices<'a> {
        self.router.choices(TASK, &self.purse, wish, self.now_ms)
    }

    /// The first choice for a call like any other.
    pub(crate) fn choose(&self) -> Option<CellId> {
        self.choices(wish(&[])).next_best()
    }

    /// How often each miner is the first choice of so many calls.
    pub(crate) fn shares(&self, calls: usize) -> Vec<usize> {
        let mut shares = vec![0; self.offers.len()];
        for _ in 0..calls {
            if let Some(cell) = self.choose() {
                shares[cell.0 as usize] += 1;
            }
        }
        shares
    }

    pub(crate) fn begin(&self, cell: CellId) -> InFlight {
        self.vitals.begin(cell, Units::new(CALL))
    }

    /// An attempt that ends so, after a second.
    pub(crate) fn attempt(&self, cell: CellId, outcome: Outcome) {
        let place = self.begin(cell);
        let units = if outcome == Outcome::Good { CALL } else { 0 };
        let sample = Sample {
            first_chunk: Some(Duration::from_millis(200)),
            duration: Duration::from_secs(1),
            units: Units::new(units),
            output: Units::new(units),
        };
        self.vitals.ended(place, outcome, sample, self.now_ms);
    }

    /// A good attempt whose answer takes so many milliseconds to write.
    pub(crate) fn wrote(&self, cell: CellId, millis: u64) {
        let place = self.begin(cell);
        let units = Units::new(CALL);
        let first_chunk = Duration::from_millis(10);
        let sample = Sample {
            first_chunk: Some(first_chunk),
            duration: first_chunk + Duration::from_millis(millis),
            units,
            output: units,
        };
        self.vitals.ended(place, Outcome::Good, sample, self.now_ms);
    }

    pub(crate) fn fail(&self, cell: CellId, times: usize) {
        for _ in 0..times {
            self.attempt(cell, Outcome::Lost);
        }
    }
}

/// A call like any other.
pub(crate) const fn wish(exclude: &[CellId]) -> Wish<'_> {
    Wish {
        units: Units::new(CALL),
        exclude,
        pinned: None,
        proven_only: false,
        explain: false,
    }
}
