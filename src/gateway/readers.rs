//! Who may read reports, and wakes those that do when much was consumed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::ids::CellId;
use taugate_ledger::units::Units;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::books::Books;
use crate::config::Config;
use crate::identity::call::Registered;
use crate::identity::hotkey::Hotkey;
use crate::registry::Registry;
use crate::report::feed::View;
use crate::report::readers::Readers;

/// How often it is looked for cells of which much was consumed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Consumers hear at once when this part of a cell was consumed since: a twentieth.
const PART: u64 = 20;

/// Who may call the peer listener: miners that are registered, and readers.
#[derive(Debug)]
pub(super) struct Callers {
    pub(super) registry: Arc<Registry>,
    pub(super) readers: Arc<Readers>,
}

// === impl Callers ===

impl Registered for Callers {
    fn is_registered(&self, hotkey: &Hotkey) -> bool {
        self.readers.view(*hotkey) == View::All || self.registry.is_registered(hotkey)
    }
}

/// Who may read everything, as configured.
pub(super) fn readers(config: &Config, own: Hotkey) -> Result<Readers, StartError> {
    let listed = config.reports.readers.iter().map(|text| {
        text.parse::<Hotkey>()
            .map_err(|_| StartError::Reader(text.clone()))
    });
    Ok(Readers {
        own,
        open: config.reports.open,
        listed: listed.collect::<Result<_, _>>()?,
    })
}

/// Wakes consumers when much of a cell was consumed, until `stop`.
pub(super) async fn wake(
    books: Arc<Books>,
    registry: Arc<Registry>,
    news: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let mut told: HashMap<CellId, Units> = HashMap::new();
    let mut period = books.table().period();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if news.receiver_count() == 0 {
            continue;
        }
        let (table, snapshot) = (books.table(), registry.snapshot());
        if table.period() != period {
            period = table.period();
            told.clear();
        }
        let offers = || snapshot.markets.values().flat_map(|market| &market.offers);
        let much = offers().any(|offer| {
            let before = told.get(&offer.cell).copied().unwrap_or_default();
            let since = table.posted_total(offer.cell).saturating_sub(before);
            !since.is_zero() && since >= offer.allotment.part_of(PART)
        });
        if much {
            told = offers()
                .map(|offer| (offer.cell, table.posted_total(offer.cell)))
                .collect();
            news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}
