//! Rights to spend: who gets them, how many, and giving them back.

use std::time::Duration;

use taugate::registry::declaration::DeclarationStore as _;
use taugate_ledger::engine::{CellAsk, Engine as _, ExchangeAsk, ExchangeError};
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

use crate::place::{
    NEXT, NOW_MS, PERIOD, Place, append, exchange, exchange_in, good, length, row, settings, units,
    with_cell,
};

#[tokio::test]
async fn a_period_that_is_not_open_by_the_stores_clock_is_refused() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    let after_next = Period::starting_at(1_002 * 3600);
    let askew = Period::starting_at(PERIOD.start_s() + 1);
    for period in [after_next, askew] {
        let refused = exchange_in(&store, period, inc, 1, (cell, 1, 0)).await;
        assert_eq!(refused, Err(ExchangeError::PeriodNotOpen(period)));
    }
    store.set_cells(NEXT, vec![(cell, units(5))]).await.unwrap();
    exchange_in(&store, NEXT, inc, 1, (cell, 1, 0))
        .await
        .unwrap();

    // Within the grace after its end, and after it.
    let end_ms = length().end_ms(PERIOD);
    let grace_ms = u64::try_from(settings().grace.as_millis()).unwrap();
    place.clock.set(end_ms + grace_ms - 1);
    exchange(&store, inc, 1, (cell, 10, 0)).await.unwrap();
    place.clock.set(end_ms + grace_ms);
    let late = exchange(&store, inc, 2, (cell, 20, 0)).await;
    assert_eq!(late, Err(ExchangeError::PeriodNotOpen(PERIOD)));
    // Calls may take longer now; a shorter wait changes nothing.
    store.wait_at_least(settings().grace + Duration::from_secs(1));
    store.wait_at_least(Duration::ZERO);
    exchange(&store, inc, 2, (cell, 20, 0)).await.unwrap();
    place.clock.set(end_ms + grace_ms + 1_000);
    let late = exchange(&store, inc, 3, (cell, 30, 0)).await;
    assert_eq!(late, Err(ExchangeError::PeriodNotOpen(PERIOD)));
    // Proof still comes into its own period.
    append(&store, inc, 0, vec![good(1, cell, 10)])
        .await
        .unwrap();
    assert_eq!(row(&store, cell).await.posted[0], units(10));
}

#[tokio::test]
async fn live_incarnations_are_those_seen_of_late() {
    let place = Place::new();
    let (store, cell, one) = with_cell(&place, 100).await;
    let two = store.new_incarnation("two").await.unwrap();
    let ask = |seq| ExchangeAsk {
        incarnation: one,
        period: PERIOD,
        seq,
        cells: vec![CellAsk {
            cell,
            target: units(1),
            posted: Units::ZERO,
        }],
    };
    assert_eq!(store.exchange(ask(1)).await.unwrap().live, 2);
    place.clock.set(NOW_MS + 20_000);
    assert_eq!(store.exchange(ask(2)).await.unwrap().live, 1);
    store.heartbeat(one).await.unwrap();
    store.heartbeat(two).await.unwrap();
    assert_eq!(store.exchange(ask(3)).await.unwrap().live, 2);
    store.close(two).await.unwrap();
    assert_eq!(store.exchange(ask(4)).await.unwrap().live, 1);
}
