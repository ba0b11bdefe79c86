//! Reads what [`super::status`] tells, when it is asked for: the registry, this process's
//! table, how miners do, and of other starts in the same period what the store has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::table::Table;

use super::status::{Attempts, Ceiling, Cell, Detail, Overview, Row, State, Task};
use crate::call::Calls;
use crate::identity::StoreAway;
use crate::identity::call::Registered as _;
use crate::identity::hotkey::Hotkey;
use crate::registry::roll::{Held, Standing};
use crate::registry::snapshot::{Offer, Snapshot};
use crate::report::due::DueSource;
use crate::report::{Counter, Reach, ReportStore, feed};
use crate::routing::vitals::{History, Pulse};
use crate::task::TaskId;

/// What miners scored.
pub trait Scores: Send + Sync + fmt::Debug {
    /// A miner's score in a task, before the task's weight; `None` before the first.
    fn score(&self, miner: &Hotkey, task: &str) -> Option<f64>;
}

/// What a board reads.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The validator.
    pub hotkey: Hotkey,
    /// Calls, and through them the books, the registry and how miners do.
    pub calls: Arc<Calls>,
    /// The durable counters.
    pub store: Arc<dyn ReportStore>,
    /// What is still due of checks, where something plans them.
    pub due: Option<Arc<dyn DueSource>>,
    /// Scores, once something makes them.
    pub scores: Option<Arc<dyn Scores>>,
}

/// Looks at everything.
#[derive(Debug)]
pub struct Board {
    sources: Sources,
    /// What other starts posted, as it was read last.
    others: Mutex<Others>,
}

/// Units that other starts of gateways posted in a period. They change only when one of them
/// books, so they are read once for each time that they did.
#[derive(Clone, Debug, Default)]
struct Others {
    reaches: Vec<Reach>,
    posted: Arc<Posted>,
}

/// Units that were posted elsewhere.
#[derive(Debug, Default)]
struct Posted {
    /// Of a miner's cell: organic, synthetic.
    cells: HashMap<CellId, [u64; 2]>,
    /// Of a task's ceiling, which only organic calls are charged to.
    ceilings: HashMap<TaskId, u64>,
}

/// One look, so that all of it is of one moment.
struct Look<'a> {
    sources: &'a Sources,
    table: Arc<Table>,
    snapshot: &'a Snapshot,
    offers: HashMap<CellId, &'a Offer>,
    /// What is still due of checks, by miner and task.
    due: HashMap<(Arc<str>, TaskId), u64>,
    others: Arc<Posted>,
    now_ms: u64,
}

// === impl Board ===

