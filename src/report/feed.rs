//! What one consumer is told, round by round.
//!
//! A round sends the counters that changed since the consumer's cursor, as absolute values,
//! the seals and, where they are asked for, the receipts behind it; it ends with a heartbeat
//! that carries the next cursor. So a consumer takes effect of a round as a whole, or not
//! yet; what it hears twice changes nothing. Nothing is held for a consumer but pages, so
//! that one that does not read lags alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::units::Units;
use tokio::sync::mpsc;
use tonic::Status;

use super::cursor::{Cursor, Place, Scope};
use super::due::{Due, DueSheet, DueSource};
use super::wire;
use super::{Counter, CounterPage, Reach, ReportStore, Standing};
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::proto::v1;
use crate::proto::v1::watch_response::Event;

/// Counters that are read at once, at most.
const COUNTERS_PAGE: usize = 1000;

/// Seals that are read at once, at most: they are large.
const SEALS_PAGE: usize = 4;

/// Receipts of one incarnation and period in a round, at most.
const RECEIPTS_PAGE: usize = 512;

/// What a consumer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Everything.
    All,
    /// A miner's own cells, origins together.
    Own(Hotkey),
}

/// The last cursor that was sent to a consumer; acks are compared with it.
pub type Sent = Arc<Mutex<Option<Cursor>>>;

/// Where a consumer's messages go.
pub type Outlet = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Feeds one consumer.
#[derive(Debug)]
pub struct Feed {
    /// The books.
    pub store: Arc<dyn ReportStore>,
    /// What it may see.
    pub view: View,
    /// Whether it gets receipts.
    pub receipts: bool,
    /// The hotkey and the name under which its cursors hold.
    pub consumer: (Hotkey, String),
    /// As it came, until the first round read it.
    pub resume: Vec<u8>,
    /// Up to where everything was sent.
    pub sent: Sent,
    /// Where it goes.
    pub outlet: Outlet,
    /// Where what is due of checks is known.
    pub due: Option<Arc<dyn DueSource>>,
    /// What of it was told last.
    pub told: Told,
}

/// What of checks a consumer was told last. Bounded by the cells that are offered.
#[derive(Debug, Default)]
pub struct Told(DueSheet);

/// Why a round did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// The consumer left.
    #[error("the consumer left")]
    Left,
    /// The engine is away; another round may do.
    #[error(transparent)]
    Away(#[from] StoreAway),
}

// === impl Feed ===

impl Feed {
    /// Sends what is new; whether there is more already.
    ///
    /// # Errors
    /// See [`RoundError`]; the next round begins where this one did.
    pub async fn round(&mut self) -> Result<bool, RoundError> {
        let books = self.store.standing().await?;
        let known = self.known(&books);
        let fresh = known.is_none();
        let scope = self.scope(&books);
        let mut cursor = known.unwrap_or_else(|| Cursor::start(scope));
        if fresh {
            self.say(Event::SnapshotStart(v1::SnapshotStart {})).await?;
        } else if books.keep_from > cursor.settled {
            let oldest = Some(wire::period(books.keep_from));
            self.say(Event::Gap(v1::RetentionGap { oldest })).await?;
        }
        for reach in &books.reaches {
            self.counters(*reach, &mut cursor).await?;
        }
        self.seals(&books, &mut cursor).await?;
        if fresh {
            self.say(Event::SnapshotEnd(v1::SnapshotEnd {})).await?;
        }
        let mut more = false;
        if self.receipts {
            for reach in &books.reaches {
                more |= self.send_receipts(*reach, &mut cursor).await?;
            }
        }
        self.dues(fresh).await?;
        cursor.settled = books.settled;
        cursor.keep_from(books.keep_from);
        let encoded = cursor.encode();
        // Before it leaves: an ack may be faster than we are.
        *self.sent.lock() = Some(cursor);
        let watermark = Some(wire::instant(books.now_ms));
        let heartbeat = v1::WatchResponse {
            cursor: encoded,
            event: Some(Event::Heartbeat(v1::WatchHeartbeat { watermark })),
        };
        self.send(heartbeat).await?;
        Ok(more)
    }

    fn scope(&self, books: &Standing) -> Scope {
        Scope::of(books.store, self.consumer.0, &self.consumer.1)
    }

    /// Where it goes on; `None`: it knows nothing, or nothing that is known here.
    fn known(&self, books: &Standing) -> Option<Cursor> {
        let sent = self.sent.lock().clone();
        let resumed = || Cursor::decode(&self.resume, self.scope(books));
        sent.or_else(resumed)
            .filter(|cursor| cursor.is_within(books))
    }

    async fn counters(&self, reach: Reach, cursor: &mut Cursor) -> Result<(), RoundError> {
        let key = (reach.period, reach.incarnation);
        let place = cursor.place(key);
        if place.counters < reach.next_offset {
            match self.view {
                View::All => self.all_counters(reach, place).await?,
                View::Own(miner) => self.own_counters(reach, miner).await?,
            }
        }
        let counters = reach.next_offset;
        cursor.set(key, Place { counters, ..place });
        Ok(())
    }

    async fn all_counters(&self, reach: Reach, place: Place) -> Result<(), RoundError> {
        let mut page = CounterPage {
            period: reach.period,
            incarnation: reach.incarnation,
            changed_after: place.counters,
            after: None,
            miner: None,
            max: COUNTERS_PAGE,
        };
        loop {
            let rows = self.store.counters(page).await?;
            let last = rows.len() < COUNTERS_PAGE;
            page.after = rows.last().map(|row| (row.cell, row.origin)).or(page.after);
            for row in rows {
                let entry = wire::consumption(&row, wire::origin(row.origin));
                self.say(Event::Consumption(entry)).await?;
            }
            if last {
                return Ok(());
            }
        }
    }

