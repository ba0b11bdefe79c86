//! What is looked at once a second: the router's table, what is left of each task, the
//! audit of the books.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::table::Table;
use taugate_ledger::units::Units;
use tokio_util::sync::CancellationToken;

use crate::call::Calls;
use crate::proto::v1::CapacityLeft;
use crate::registry::snapshot::Market;

const EVERY: Duration = Duration::from_secs(1);

/// Looks after a gateway until `stop`.
pub(super) async fn run(calls: Arc<Calls>, stop: CancellationToken) {
    let mut changed = calls.registry.subscribe();
    let mut tick = tokio::time::interval(EVERY);
    let mut period = calls.books.table().period();
    loop {
        let current = calls.books.table().period();
        if current != period {
            period = current;
            calls.vitals.turn();
        }
        look(&calls);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => settle(&calls).await,
            changed = changed.changed() => {
                if changed.is_err() { return; }
            }
        }
    }
}

/// Nothing else waits for an engine that is away.
async fn settle(calls: &Calls) {
    match tokio::time::timeout(EVERY, calls.registry.tick()).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => tracing::warn!("the engine lacks the newest declarations"),
    }
}

fn look(calls: &Calls) {
    let snapshot = calls.registry.snapshot();
    let table = calls.books.table();
    // Of the period that was opened ahead, too: who declares by then is not spent in it.
    let wanted = calls.registry.wanted();
    let open = calls.books.tables().periods().into_iter();
    for period in open.filter(|period| *period >= table.period()) {
        calls.books.expect(period, &wanted);
    }
    calls
        .router
        .rebuild(&snapshot, table.as_ref(), calls.now_ms());
    let left: HashMap<_, _> = snapshot
        .markets
        .iter()
        .map(|(task, market)| (Arc::clone(task), capacity_left(market, &table)))
        .collect();
    calls.capacity.store(Arc::new(left));
    let divergences = calls.books.audit();
    for divergence in &divergences {
        tracing::error!(?divergence, "the books diverge");
    }
    let units = divergences
        .iter()
        .map(|one| one.granted.get().abs_diff(one.found.get()))
        .sum();
    calls.instruments.upkeep(
        Units::new(units),
        calls.books.pending(),
        calls.waiting.len(),
    );
}

fn capacity_left(market: &Market, table: &Table) -> CapacityLeft {
    let all: Units = market.offers.iter().map(|offer| offer.allotment).sum();
    // What an engine was not asked for yet is not in the table: what was spent is.
    let spent = |cell| {
        table
            .posted_total(cell)
            .saturating_add(table.reserved(cell))
    };
    let left = market
        .offers
        .iter()
        .map(|offer| offer.allotment.saturating_sub(spent(offer.cell)));
    let left: Units = left.sum();
    if left.is_zero() {
        CapacityLeft::None
    } else if left <= all.part_of(10) {
        CapacityLeft::Little
    } else if left <= all.part_of(2) {
        CapacityLeft::Some
    } else {
        CapacityLeft::Plenty
    }
}