impl Board {
    /// Reads these.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            others: Mutex::default(),
        }
    }

    /// Everything at this moment.
    pub async fn overview(&self, ready: bool) -> Overview {
        let table = self.sources.calls.books.table();
        let others = self.others(&table).await;
        let store_answers = others.is_ok();
        let others = others.unwrap_or_else(|StoreAway| Arc::clone(&self.others.lock().posted));
        let (books, registry) = (&self.sources.calls.books, &self.sources.calls.registry);
        let snapshot = registry.snapshot();
        let look = self.look(table, others, &snapshot);
        let settings = registry.settings();
        let cells = registry.held();
        let cells = cells.iter().flat_map(|held| look.rows(held));
        Overview {
            validator: self.sources.hotkey.to_string(),
            network: settings.network.to_string(),
            share: settings.share.to_string(),
            ready,
            store_answers,
            now_ms: look.now_ms,
            period_start_s: look.table.period().start_s(),
            period_length_s: books.length().secs(),
            period_rest_ms: u64::try_from(books.period_rest().as_millis()).unwrap_or(u64::MAX),
            tasks: snapshot.tasks.iter().map(|task| look.task(task)).collect(),
            cells: cells.map(|(_, row)| row).collect(),
        }
    }

    /// All of one miner; `None` where it is not known.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn detail(&self, hotkey: Hotkey) -> Result<Option<Detail>, StoreAway> {
        let registry = &self.sources.calls.registry;
        let mut held = registry.held().into_iter();
        let Some(held) = held.find(|held| held.hotkey == hotkey) else {
            return Ok(None);
        };
        let table = self.sources.calls.books.table();
        let others = self.others(&table).await?;
        let counters = self.counters(&table, hotkey).await?;
        let snapshot = registry.snapshot();
        let look = self.look(table, others, &snapshot);
        let cells = look.rows(&held).map(|(cell, row)| {
            let counters = counters.iter().filter(|row| Some(row.cell) == cell);
            look.cell(cell, row, counters)
        });
        Ok(Some(Detail {
            miner: hotkey.to_string(),
            uid: look.uid(&hotkey),
            number: held.miner.number,
            sequence: held.sequence,
            valid_until_ms: held.valid_until_ms,
            withdrawn: held.withdrawn,
            cells: cells.collect(),
        }))
    }

    fn look<'a>(
        &'a self,
        table: Arc<Table>,
        others: Arc<Posted>,
        snapshot: &'a Snapshot,
    ) -> Look<'a> {
        let offers = snapshot.markets.values().flat_map(|market| &market.offers);
        let sheet = self.sources.due.as_ref().map(|due| due.sheet());
        let due = sheet.unwrap_or_default().rows.into_iter();
        Look {
            sources: &self.sources,
            due: due
                .map(|row| ((row.miner, row.task), row.due.get()))
                .collect(),
            table,
            snapshot,
            offers: offers.map(|offer| (offer.cell, offer)).collect(),
            others,
            now_ms: self.sources.calls.books.unix_ms(),
        }
    }

    /// What other starts posted in the table's period.
    async fn others(&self, table: &Table) -> Result<Arc<Posted>, StoreAway> {
        let own = self.sources.calls.books.incarnation();
        let mut reaches = self.reaches(table).await?;
        reaches.retain(|reach| reach.incarnation != own);
        let known = self.others.lock().clone();
        if known.reaches == reaches {
            return Ok(known.posted);
        }
        let mut posted = Posted::default();
        for reach in &reaches {
            for row in feed::counters(&*self.sources.store, *reach, None).await? {
                posted.add(row);
            }
        }
        let posted = Arc::new(posted);
        *self.others.lock() = Others {
            reaches,
            posted: Arc::clone(&posted),
        };
        Ok(posted)
    }

    /// A miner's durable counters of the table's period, over all starts.
    async fn counters(&self, table: &Table, miner: Hotkey) -> Result<Vec<Counter>, StoreAway> {
        let mut all = Vec::new();
        for reach in self.reaches(table).await? {
            all.extend(feed::counters(&*self.sources.store, reach, Some(miner)).await?);
        }
        Ok(all)
    }

    async fn reaches(&self, table: &Table) -> Result<Vec<Reach>, StoreAway> {
        let mut reaches = self.sources.store.standing().await?.reaches;
        reaches.retain(|reach| reach.period == table.period());
        Ok(reaches)
    }
}

// === impl Posted ===

impl Posted {
    fn add(&mut self, row: Counter) {
        let units = row.units.get();
        let both = self.cells.entry(row.cell).or_default();
        let sum = match row.origin {
            Origin::Organic => &mut both[0],
            Origin::Synthetic => &mut both[1],
        };
        *sum = sum.saturating_add(units);
        if row.origin == Origin::Organic {
            let sum = self.ceilings.entry(row.task).or_default();
            *sum = sum.saturating_add(units);
        }
    }

    fn of(&self, cell: CellId, origin: Origin) -> u64 {
        let both = self.cells.get(&cell).copied().unwrap_or_default();
        match origin {
            Origin::Organic => both[0],
            Origin::Synthetic => both[1],
        }
    }
}

// === impl Look ===

