//! The roll of miners: who declared what, and what follows from it. Pure: no engine, no
//! clock; [`super::book`] writes durably and publishes what this finds.
//!
//! Nothing here is in the order of hotkeys: whoever came first stands first, so that names
//! decide nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use taugate_ledger::ids::CellId;
use taugate_ledger::period::PeriodLength;
use taugate_ledger::units::Units;

use super::availability::{Change, Word};
use super::checked::{Checked, CheckedTask};
use super::declaration::Subject;
use super::settings::RegistrySettings;
use super::snapshot::{Market, Miner, Offer, Proofs, Snapshot};
use crate::identity::hotkey::Hotkey;
use crate::task::{Task, TaskId, TaskKind, Tasks, is_id};

/// Tasks that declarations may open in the life of a process. Each keeps a cell a miner for
/// ever, and its name is whatever a miner wrote.
const OPENED_MAX: usize = 256;

/// Who declared what.
#[derive(Debug)]
pub(super) struct Roll {
    configured: Arc<Tasks>,
    /// The configured tasks, and those that declarations open.
    tasks: Arc<Tasks>,
    opened: BTreeSet<TaskId>,
    /// By number: in the order in which they came.
    miners: BTreeMap<u32, Entry>,
    numbers: HashMap<Hotkey, u32>,
    next_number: u32,
    cells: HashMap<Subject, CellId>,
}

#[derive(Debug)]
struct Entry {
    checked: Checked,
    miner: Arc<Miner>,
    withdrawn: bool,
    word: Word,
}

/// What a miner may be asked for of a task that it declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The task.
    pub task: TaskId,
    /// What it declared for a period, units.
    pub declared: Units,
    /// What of it is this validator's, units a period.
    pub allotment: Units,
    /// The books' number; `None` while it has none.
    pub cell: Option<CellId>,
    /// Why the task does not count.
    pub left_out: Option<LeftOut>,
}

/// A miner that is held, whether or not its declaration counts.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// Who it is for everyone else.
    pub miner: Arc<Miner>,
    /// The sequence of its last declaration.
    pub sequence: u64,
    /// Until when that counts, Unix milliseconds.
    pub valid_until_ms: u64,
    /// Whether it was taken back, by the miner or because its hotkey is not registered.
    pub withdrawn: bool,
    /// What it declared.
    pub standings: Vec<Standing>,
}

/// Why a declared task does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// There is no such task here.
    UnknownTask,
    /// The task does something else.
    WrongKind,
}

// === impl LeftOut ===

impl LeftOut {
    /// A word for the miner.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownTask => "unknown_task",
            Self::WrongKind => "wrong_kind",
        }
    }
}

// === impl Roll ===

impl Roll {
    pub(super) fn new(configured: Arc<Tasks>) -> Self {
        Self {
            tasks: Arc::clone(&configured),
            configured,
            opened: BTreeSet::new(),
            miners: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            cells: HashMap::new(),
        }
    }

    fn entry(&self, hotkey: &Hotkey) -> Option<&Entry> {
        self.miners.get(self.numbers.get(hotkey)?)
    }

    fn entry_mut(&mut self, hotkey: &Hotkey) -> Option<&mut Entry> {
        self.miners.get_mut(self.numbers.get(hotkey)?)
    }

    /// Whether there is room for a hotkey: it is held already, or one that no longer counts
    /// makes place. (The store keeps the sequence of whoever is forgotten here.)
    pub(super) fn make_room(&mut self, hotkey: &Hotkey, miners_max: usize, now_ms: u64) -> bool {
        if self.numbers.contains_key(hotkey) || self.miners.len() < miners_max {
            return true;
        }
        let gone = self.miners.iter().find(|(_, entry)| !entry.counts(now_ms));
        let Some((number, gone)) = gone.map(|(number, entry)| (*number, entry.checked.hotkey))
        else {
            return false;
        };
        self.miners.remove(&number);
        self.numbers.remove(&gone);
        true
    }

