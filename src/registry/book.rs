//! The registry itself: what was declared is written durably, then published as snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use taugate_ledger::ids::CellId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio::sync::watch;

use super::availability::{Change, LiveStream, Streams};
use super::checked::{Checked, DeclareError, Record, SEQUENCE_MAX, check, endpoint};
use super::declaration::{DeclarationRow, DeclarationStore, Put};
use super::metagraph::Metagraph;
use super::roll::{Held, Roll, Standing};
use super::settings::RegistrySettings;
use super::snapshot::{Proofs, Snapshot};
use crate::clock::SharedClock;
use crate::identity::StoreAway;
use crate::identity::call::Registered;
use crate::identity::hotkey::Hotkey;
use crate::identity::pace::Pace;
use crate::task::Tasks;

/// A miner declares when it starts, when something changes and every few days: twenty at
/// once and one each half second are far more than that, and little for the engine.
const DECLARE_EACH: Duration = Duration::from_millis(500);
const DECLARE_BURST: u32 = 20;

/// A sidecar says "busy" and "free" a few times a second at most.
const SAY_EACH: Duration = Duration::from_millis(250);
const SAY_BURST: u32 = 40;

/// What the gateway holds of miners.
#[derive(Debug)]
pub struct Registry {
    settings: ArcSwap<RegistrySettings>,
    length: PeriodLength,
    clock: SharedClock,
    store: Arc<dyn DeclarationStore>,
    state: Mutex<State>,
    snapshot: ArcSwap<Snapshot>,
    /// What bursts have shown.
    proofs: ArcSwap<Proofs>,
    published: watch::Sender<u64>,
    streams: Streams,
    declaring: Pace<Hotkey>,
    saying: Pace<Hotkey>,
    /// Writers come one after the other, so that what is published never steps behind what
    /// is written.
    writing: tokio::sync::Mutex<()>,
    /// Whether the engine lacks something that was decided here.
    unsettled: AtomicBool,
}

#[derive(Debug)]
struct State {
    roll: Roll,
    /// The periods that are open.
    open: BTreeSet<Period>,
    /// What the engine took of each.
    set: BTreeMap<Period, HashMap<CellId, Units>>,
    /// When the first of the published declarations expires, Unix milliseconds.
    expires_ms: Option<u64>,
}

// === impl Registry ===

