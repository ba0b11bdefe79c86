//! The registry itself: who declared what, written durably, published as snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use taugate_ledger::ids::CellId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio::sync::watch;

use super::checked::{Checked, CheckedTask, DeclareError, check};
use super::declaration::{DeclarationRow, DeclarationStore, Put, Subject};
use super::share::Share;
use super::snapshot::{Availability, Market, Miner, Offer, Snapshot};
use crate::clock::SharedClock;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::task::{Task, TaskId, TaskKind, Tasks};

/// How the registry behaves.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Declarations for another network are refused.
    pub network: Arc<str>,
    /// The part of each declaration that belongs to this validator.
    pub share: Share,
    /// Whether any hotkey may declare; otherwise only those that are listed.
    pub open_registration: bool,
    /// The hotkeys that may declare.
    pub hotkeys: BTreeSet<Hotkey>,
    /// Whether a task is made for each model that a miner declares.
    pub open_tasks: bool,
    /// Miners at most.
    pub miners_max: usize,
}

/// What the gateway holds of miners.
#[derive(Debug)]
pub struct Registry {
    settings: RegistrySettings,
    length: PeriodLength,
    clock: SharedClock,
    store: Arc<dyn DeclarationStore>,
    state: Mutex<State>,
    snapshot: ArcSwap<Snapshot>,
    published: watch::Sender<u64>,
    /// Writers of declarations come one after the other, so that what is published never
    /// steps behind what is written.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    configured: Arc<Tasks>,
    declared: BTreeMap<Hotkey, Declared>,
    cells: HashMap<Subject, CellId>,
    open: BTreeSet<Period>,
    version: u64,
    numbers: u32,
}

#[derive(Debug)]
struct Declared {
    checked: Checked,
    miner: Arc<Miner>,
    withdrawn: bool,
    counter: u64,
    said: HashMap<Option<TaskId>, Said>,
}

/// What a miner last said of itself.
#[derive(Clone, Copy, Debug)]
struct Said {
    availability: Availability,
    concurrency: Option<u32>,
}

/// A change in a miner's availability.
#[derive(Clone, Debug)]
pub struct Change {
    /// Rises with each change of the miner.
    pub counter: u64,
    /// One task, or all.
    pub task: Option<TaskId>,
    /// How it is.
    pub availability: Availability,
    /// Requests at once; `None`: as declared.
    pub concurrency: Option<u32>,
}

// === impl Registry ===