    /// Keeps a declaration that was written.
    pub(super) fn remember(&mut self, checked: Checked, endpoint: http::Uri, withdrawn: bool) {
        let hotkey = checked.hotkey;
        let number = self.numbers.get(&hotkey).copied().unwrap_or_else(|| {
            let number = self.next_number;
            self.next_number = number.saturating_add(1);
            number
        });
        let before = self.miners.remove(&number);
        let mut word = before.map_or_else(Word::default, |before| {
            let mut word = before.word;
            word.restate(restated(&before.checked, &checked));
            word
        });
        word.keep(|task| checked.has(task));
        let miner = Arc::new(Miner {
            hotkey: Arc::from(hotkey.to_string()),
            number,
            endpoint,
        });
        self.numbers.insert(hotkey, number);
        let entry = Entry {
            checked,
            miner,
            withdrawn,
            word,
        };
        self.miners.insert(number, entry);
    }

    pub(super) fn withdraw(&mut self, hotkey: &Hotkey) {
        if let Some(entry) = self.entry_mut(hotkey) {
            entry.withdrawn = true;
        }
    }

    /// Takes back the declarations of all these hotkeys.
    pub(super) fn withdraw_all(&mut self, whose: impl Fn(&Hotkey) -> bool) {
        for entry in self.miners.values_mut() {
            entry.withdrawn |= whose(&entry.checked.hotkey);
        }
    }

    pub(super) fn set_tasks(&mut self, configured: Arc<Tasks>) {
        self.configured = configured;
    }

    /// Heeds what a miner says of itself; `false` when it is older than what it said before,
    /// or of a task that it did not declare.
    pub(super) fn heed(&mut self, hotkey: &Hotkey, change: Change) -> bool {
        let Some(entry) = self.entry_mut(hotkey) else {
            return false;
        };
        let known = change
            .task
            .as_deref()
            .is_none_or(|task| entry.checked.has(task));
        known && entry.word.heed(change)
    }

    /// Forgets what a miner said of itself.
    pub(super) fn forget_word(&mut self, hotkey: &Hotkey) {
        if let Some(entry) = self.entry_mut(hotkey) {
            entry.word.forget();
        }
    }

    /// Takes a miner's "busy" back.
    pub(super) fn forget_busy(&mut self, hotkey: &Hotkey) -> bool {
        self.entry_mut(hotkey)
            .is_some_and(|entry| entry.word.forget_busy())
    }

    /// Finds anew which tasks there are, and names the subjects that have no number yet.
    /// Tasks that nobody offers here get none: their names are whatever a miner wrote.
    pub(super) fn settle(&mut self, settings: &RegistrySettings, now_ms: u64) -> Vec<Subject> {
        self.tasks = self.open_tasks(settings, now_ms);
        let counting = self.miners.values().filter(|entry| entry.counts(now_ms));
        let offers = counting.flat_map(|entry| {
            let counting = entry.checked.tasks.iter();
            counting
                .filter(|task| self.task(task).is_ok())
                .map(|task| entry.subject(task))
        });
        let ceilings = self.tasks.iter().filter(|task| task.ceiling.is_some());
        let ceilings = ceilings.map(|task| ceiling(task));
        let subjects = offers.chain(ceilings);
        subjects
            .filter(|subject| !self.cells.contains_key(subject))
            .collect()
    }

    fn open_tasks(&mut self, settings: &RegistrySettings, now_ms: u64) -> Arc<Tasks> {
        if !settings.open_tasks {
            return Arc::clone(&self.configured);
        }
        let mut opened = BTreeSet::new();
        for entry in self.miners.values().filter(|entry| entry.counts(now_ms)) {
            for task in &entry.checked.tasks {
                let new = task.kind == TaskKind::Chat
                    && is_id(&task.id)
                    && self.configured.get(&task.id).is_none();
                let room = self.opened.len() < OPENED_MAX || self.opened.contains(&task.id);
                if new && room {
                    self.opened.insert(Arc::clone(&task.id));
                    opened.insert(Arc::clone(&task.id));
                }
            }
        }
        // The weights of configured tasks sum to one already.
        let weight = if self.configured.is_empty() {
            1.0 / f64::from(u32::try_from(opened.len().max(1)).unwrap_or(u32::MAX))
        } else {
            0.0
        };
        let configured = self.configured.iter().map(|task| (**task).clone());
        let opened = opened.into_iter().map(|id| Task {
            weight,
            ..Task::open_chat(id)
        });
        Arc::new(configured.chain(opened).collect())
    }