impl Registry {
    /// Loads what was declared before. Nothing is offered until a period is opened.
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
        let mut rows = store.declarations().await?;
        rows.sort_by_key(|row| row.accepted_ms);
        let registry = Self {
            state: Mutex::new(State {
                roll: Roll::new(tasks),
                open: BTreeSet::new(),
                set: BTreeMap::new(),
                expires_ms: None,
            }),
            snapshot: ArcSwap::default(),
            proofs: ArcSwap::default(),
            published: watch::Sender::new(0),
            streams: Streams::default(),
            declaring: Pace::new(DECLARE_EACH, DECLARE_BURST, settings.miners_max),
            saying: Pace::new(SAY_EACH, SAY_BURST, settings.miners_max),
            writing: tokio::sync::Mutex::new(()),
            unsettled: AtomicBool::new(false),
            settings: ArcSwap::from_pointee(settings),
            length,
            clock,
            store,
        };
        for row in rows {
            registry.load(&row);
        }
        registry.settle().await?;
        Ok(Arc::new(registry))
    }

    fn load(&self, row: &DeclarationRow) {
        // A row was checked when it was written; one that no longer passes (it expired, the
        // network or the list of hotkeys changed) waits for the miner's next word.
        match self.check_row(row) {
            Ok((checked, endpoint)) => {
                let roll = &mut self.state.lock().roll;
                roll.remember(checked, endpoint, row.withdrawn);
            }
            Err(error) => {
                tracing::info!(hotkey = %row.hotkey, %error, "a stored declaration no longer counts");
            }
        }
    }

    fn check_row(&self, row: &DeclarationRow) -> Result<(Checked, http::Uri), DeclareError> {
        let record = Record {
            hotkey: row.hotkey,
            payload: &row.payload,
            signature: &row.signature,
        };
        if !self.is_registered(&row.hotkey) {
            return Err(DeclareError::NotRegistered);
        }
        let checked = check(record, &self.settings.load().network, self.clock.unix_ms())?;
        let private = self.settings.load().private_endpoints;
        Ok((checked, endpoint(&row.endpoint, private)?))
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
    pub fn settings(&self) -> Arc<RegistrySettings> {
        self.settings.load_full()
    }

    /// What a miner may be asked for, by task that it declared.
    #[must_use]
    pub fn standing(&self, hotkey: Hotkey) -> Vec<Standing> {
        let state = self.state.lock();
        state
            .roll
            .standing(&hotkey, &self.settings.load(), self.length)
    }

    /// A hotkey's uid in the metagraph, where there is one.
    #[must_use]
    pub fn uid(&self, hotkey: &Hotkey) -> Option<u16> {
        self.settings.load().metagraph.as_ref()?.uid(hotkey)
    }

    /// All miners that are held, those included whose declarations no longer count, in the
    /// order in which they came.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let state = self.state.lock();
        state.roll.held(&self.settings.load(), self.length)
    }

    /// Takes a signed declaration and the endpoint that came with it. Equal bytes again are
    /// a success; they may name another endpoint, for that is no part of what was signed for
    /// everyone.
    ///
    /// # Errors
    /// When it is malformed, foreign, expired, stale, or its hotkey is not registered; when
    /// too many came; when the engine is away: then the same declaration again is right.
    pub async fn declare(&self, record: Record<'_>, reached: &str) -> Result<(), DeclareError> {
        let now_ms = self.clock.unix_ms();
        if !self.is_registered(&record.hotkey) {
            return Err(DeclareError::NotRegistered);
        }
        let settings = self.settings.load();
        let checked = check(record, &settings.network, now_ms)?;
        let uri = endpoint(reached, settings.private_endpoints)?;
        drop(settings);
        // Only what a hotkey signed counts against it.
        self.declaring
            .step(checked.hotkey, now_ms)
            .map_err(DeclareError::TooOften)?;
        let row = DeclarationRow {
            hotkey: checked.hotkey,
            sequence: checked.sequence,
            payload: bytes::Bytes::copy_from_slice(record.payload),
            signature: record
                .signature
                .try_into()
                .map_err(|_| DeclareError::Signature)?,
            endpoint: Arc::from(reached),
            accepted_ms: now_ms,
            withdrawn: false,
        };
        let _writing = self.writing.lock().await;
        if !self.make_room(&checked.hotkey, now_ms) {
            return Err(DeclareError::Full);
        }
        let hotkey = checked.hotkey;
        let put = self.store.put_declaration(row).await?;
        if put == Put::Stale {
            return Err(DeclareError::Stale);
        }
        // Where nobody speaks for the miner any more, its newest word is this one: whoever
        // drained and declares anew is back.
        let back = put == Put::Stored && !self.streams.has(&hotkey);
        self.remember(checked, uri, back);
        Ok(self.settle().await?)
    }

    fn remember(&self, checked: Checked, uri: http::Uri, back: bool) {
        let hotkey = checked.hotkey;
        let roll = &mut self.state.lock().roll;
        roll.remember(checked, uri, false);
        if back {
            roll.forget_word(&hotkey);
        }
    }

    fn make_room(&self, hotkey: &Hotkey, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        state
            .roll
            .make_room(hotkey, self.settings.load().miners_max, now_ms)
    }

    /// Takes a declaration back: new work stops at once.
    ///
    /// # Errors
    /// When there is none, or the sequence is lower than its own; when too many came; when
    /// the engine is away.
    pub async fn withdraw(&self, hotkey: Hotkey, sequence: u64) -> Result<(), DeclareError> {
        if !(1..=SEQUENCE_MAX).contains(&sequence) {
            return Err(DeclareError::Malformed("sequence out of range"));
        }
        self.declaring
            .step(hotkey, self.clock.unix_ms())
            .map_err(DeclareError::TooOften)?;
        let _writing = self.writing.lock().await;
        if !self.store.withdraw(hotkey, sequence).await? {
            return Err(DeclareError::Stale);
        }
        self.state.lock().roll.withdraw(&hotkey);
        Ok(self.settle().await?)
    }

    /// Opens a miner's stream of changes; an older one of the same hotkey is superseded.
    #[must_use]
    pub fn open_stream(self: &Arc<Self>, hotkey: Hotkey) -> LiveStream {
        self.streams.open(self, hotkey)
    }

    /// Whether a miner may say one thing more of itself.
    ///
    /// # Errors
    /// How long it is to be silent.
    pub fn may_say(&self, hotkey: Hotkey) -> Result<(), Duration> {
        self.saying.step(hotkey, self.clock.unix_ms())
    }

    /// Heeds what a miner says of itself; a counter that is not above the last one's is
    /// ignored, and so is a task that it did not declare.
    pub fn set_availability(&self, hotkey: Hotkey, change: Change) -> bool {
        let heeded = self.state.lock().roll.heed(&hotkey, change);
        if heeded {
            self.publish();
        }
        heeded
    }

    /// A miner's stream was cut off: nobody will take its "busy" back.
    pub(super) fn stream_lost(&self, hotkey: Hotkey) {
        let changed = self.state.lock().roll.forget_busy(&hotkey);
        if changed {
            self.publish();
        }
    }

    pub(super) const fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Takes what bursts have shown by now.
    pub fn set_proofs(&self, proofs: Proofs) {
        self.proofs.store(Arc::new(proofs));
        self.publish();
    }

    /// Replaces the configured tasks.
    ///
    /// # Errors
    /// When the engine is away; what it lacks is told it by the next [`Registry::tick`].
    pub async fn set_tasks(&self, tasks: Arc<Tasks>) -> Result<(), StoreAway> {
        let _writing = self.writing.lock().await;
        self.state.lock().roll.set_tasks(tasks);
        self.settle().await
    }

    /// Changes who may declare. Who no longer may gets no new work; what was declared before
    /// by one that now may counts again.
    ///
    /// # Errors
    /// When the engine is away: then nothing changed, or the next [`Registry::tick`] tells it
    /// what it lacks.
    pub async fn set_settings(&self, settings: RegistrySettings) -> Result<(), StoreAway> {
        let _writing = self.writing.lock().await;
        let mut rows = self.store.declarations().await?;
        rows.retain(|row| !self.is_registered(&row.hotkey));
        rows.sort_by_key(|row| row.accepted_ms);
        self.settings.store(Arc::new(settings));
        self.state
            .lock()
            .roll
            .withdraw_all(|hotkey| !self.is_registered(hotkey));
        for row in rows {
            self.load(&row);
        }
        self.settle().await
    }

    /// Opens a period in the engine: each cell gets what it may be spent to. To be called
    /// at start and ahead of each turn; nothing is offered in a period that was not opened.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn open_period(&self, period: Period) -> Result<(), StoreAway> {
        let _writing = self.writing.lock().await;
        self.state.lock().open.insert(period);
        self.settle().await
    }

    /// Drops what expired, and tells the engine what it did not take the last time. To be
    /// called about once a second.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn tick(&self) -> Result<(), StoreAway> {
        let now_ms = self.clock.unix_ms();
        let expires_ms = self.state.lock().expires_ms;
        let expired = expires_ms.is_some_and(|at| now_ms >= at);
        if expired || self.unsettled.load(Ordering::Relaxed) {
            let _writing = self.writing.lock().await;
            self.settle().await?;
        }
        Ok(())
    }

    /// What each offered cell may be spent to in a period.
    #[must_use]
    pub fn wanted(&self) -> Vec<(CellId, Units)> {
        let snapshot = self.snapshot();
        let markets = || snapshot.markets.values();
        let offers = markets().flat_map(|market| market.offers.iter());
        let offered = offers.map(|offer| (offer.cell, offer.allotment));
        let ceilings = markets().filter_map(|market| Some((market.ceiling?, market.task.ceiling?)));
        offered.chain(ceilings).collect()
    }

    /// Brings the engine and the published snapshot in step with the roll. What was taken
    /// away is published before the engine is asked, what came after it answered: so the
    /// books never hear of a cell before the engine knows it.
    async fn settle(&self) -> Result<(), StoreAway> {
        self.unsettled.store(true, Ordering::Relaxed);
        let missing = self.take_stock();
        self.publish();
        for subject in missing {
            let cell = self.store.subject(subject.clone()).await?;
            self.state.lock().roll.learn(subject, cell);
        }
        for (period, wanted) in self.untold() {
            self.store.set_cells(period, wanted.clone()).await?;
            let mut state = self.state.lock();
            state.set.entry(period).or_default().extend(wanted);
        }
        self.publish();
        self.unsettled.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn take_stock(&self) -> Vec<super::declaration::Subject> {
        let now_ms = self.clock.unix_ms();
        let mut state = self.state.lock();
        let running = |period: &Period| self.length.end_ms(*period) > now_ms;
        state.open.retain(running);
        state.set.retain(|period, _| running(period));
        state.roll.settle(&self.settings.load(), now_ms)
    }

    /// Per open period, what the engine was not told yet.
    #[expect(clippy::significant_drop_tightening, reason = "one look at one state")]
    fn untold(&self) -> Vec<(Period, Vec<(CellId, Units)>)> {
        let now_ms = self.clock.unix_ms();
        let state = self.state.lock();
        let wanted = state
            .roll
            .wanted(&self.settings.load(), self.length, now_ms);
        let periods = state.open.iter().map(|period| {
            let told = state.set.get(period);
            let news = wanted.iter().map(|(cell, units)| (*cell, *units));
            let news =
                news.filter(|(cell, units)| told.and_then(|told| told.get(cell)) != Some(units));
            (*period, news.collect::<Vec<_>>())
        });
        periods.filter(|(_, news)| !news.is_empty()).collect()
    }

    /// Makes a new snapshot of what stands, of cells that the engine knows in each period.
    fn publish(&self) {
        let mut state = self.state.lock();
        let at = (self.length, self.clock.unix_ms());
        let told = &state.set;
        let known = |cell| !told.is_empty() && told.values().all(|told| told.contains_key(&cell));
        let before = self.snapshot.load();
        let (snapshot, expires_ms) = state.roll.snapshot(
            &before,
            (&self.settings.load(), &self.proofs.load()),
            at,
            known,
        );
        state.expires_ms = expires_ms;
        let version = snapshot.version;
        self.snapshot.store(Arc::new(snapshot));
        drop(state);
        self.published.send_replace(version);
    }
}

impl Registered for Registry {
    fn is_registered(&self, hotkey: &Hotkey) -> bool {
        let settings = self.settings.load();
        let listed = |metagraph: &Arc<Metagraph>| metagraph.has(hotkey);
        settings.open_registration
            || settings.hotkeys.contains(hotkey)
            || settings.metagraph.as_ref().is_some_and(listed)
    }
}

#[cfg(test)]
mod tests;