impl Registry {
    /// Loads what was declared before.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn open(
        settings: RegistrySettings,
        tasks: Arc<Tasks>,
        store: Arc<dyn DeclarationStore>,
        clock: SharedClock,
        length: PeriodLength,
    ) -> Result<Arc<Self>, StoreAway> {
        let registry = Self {
            settings,
            length,
            clock,
            state: Mutex::new(State {
                configured: tasks,
                ..State::default()
            }),
            snapshot: ArcSwap::default(),
            published: watch::Sender::new(0),
            writing: tokio::sync::Mutex::new(()),
            store,
        };
        for row in registry.store.declarations().await? {
            // A row was checked when it was written; one that no longer passes (it expired,
            // the network changed) waits for the miner's next word.
            match registry.check_row(&row) {
                Ok(checked) => registry.remember(checked, &row.endpoint, row.withdrawn),
                Err(error) => {
                    tracing::info!(hotkey = %row.hotkey, %error, "a stored declaration no longer counts");
                }
            }
        }
        registry.number_cells().await?;
        registry.publish();
        Ok(Arc::new(registry))
    }

    /// All that is known, as of now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Says when there is a new snapshot.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// How it behaves.
    #[must_use]
    pub const fn settings(&self) -> &RegistrySettings {
        &self.settings
    }

    /// Takes a signed declaration and the endpoint that came with it. Equal bytes again are
    /// a success.
    ///
    /// # Errors
    /// When it is malformed, foreign, expired, stale, or its hotkey is not registered.
    pub async fn declare(
        &self,
        record: super::checked::Record<'_>,
        endpoint: &str,
    ) -> Result<(), DeclareError> {
        let now_ms = self.clock.unix_ms();
        let checked = check(record, &self.settings.network, now_ms)?;
        let endpoint = super::checked::endpoint(endpoint)?;
        self.admit(&checked)?;
        let _writing = self.writing.lock().await;
        let row = DeclarationRow {
            hotkey: checked.hotkey,
            sequence: checked.sequence,
            payload: bytes::Bytes::copy_from_slice(record.payload),
            signature: record
                .signature
                .try_into()
                .map_err(|_| DeclareError::Signature)?,
            endpoint: Arc::from(endpoint.as_str()),
            accepted_ms: now_ms,
            withdrawn: false,
        };
        let endpoint = Arc::clone(&row.endpoint);
        match self.store.put_declaration(row).await? {
            Put::Stored | Put::Same => {}
            Put::Stale => return Err(DeclareError::Stale),
        }
        self.remember(checked, &endpoint, false);
        Ok(self.settle_cells().await?)
    }

    /// Takes a declaration back: new work stops at once.
    ///
    /// # Errors
    /// When there is none, or the sequence is lower than its own.
    pub async fn withdraw(&self, hotkey: Hotkey, sequence: u64) -> Result<(), DeclareError> {
        let _writing = self.writing.lock().await;
        if !self.store.withdraw(hotkey, sequence).await? {
            return Err(DeclareError::Stale);
        }
        if let Some(declared) = self.state.lock().declared.get_mut(&hotkey) {
            declared.withdrawn = true;
        }
        Ok(self.settle_cells().await?)
    }

    /// Heeds what a miner says of itself; a lower counter than before is ignored.
    pub fn set_availability(&self, hotkey: Hotkey, change: Change) -> bool {
        let mut state = self.state.lock();
        let Some(declared) = state.declared.get_mut(&hotkey) else {
            return false;
        };
        let known = change
            .task
            .as_ref()
            .is_none_or(|task| declared.checked.has(task));
        if !known || change.counter <= declared.counter {
            return false;
        }
        declared.counter = change.counter;
        if change.task.is_none() {
            declared.said.clear();
        }
        let said = Said {
            availability: change.availability,
            concurrency: change.concurrency,
        };
        declared.said.insert(change.task, said);
        drop(state);
        self.publish();
        true
    }

    /// Replaces the configured tasks.
    ///
    /// # Errors
    /// When the engine is away; the old ones then stand.
    pub async fn set_tasks(&self, tasks: Arc<Tasks>) -> Result<(), StoreAway> {
        let _writing = self.writing.lock().await;
        self.state.lock().configured = tasks;
        self.settle_cells().await
    }

    /// Opens a period in the engine: each cell gets what it may be spent to.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn open_period(&self, period: Period) -> Result<(), StoreAway> {
        let _writing = self.writing.lock().await;
        self.note_open(period);
        self.settle_cells().await
    }

    /// The running period and the next one are kept in step with declarations.
    #[expect(clippy::significant_drop_tightening, reason = "one look at one state")]
    fn note_open(&self, period: Period) {
        let mut state = self.state.lock();
        state.open.insert(period);
        while state.open.len() > 2 {
            state.open.pop_first();
        }
    }

    /// What each offered cell may be spent to in a period.
    #[must_use]
    pub fn wanted(&self) -> Vec<(CellId, Units)> {
        let snapshot = self.snapshot();
        let offers = snapshot
            .markets
            .values()
            .flat_map(|market| market.offers.iter());
        let offered = offers.map(|offer| (offer.cell, offer.allotment));
        let ceilings = snapshot
            .markets
            .values()
            .filter_map(|market| Some((market.ceiling?, market.task.ceiling?)));
        offered.chain(ceilings).collect()
    }

    async fn settle_cells(&self) -> Result<(), StoreAway> {
        self.number_cells().await?;
        self.publish();
        let mut wanted: BTreeMap<_, _> = self
            .state
            .lock()
            .cells
            .values()
            .map(|cell| (*cell, Units::ZERO))
            .collect();
        // What is no longer offered gets nothing more.
        wanted.extend(self.wanted());
        let open = self.state.lock().open.clone();
        for period in open {
            self.store
                .set_cells(period, wanted.clone().into_iter().collect())
                .await?;
        }
        Ok(())
    }

    fn check_row(&self, row: &DeclarationRow) -> Result<Checked, DeclareError> {
        let record = super::checked::Record {
            hotkey: row.hotkey,
            payload: &row.payload,
            signature: &row.signature,
        };
        check(record, &self.settings.network, self.clock.unix_ms())
    }

    fn admit(&self, checked: &Checked) -> Result<(), DeclareError> {
        let hotkey = &checked.hotkey;
        if !self.settings.open_registration && !self.settings.hotkeys.contains(hotkey) {
            return Err(DeclareError::NotRegistered);
        }
        let declared = &self.state.lock().declared;
        let room = declared.len() < self.settings.miners_max || declared.contains_key(hotkey);
        if room {
            Ok(())
        } else {
            Err(DeclareError::Full)
        }
    }

    fn remember(&self, checked: Checked, endpoint: &str, withdrawn: bool) {
        let Ok(endpoint) = endpoint.parse::<http::Uri>() else {
            return;
        };
        let mut state = self.state.lock();
        let before = state.declared.remove(&checked.hotkey);
        let number = before
            .as_ref()
            .map_or(state.numbers, |before| before.miner.number);
        if before.is_none() {
            state.numbers = state.numbers.saturating_add(1);
        }
        let miner = Arc::new(Miner {
            hotkey: Arc::from(checked.hotkey.to_string()),
            number,
            endpoint,
        });
        let (counter, said) = before.map(|b| (b.counter, b.said)).unwrap_or_default();
        let hotkey = checked.hotkey;
        state.declared.insert(
            hotkey,
            Declared {
                checked,
                miner,
                withdrawn,
                counter,
                said,
            },
        );
    }

    /// Gives every subject its number.
    async fn number_cells(&self) -> Result<(), StoreAway> {
        let missing = self.unnumbered();
        for subject in missing {
            let cell = self.store.subject(subject.clone()).await?;
            self.state.lock().cells.insert(subject, cell);
        }
        Ok(())
    }

    #[expect(clippy::significant_drop_tightening, reason = "one look at one state")]
    fn unnumbered(&self) -> Vec<Subject> {
        let state = self.state.lock();
        let tasks = self.tasks(&state);
        let offers = state.declared.values().flat_map(|declared| {
            declared.checked.tasks.iter().map(|task| Subject::Miner {
                hotkey: declared.checked.hotkey,
                task: Arc::clone(&task.id),
            })
        });
        let ceilings = tasks
            .iter()
            .filter(|task| task.ceiling.is_some())
            .map(|task| Subject::Ceiling {
                task: Arc::clone(&task.id),
            });
        let subjects = offers.chain(ceilings);
        subjects
            .filter(|subject| !state.cells.contains_key(subject))
            .collect()
    }

    /// The configured tasks, and those that declarations open.
    fn tasks(&self, state: &State) -> Arc<Tasks> {
        if !self.settings.open_tasks {
            return Arc::clone(&state.configured);
        }
        let declared = state
            .declared
            .values()
            .filter(|declared| !declared.withdrawn);
        let named = declared.flat_map(|declared| declared.checked.tasks.iter());
        let opened: BTreeSet<TaskId> = named
            .filter(|task| task.kind == TaskKind::Chat && state.configured.get(&task.id).is_none())
            .map(|task| Arc::clone(&task.id))
            .collect();
        let mut tasks: Vec<Task> = state
            .configured
            .iter()
            .map(|task| (**task).clone())
            .collect();
        tasks.extend(opened.into_iter().map(Task::open_chat));
        Arc::new(tasks.into_iter().collect())
    }

    /// Makes a new snapshot of all that is known.
    fn publish(&self) {
        let mut state = self.state.lock();
        state.version = state.version.saturating_add(1);
        let version = state.version;
        let now_ms = self.clock.unix_ms();
        let tasks = self.tasks(&state);
        let mut markets = HashMap::new();
        for task in tasks.iter() {
            let ceiling = task.ceiling.and_then(|_| {
                state
                    .cells
                    .get(&Subject::Ceiling {
                        task: Arc::clone(&task.id),
                    })
                    .copied()
            });
            let offers = state
                .declared
                .values()
                .filter(|declared| !declared.withdrawn && declared.checked.valid_until_ms > now_ms);
            let offers = offers
                .filter_map(|declared| self.offer(&state, declared, task))
                .collect();
            let market = Market {
                task: Arc::clone(task),
                ceiling,
                revision: version,
                offers,
            };
            markets.insert(Arc::clone(&task.id), Arc::new(market));
        }
        self.snapshot.store(Arc::new(Snapshot {
            version,
            tasks,
            markets,
        }));
        drop(state);
        self.published.send_replace(version);
    }

    fn offer(&self, state: &State, declared: &Declared, task: &Task) -> Option<Offer> {
        let offered: &CheckedTask = declared
            .checked
            .tasks
            .iter()
            .find(|offered| offered.id == task.id)?;
        let subject = Subject::Miner {
            hotkey: declared.checked.hotkey,
            task: Arc::clone(&task.id),
        };
        let cell = *state.cells.get(&subject)?;
        let amount = offered.per_period(self.length);
        let said = declared.said.get(&Some(Arc::clone(&task.id)));
        let said = said.or_else(|| declared.said.get(&None));
        Some(Offer {
            cell,
            miner: Arc::clone(&declared.miner),
            declared: amount,
            allotment: self.settings.share.of(amount.min(task.cap)),
            verified: amount,
            concurrency: said
                .and_then(|said| said.concurrency)
                .or(offered.concurrency),
            availability: said.map_or(Availability::Free, |said| said.availability),
        })
    }
}
