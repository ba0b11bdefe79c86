//! Choosing: sample two by weight, take the cheaper, then the other, then sample again, then
//! one bounded scan.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;

use super::balances::{Balance, Balances};
use super::draws::{Draws, below};
use super::explanation::{Candidate, Explanation, Verdict};
use super::plan::{Place, Plan, View};
use super::settings::{Policy, RouterSettings};
use super::vitals::{Pulse, Standing, Vitals};
use crate::registry::snapshot::{Offer, Snapshot};
use crate::task::TaskId;

/// Pairs that are sampled before the scan: they find a miner that is not busy, unless
/// hardly any is.
const SAMPLES: u32 = 5;

/// How far apart the seeds of two calls are; odd, so that all come up.
const SEED_STEP: u64 = 0xd134_2543_de82_ef95;

/// Places that the scan looks at.
const SCAN: usize = 256;

/// Chooses miners for calls.
#[derive(Debug)]
pub struct Router {
    settings: RouterSettings,
    vitals: Arc<Vitals>,
    plans: ArcSwap<HashMap<TaskId, Arc<Plan>>>,
    /// The seed of the next call's draws.
    seeds: AtomicU64,
    turn: AtomicU64,
}

/// What a call needs.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Units that it has to hold.
    pub units: Units,
    /// Cells that were tried.
    pub exclude: &'a [CellId],
    /// The hotkey of the one miner that may answer.
    pub pinned: Option<&'a str>,
    /// Whether only miners may answer that have proven their capacity. A pinned one may anyway:
    /// it is how it proves it.
    pub proven_only: bool,
    /// Whether the candidates are kept for the client.
    pub explain: bool,
}

/// Candidates for one call, best first.
pub struct Choices<'a> {
    router: &'a Router,
    plan: Option<Arc<Plan>>,
    balances: &'a dyn Balances,
    wish: Wish<'a>,
    now_ms: u64,
    draws: Draws,
    sampled: u32,
    scanned: usize,
    start: usize,
    loser: Option<Place>,
    last: Option<Place>,
    seen: Seen,
    candidates: Vec<Candidate>,
}

/// A candidate as it was found.
#[derive(Clone, Copy)]
struct Look<'a> {
    place: Place,
    pulse: &'a Pulse,
    in_flight: u32,
    balance: Balance,
}

/// Why miners were skipped.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is seen by itself")]
struct Seen {
    busy: bool,
    spent: bool,
    excluded: bool,
    unproven: bool,
}

/// Nobody was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// The task has no live miner.
    NoMiner,
    /// Those that have something left are busy.
    AllBusy,
    /// All allotments are spent.
    AllSpent,
    /// All were tried.
    AllExcluded,
    /// Those that are there have not proven their capacity.
    AllUnproven,
}

// === impl Router ===

impl Router {
    /// A router that knows nobody yet. The seed decides its draws.
    #[must_use]
    pub fn new(settings: RouterSettings, seed: u64, vitals: Arc<Vitals>) -> Self {
        Self {
            settings,
            vitals,
            plans: ArcSwap::default(),
            seeds: AtomicU64::new(seed),
            turn: AtomicU64::new(0),
        }
    }

    /// Weighs everyone anew. Call it about once a second and when the snapshot changed.
    pub fn rebuild(&self, snapshot: &Snapshot, balances: &dyn Balances, now_ms: u64) {
        let view = View {
            settings: self.settings,
            balances,
            vitals: &self.vitals,
            now_ms,
            start: self.draws().fraction(),
        };
        let plans = snapshot.markets.iter().map(|(task, market)| {
            let plan = Plan::new(Arc::clone(market), &view);
            (Arc::clone(task), Arc::new(plan))
        });
        self.plans.store(Arc::new(plans.collect()));
    }

    /// Whether a cell can be chosen for a task.
    #[must_use]
    pub fn knows(&self, task: &str, cell: CellId) -> bool {
        let plans = self.plans.load();
        plans.get(task).is_some_and(|plan| plan.knows(cell))
    }