impl Look<'_> {
    fn task(&self, task: &crate::task::Task) -> Task {
        let market = self.snapshot.markets.get(&task.id);
        let ceiling = task.ceiling.zip(market.and_then(|market| market.ceiling));
        let elsewhere = self.others.ceilings.get(&task.id).copied();
        Task {
            task: task.id.to_string(),
            kind: task.kind,
            weight: task.weight,
            ceiling: ceiling.map(|(units, cell)| Ceiling {
                units: units.get(),
                reserved: self.table.reserved(cell).get(),
                posted: (self.table.posted(cell, Origin::Organic).get())
                    .saturating_add(elsewhere.unwrap_or(0)),
            }),
        }
    }

    /// A miner's cells that are offered, or not and why; those that it took back only where
    /// something of them is booked.
    fn rows<'a>(&'a self, held: &'a Held) -> impl Iterator<Item = (Option<CellId>, Row)> + 'a {
        let rows = held
            .standings
            .iter()
            .map(|standing| (standing.cell, self.row(held, standing)));
        rows.filter(|(_, row)| {
            let counts = match row.state {
                State::Withdrawn | State::Expired | State::NotRegistered => false,
                State::Free
                | State::Busy
                | State::Draining
                | State::Ejected
                | State::UnknownTask
                | State::WrongKind => true,
            };
            counts || row.posted > 0 || row.reserved > 0
        })
    }

    fn row(&self, held: &Held, standing: &Standing) -> Row {
        let of_cell = |look: &dyn Fn(CellId) -> u64| standing.cell.map_or(0, look);
        let offer = standing.cell.and_then(|cell| self.offers.get(&cell));
        let pulse = standing.cell.map(|cell| self.pulse(cell));
        let organic = of_cell(&|cell| self.posted(cell, Origin::Organic));
        let synthetic = of_cell(&|cell| self.posted(cell, Origin::Synthetic));
        let stated = offer.and_then(|offer| offer.concurrency);
        let seen = pulse.and_then(Pulse::concurrency);
        let history = standing.cell.map(|cell| self.history(cell));
        let success = history.filter(|history| history.is_judged());
        let scores = &self.sources.scores;
        let miner: Arc<str> = held.hotkey.to_string().into();
        Row {
            miner: miner.to_string(),
            uid: self.uid(&held.hotkey),
            task: standing.task.to_string(),
            declared: standing.declared.get(),
            allotment: standing.allotment.get(),
            granted: of_cell(&|cell| self.table.granted(cell).get()),
            reserved: of_cell(&|cell| self.table.reserved(cell).get()),
            posted: organic.saturating_add(synthetic),
            verified: offer.map_or(0, |offer| offer.verified.get()),
            organic,
            synthetic,
            due: (self.due.get(&(miner, standing.task.clone()))).copied(),
            score: scores
                .as_ref()
                .and_then(|scores| scores.score(&held.hotkey, &standing.task)),
            state: self.state(held, standing, pulse),
            in_flight: pulse.map_or(0, Pulse::in_flight),
            concurrency: stated.into_iter().chain(seen).min(),
            success: success.map(History::success),
        }
    }

    fn state(&self, held: &Held, standing: &Standing, pulse: Option<&Pulse>) -> State {
        let calls = &self.sources.calls;
        if !calls.registry.is_registered(&held.hotkey) {
            return State::NotRegistered;
        }
        if held.withdrawn {
            return State::Withdrawn;
        }
        if held.valid_until_ms <= self.now_ms {
            return State::Expired;
        }
        if let Some(why) = standing.left_out {
            return why.into();
        }
        let offer = standing.cell.and_then(|cell| self.offers.get(&cell));
        let said = offer.map_or(State::Free, |offer| offer.availability.into());
        let now_ms = calls.now_ms();
        if said != State::Free {
            said
        } else if pulse.is_some_and(|pulse| pulse.is_ejected(now_ms)) {
            State::Ejected
        } else if pulse.is_some_and(|pulse| pulse.is_pausing(now_ms)) {
            State::Busy
        } else {
            State::Free
        }
    }

    fn cell<'a>(
        &self,
        cell: Option<CellId>,
        row: Row,
        counters: impl Iterator<Item = &'a Counter>,
    ) -> Cell {
        let mut attempts = Attempts::default();
        let (mut first_chunk_us, mut duration_us) = (0_u64, 0_u64);
        for counter in counters {
            attempts.add(counter.attempts);
            first_chunk_us = first_chunk_us.saturating_add(counter.first_chunk_us);
            duration_us = duration_us.saturating_add(counter.duration_us);
        }
        let unit_us = cell.map(|cell| self.history(cell).latency());
        Cell {
            row,
            attempts,
            first_chunk_ms: mean_ms(first_chunk_us, attempts.good),
            duration_ms: mean_ms(duration_us, attempts.good),
            unit_ms: unit_us.filter(|us| *us > 0.0).map(|us| us / 1000.0),
        }
    }

    fn posted(&self, cell: CellId, origin: Origin) -> u64 {
        let here = self.table.posted(cell, origin).get();
        here.saturating_add(self.others.of(cell, origin))
    }

    fn pulse(&self, cell: CellId) -> &Pulse {
        self.sources.calls.vitals.pulse(cell)
    }

    fn history(&self, cell: CellId) -> &History {
        self.sources.calls.vitals.history(cell)
    }

    fn uid(&self, hotkey: &Hotkey) -> Option<u16> {
        self.sources.calls.registry.uid(hotkey)
    }
}

/// A mean of microseconds, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
fn mean_ms(sum_us: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| sum_us as f64 / of as f64 / 1000.0)
}