    pub(super) fn learn(&mut self, subject: Subject, cell: CellId) {
        self.cells.insert(subject, cell);
    }

    /// The task that a declared one is, or why it does not count.
    fn task(&self, declared: &CheckedTask) -> Result<&Arc<Task>, LeftOut> {
        let task = self.tasks.get(&declared.id).ok_or(LeftOut::UnknownTask)?;
        if task.kind == declared.kind {
            Ok(task)
        } else {
            Err(LeftOut::WrongKind)
        }
    }

    /// What each cell may be spent to in a period; those that nobody offers get nothing.
    pub(super) fn wanted(
        &self,
        settings: &RegistrySettings,
        length: PeriodLength,
        now_ms: u64,
    ) -> BTreeMap<CellId, Units> {
        let nothing = self.cells.values().map(|cell| (*cell, Units::ZERO));
        let mut wanted: BTreeMap<_, _> = nothing.collect();
        for entry in self.miners.values().filter(|entry| entry.counts(now_ms)) {
            for standing in self.standings(entry, settings, length) {
                wanted.extend(standing.cell.map(|cell| (cell, standing.allotment)));
            }
        }
        wanted.extend(self.tasks.iter().filter_map(|task| {
            let cell = self.cells.get(&ceiling(task))?;
            Some((*cell, task.ceiling?))
        }));
        wanted
    }

    /// What a miner may be asked for, by task that it declared.
    pub(super) fn standing(
        &self,
        hotkey: &Hotkey,
        settings: &RegistrySettings,
        length: PeriodLength,
    ) -> Vec<Standing> {
        let entry = self.entry(hotkey).filter(|entry| !entry.withdrawn);
        entry.map_or_else(Vec::new, |entry| {
            self.standings(entry, settings, length).collect()
        })
    }

    /// All miners that are held, in the order in which they came.
    pub(super) fn held(&self, settings: &RegistrySettings, length: PeriodLength) -> Vec<Held> {
        let held = |entry: &Entry| Held {
            hotkey: entry.checked.hotkey,
            miner: Arc::clone(&entry.miner),
            sequence: entry.checked.sequence,
            valid_until_ms: entry.checked.valid_until_ms,
            withdrawn: entry.withdrawn,
            standings: self.standings(entry, settings, length).collect(),
        };
        self.miners.values().map(held).collect()
    }