    /// Candidates for a call of a task.
    pub fn choices<'a>(
        &'a self,
        task: &str,
        balances: &'a dyn Balances,
        wish: Wish<'a>,
        now_ms: u64,
    ) -> Choices<'a> {
        let plan = self.plans.load().get(task).map(Arc::clone);
        let places = plan.as_ref().map_or(0, |plan| plan.len());
        let mut draws = self.draws();
        let start = match self.settings.policy {
            Policy::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                usize::try_from(turn).unwrap_or(0).checked_rem(places)
            }
            Policy::TwoChoices | Policy::Random => Some(below(draws.next() >> 32, places)),
        };
        Choices {
            router: self,
            plan,
            balances,
            wish,
            now_ms,
            draws,
            sampled: 0,
            scanned: 0,
            start: start.unwrap_or(0),
            loser: None,
            last: None,
            seen: Seen::default(),
            candidates: Vec::new(),
        }
    }

    /// New ones.
    fn draws(&self) -> Draws {
        Draws::new(self.seeds.fetch_add(SEED_STEP, Ordering::Relaxed))
    }
}

// === impl Choices ===

impl<'a> Choices<'a> {
    /// The cell of the next candidate that has what the call needs, as last seen.
    pub fn next_best(&mut self) -> Option<CellId> {
        let plan = self.plan.take()?;
        self.last = self.next_place(&plan);
        self.plan = Some(plan);
        Some(self.last?.cell)
    }

    fn next_place(&mut self, plan: &Plan) -> Option<Place> {
        if let Some(loser) = self.loser.take() {
            return Some(loser);
        }
        let samples =
            self.wish.pinned.is_none() && self.router.settings.policy == Policy::TwoChoices;
        while samples && self.sampled < SAMPLES {
            self.sampled += 1;
            let Some([one, two]) = plan.sample(&mut self.draws) else {
                break;
            };
            let found = self.cheaper(plan, one, two);
            if found.is_some() {
                return found;
            }
        }
        self.scan(plan)
    }

    /// The last candidate's units went to another call in between.
    pub fn spent(&mut self) {
        self.seen.spent = true;
        self.mark(Verdict::LostRace);
    }

    /// The last candidate was taken: its offer, and how that came where the client asked.
    pub fn chosen(&mut self) -> Option<(Offer, Option<Explanation>)> {
        self.mark(Verdict::Chosen);
        let candidates = std::mem::take(&mut self.candidates);
        let offer = self.plan.as_ref()?.offer(self.last?.at)?.clone();
        let explanation = self.wish.explain.then_some(Explanation {
            policy: self.router.settings.policy,
            candidates,
        });
        Some((offer, explanation))
    }

    /// Why there is nobody left.
    #[must_use]
    pub const fn none(&self) -> NoChoice {
        match self.seen {
            Seen { busy: true, .. } => NoChoice::AllBusy,
            Seen { spent: true, .. } => NoChoice::AllSpent,
            Seen { excluded: true, .. } => NoChoice::AllExcluded,
            Seen { unproven: true, .. } => NoChoice::AllUnproven,
            Seen { .. } => NoChoice::NoMiner,
        }
    }

    fn cheaper(&mut self, plan: &Plan, one: Place, two: Place) -> Option<Place> {
        // Both are fetched before either is judged: their cache misses overlap.
        let [first, second] = [one, two].map(|place| self.look(place));
        let first = self.judge(plan, first, false);
        if one == two {
            return first.map(|_| one);
        }
        let second = self.judge(plan, second, false);
        match (first, second) {
            (Some(a), Some(b)) => {
                let (winner, loser) = if a <= b { (one, two) } else { (two, one) };
                self.loser = Some(loser);
                Some(winner)
            }
            (Some(_), None) => Some(one),
            (None, Some(_)) => Some(two),
            (None, None) => None,
        }
    }