    /// A miner's few cells, whichever of them changed.
    async fn own_counters(&self, reach: Reach, miner: Hotkey) -> Result<(), RoundError> {
        let rows = counters(&*self.store, reach, Some(miner)).await?;
        for row in together(rows) {
            let entry = wire::consumption(&row, v1::Origin::Unspecified);
            self.say(Event::Consumption(entry)).await?;
        }
        Ok(())
    }

    /// Seals name every miner's totals: a miner gets none.
    async fn seals(&self, books: &Standing, cursor: &mut Cursor) -> Result<(), RoundError> {
        while self.view == View::All && cursor.seal < books.last_seal {
            let seals = self.store.seals_after(cursor.seal, SEALS_PAGE).await?;
            cursor.seal = seals.last().map_or(books.last_seal, |seal| seal.id);
            for seal in seals {
                self.say(Event::Seal(seal.to_wire())).await?;
            }
        }
        Ok(())
    }

    /// What of checks is due otherwise than was told last. Clients never see it, nor does a
    /// miner, who could spare itself what nobody checks.
    async fn dues(&mut self, fresh: bool) -> Result<(), RoundError> {
        let Some(due) = self.due.as_ref().filter(|_| self.view == View::All) else {
            return Ok(());
        };
        let sheet = due.sheet();
        if fresh {
            self.told = Told::default();
        }
        for entry in self.told.changed(&sheet) {
            self.say(Event::Due(entry)).await?;
        }
        self.told = Told(sheet);
        Ok(())
    }

    async fn send_receipts(&self, reach: Reach, cursor: &mut Cursor) -> Result<bool, RoundError> {
        let key = (reach.period, reach.incarnation);
        let place = cursor.place(key);
        if place.receipts >= reach.next_offset {
            return Ok(false);
        }
        let read = self.store.receipts(reach, place.receipts, RECEIPTS_PAGE);
        let receipts = read.await?;
        let next = receipts.last().map(|last| last.offset.saturating_add(1));
        // Rows that upkeep took meanwhile: the next round says so.
        let next = next.unwrap_or(reach.next_offset).min(reach.next_offset);
        for receipt in receipts {
            let entry = wire::sequenced(&receipt);
            self.say(Event::Receipt(entry)).await?;
        }
        let counters = place.counters;
        cursor.set(
            key,
            Place {
                counters,
                receipts: next,
            },
        );
        Ok(next < reach.next_offset)
    }

    /// A message within a round: it has no cursor.
    async fn say(&self, event: Event) -> Result<(), RoundError> {
        let cursor = Vec::new();
        let event = Some(event);
        self.send(v1::WatchResponse { cursor, event }).await
    }

    async fn send(&self, response: v1::WatchResponse) -> Result<(), RoundError> {
        let sent = self.outlet.send(Ok(response)).await;
        sent.map_err(|_| RoundError::Left)
    }
}

// === impl Told ===

impl Told {
    /// What differs in a newer sheet. Of a cell that is gone nothing is due any more.
    fn changed(&self, newer: &DueSheet) -> Vec<v1::CheckDue> {
        let Some(period) = newer.period else {
            return Vec::new();
        };
        let key = |due: &Due| (Arc::clone(&due.miner), Arc::clone(&due.task));
        let same = self.0.period == Some(period);
        let mut before: HashMap<_, _> = self
            .0
            .rows
            .iter()
            .filter(|_| same)
            .map(|due| (key(due), due))
            .collect();
        let mut changed = Vec::new();
        for due in &newer.rows {
            if before.remove(&key(due)) != Some(due) {
                changed.push(due.to_wire(period));
            }
        }
        let gone = before.into_values().map(|due| {
            let none = Due {
                target: Units::ZERO,
                due: Units::ZERO,
                ..due.clone()
            };
            none.to_wire(period)
        });
        changed.extend(gone);
        changed
    }
}

/// All counters of one incarnation's period, or those of a miner.
///
/// # Errors
/// When the engine is away.
pub async fn counters(
    store: &dyn ReportStore,
    reach: Reach,
    miner: Option<Hotkey>,
) -> Result<Vec<Counter>, StoreAway> {
    let page = CounterPage {
        period: reach.period,
        incarnation: reach.incarnation,
        changed_after: 0,
        after: None,
        miner,
        max: usize::MAX,
    };
    store.counters(page).await
}

/// Counters with both origins of a cell as one: sums of what only grows only grow.
#[must_use]
pub fn together(rows: Vec<Counter>) -> Vec<Counter> {
    let mut sums: BTreeMap<CellId, Counter> = BTreeMap::new();
    for row in rows {
        match sums.get_mut(&row.cell) {
            None => drop(sums.insert(row.cell, row)),
            Some(sum) => {
                sum.origin = Origin::Organic;
                sum.rev = sum.rev.saturating_add(row.rev);
                sum.units = sum.units.saturating_add(row.units);
                sum.first_chunk_us = sum.first_chunk_us.saturating_add(row.first_chunk_us);
                sum.duration_us = sum.duration_us.saturating_add(row.duration_us);
                for (sum, more) in sum.attempts.iter_mut().zip(row.attempts) {
                    *sum = sum.saturating_add(more);
                }
            }
        }
    }
    sums.into_values().collect()
}