    fn standings<'a>(
        &'a self,
        entry: &'a Entry,
        settings: &'a RegistrySettings,
        length: PeriodLength,
    ) -> impl Iterator<Item = Standing> + 'a {
        entry.checked.tasks.iter().map(move |declared| {
            let amount = declared.per_period(length);
            let task = self.task(declared);
            let allotment =
                task.map_or(Units::ZERO, |task| settings.share.of(amount.min(task.cap)));
            Standing {
                task: Arc::clone(&declared.id),
                declared: amount,
                allotment,
                // Also of a task that is gone: what was booked of it stays booked.
                cell: self.cells.get(&entry.subject(declared)).copied(),
                left_out: task.err(),
            }
        })
    }

    /// A snapshot of what stands now, with the cells that are `set` in the engine; and when
    /// the first of it expires, Unix milliseconds.
    pub(super) fn snapshot(
        &self,
        before: &Snapshot,
        (settings, proofs): (&RegistrySettings, &Proofs),
        (length, now_ms): (PeriodLength, u64),
        set: impl Fn(CellId) -> bool,
    ) -> (Snapshot, Option<u64>) {
        let mut expires_ms: Option<u64> = None;
        let mut offers: HashMap<TaskId, Vec<Offer>> = HashMap::new();
        for entry in self.miners.values().filter(|entry| entry.counts(now_ms)) {
            let until_ms = entry.checked.valid_until_ms;
            expires_ms = Some(expires_ms.map_or(until_ms, |first| first.min(until_ms)));
            for standing in self.standings(entry, settings, length) {
                let cell = standing.cell.filter(|cell| set(*cell));
                if let Some(cell) = cell.filter(|_| !standing.allotment.is_zero()) {
                    let task = Arc::clone(&standing.task);
                    let mut offer = entry.offer(cell, &standing, settings);
                    let shown = proofs.shown.get(&cell);
                    offer.proven = shown.is_some_and(|shown| shown.is_proven(offer.allotment));
                    if proofs.planned {
                        offer.verified = shown.map_or(Units::ZERO, |shown| shown.verified);
                    }
                    offers.entry(task).or_default().push(offer);
                }
            }
        }
        let version = before.version.saturating_add(1);
        let markets = self.tasks.iter().map(|task| {
            let offers = offers.remove(&task.id).unwrap_or_default();
            let cell = task.ceiling.and_then(|_| self.cells.get(&ceiling(task)));
            let mut market = Market {
                task: Arc::clone(task),
                ceiling: cell.copied().filter(|cell| set(*cell)),
                revision: version,
                offers,
            };
            let older = before.markets.get(&task.id);
            if let Some(older) = older.filter(|older| same_offers(older, &market)) {
                market.revision = older.revision;
            }
            (Arc::clone(&task.id), Arc::new(market))
        });
        let snapshot = Snapshot {
            version,
            tasks: Arc::clone(&self.tasks),
            markets: markets.collect(),
            proving: proofs.planned,
        };
        (snapshot, expires_ms)
    }
}

/// Whether two markets differ in no more than availability.
fn same_offers(older: &Market, newer: &Market) -> bool {
    let pairs = || older.offers.iter().zip(&newer.offers);
    older.task == newer.task
        && older.ceiling == newer.ceiling
        && older.offers.len() == newer.offers.len()
        && pairs().all(|(older, newer)| {
            older.cell == newer.cell
                && older.miner == newer.miner
                && older.allotment == newer.allotment
                && older.concurrency == newer.concurrency
                && older.verified == newer.verified
                && older.proven == newer.proven
        })
}

/// The tasks of which a newer declaration states another number of requests at once.
fn restated(older: &Checked, newer: &Checked) -> Vec<TaskId> {
    let stated = |of: &Checked, id: &TaskId| {
        let mut tasks = of.tasks.iter();
        tasks.find(|task| task.id == *id)?.concurrency
    };
    let ids = newer.tasks.iter().map(|task| &task.id);
    ids.filter(|id| stated(older, id) != stated(newer, id))
        .cloned()
        .collect()
}

fn ceiling(task: &Task) -> Subject {
    Subject::Ceiling {
        task: Arc::clone(&task.id),
    }
}

// === impl Entry ===

impl Entry {
    /// Whether its declaration stands.
    fn counts(&self, now_ms: u64) -> bool {
        !self.withdrawn && self.checked.valid_until_ms > now_ms
    }

    fn subject(&self, task: &CheckedTask) -> Subject {
        Subject::Miner {
            hotkey: self.checked.hotkey,
            task: Arc::clone(&task.id),
        }
    }

    fn offer(&self, cell: CellId, standing: &Standing, settings: &RegistrySettings) -> Offer {
        let declared = self.checked.tasks.iter();
        let declared = declared
            .filter(|task| task.id == standing.task)
            .find_map(|task| task.concurrency);
        let said = self.word.of(&standing.task);
        // What a miner states is over all validators, like its units; one at least.
        let share = declared.map(|all| {
            let part = settings.share.of(Units::new(u64::from(all))).get();
            u32::try_from(part).unwrap_or(u32::MAX).max(1)
        });
        Offer {
            cell,
            miner: Arc::clone(&self.miner),
            declared: standing.declared,
            allotment: standing.allotment,
            verified: standing.declared,
            proven: false,
            concurrency: said.and_then(|said| said.concurrency).or(share),
            availability: said.map_or(super::snapshot::Availability::Free, |said| {
                said.availability
            }),
        }
    }
}