    fn scan(&mut self, plan: &Plan) -> Option<Place> {
        let places = plan.len();
        // A pinned call means one miner, wherever it stands.
        let most = if self.wish.pinned.is_some() {
            places
        } else {
            places.min(SCAN)
        };
        while self.scanned < most {
            let at = (self.start + self.scanned).checked_rem(places)?;
            self.scanned += 1;
            let place = plan.place(at)?;
            if self.judge(plan, self.look(place), true).is_some() {
                return Some(place);
            }
        }
        None
    }

    fn look(&self, place: Place) -> Look<'a> {
        let pulse = self.router.vitals.pulse(place.cell);
        Look {
            place,
            pulse,
            in_flight: pulse.in_flight(),
            balance: self.balances.balance(place.cell),
        }
    }

    /// The candidate's cost, or `None` when it is skipped. The scan, as the last resort,
    /// passes over a fresh ejection: else a bad second could leave nobody.
    fn judge(&mut self, plan: &Plan, look: Look<'_>, scanning: bool) -> Option<f64> {
        let Look {
            place,
            pulse,
            in_flight,
            balance,
        } = look;
        let verdict = if self.is_excluded(plan, place) {
            Verdict::Excluded
        } else if self.is_unproven(plan, place) {
            Verdict::Unproven
        } else {
            self.verdict(look, scanning)
        };
        match verdict {
            Verdict::Busy => self.seen.busy = true,
            Verdict::Exhausted => self.seen.spent = true,
            Verdict::Excluded if self.wish.pinned.is_none() => self.seen.excluded = true,
            Verdict::Unproven => self.seen.unproven = true,
            Verdict::Excluded
            | Verdict::Ejected
            | Verdict::Draining
            | Verdict::Chosen
            | Verdict::HigherScore
            | Verdict::LostRace => {}
        }
        let score = (verdict == Verdict::HigherScore).then(|| pulse.cost(in_flight));
        if self.wish.explain && self.candidates.len() < SCAN {
            self.candidates.push(Candidate {
                hotkey: Arc::clone(&plan.offer(place.at)?.miner.hotkey),
                cell: place.cell,
                score,
                left: balance.left,
                in_flight,
                verdict,
            });
        }
        score
    }

    fn is_excluded(&self, plan: &Plan, place: Place) -> bool {
        let other = self.wish.pinned.is_some_and(|hotkey| {
            let offer = plan.offer(place.at);
            offer.is_none_or(|offer| *hotkey != *offer.miner.hotkey)
        });
        other || self.wish.exclude.contains(&place.cell)
    }

    fn is_unproven(&self, plan: &Plan, place: Place) -> bool {
        let matters = self.wish.proven_only && self.wish.pinned.is_none();
        matters && plan.offer(place.at).is_none_or(|offer| !offer.proven)
    }

    fn verdict(&self, look: Look<'_>, scanning: bool) -> Verdict {
        let Look { pulse, balance, .. } = look;
        let standing = pulse.standing();
        // It never becomes free again: nobody waits for it.
        if standing == Standing::Draining {
            return Verdict::Draining;
        }
        // What was granted before a declaration was lowered is not spent beyond it.
        let after = balance.spent.saturating_add(self.wish.units);
        if balance.left < self.wish.units || after > pulse.allotment() {
            return Verdict::Exhausted;
        }
        let busy = standing == Standing::Busy
            || pulse.is_pausing(self.now_ms)
            || pulse.is_full(look.in_flight);
        if busy {
            return Verdict::Busy;
        }
        let fresh = !scanning && standing != Standing::Spared && pulse.is_ejected(self.now_ms);
        if self.wish.pinned.is_none() && (standing == Standing::Ejected || fresh) {
            return Verdict::Ejected;
        }
        Verdict::HigherScore
    }

    fn mark(&mut self, verdict: Verdict) {
        let Some(Place { cell, .. }) = self.last else {
            return;
        };
        let mut looked_at = self.candidates.iter_mut().rev();
        if let Some(candidate) = looked_at.find(|candidate| candidate.cell == cell) {
            candidate.verdict = verdict;
        }
    }
}

impl std::fmt::Debug for Choices<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Choices")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}
