//! The promises, each over every engine.

use smallvec::SmallVec;
use taugate_ledger::engine::{
    AppendAsk, AppendError, CellAsk, CellGrant, Engine as _, ExchangeAsk, ExchangeError,
};
use taugate_ledger::ids::{CellId, Incarnation};
use taugate_ledger::receipt::{Attempt, Outcome, Receipt};
use taugate_ledger::units::Units;

use crate::kept::Kept;
use crate::{PERIOD, good, part, units};

macro_rules! over_every_engine {
    ($($promise:ident),* $(,)?) => {
        mod model {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(crate::kept::Kept::model()).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(crate::kept::Kept::sqlite()).await;
            })*
        }
    };
}

over_every_engine! {
    grants_never_pass_what_is_wanted_over_incarnations,
    an_old_ask_changes_nothing,
    no_more_is_given_back_than_is_not_proven,
    what_an_exchange_says_was_posted_is_not_stored,
    a_closed_incarnation_is_fenced,
    an_unknown_cell_refuses_the_whole_ask,
    a_cut_keeps_what_was_granted_and_grants_no_more,
    a_resend_books_nothing_twice_and_a_gap_is_refused,
    a_receipt_beyond_the_grant_is_refused_whole,
    receipts_that_do_not_add_up_are_refused,
    parts_are_cumulative_and_attempts_count_with_the_last,
    units_go_to_every_held_cell_and_attempts_to_the_miners,
}

/// A miner's cell of that size and one incarnation.
async fn with_cell(store: &Kept, wanted: u64) -> (CellId, Incarnation) {
    let cell = store.make_cell(0, wanted).await;
    (cell, store.start("one").await)
}

async fn exchange(
    store: &Kept,
    incarnation: Incarnation,
    seq: u64,
    (cell, target, posted): (CellId, u64, u64),
) -> Result<CellGrant, ExchangeError> {
    let ask = ExchangeAsk {
        incarnation,
        period: PERIOD,
        seq,
        cells: vec![CellAsk {
            cell,
            target: units(target),
            posted: units(posted),
        }],
    };
    Ok(store.exchange(ask).await?.cells[0])
}

async fn append(
    store: &Kept,
    incarnation: Incarnation,
    first_offset: u64,
    receipts: Vec<Receipt>,
) -> Result<u64, AppendError> {
    let ask = AppendAsk {
        incarnation,
        period: PERIOD,
        first_offset,
        receipts,
    };
    Ok(store.append(ask).await?.next_offset)
}

// === exchange ===

async fn grants_never_pass_what_is_wanted_over_incarnations(store: Kept) {
    let (cell, one) = with_cell(&store, 100).await;
    let two = store.start("two").await;

    let first = exchange(&store, one, 1, (cell, 70, 0))
        .await
        .expect("it answers");
    assert_eq!((first.granted, first.sum_granted), (units(70), units(70)));
    let second = exchange(&store, two, 1, (cell, 70, 0))
        .await
        .expect("it answers");
    assert_eq!(
        (second.granted, second.sum_granted),
        (units(30), units(100))
    );

    // Given back, it can be had by the other.
    let back = exchange(&store, one, 2, (cell, 10, 0))
        .await
        .expect("it answers");
    assert_eq!((back.granted, back.sum_granted), (units(10), units(40)));
    let more = exchange(&store, two, 2, (cell, 90, 0))
        .await
        .expect("it answers");
    assert_eq!((more.granted, more.sum_granted), (units(90), units(100)));
    assert_eq!(store.row(cell).await.cell.granted, units(100));
}

async fn an_old_ask_changes_nothing(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 70, 0))
        .await
        .expect("it answers");
    exchange(&store, inc, 2, (cell, 20, 0))
        .await
        .expect("it answers");
    let old = exchange(&store, inc, 1, (cell, 70, 0))
        .await
        .expect("it answers");
    assert_eq!(old.granted, units(20));
}

async fn no_more_is_given_back_than_is_not_proven(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0))
        .await
        .expect("it answers");
    append(&store, inc, 0, vec![good(1, cell, 30)])
        .await
        .expect("it answers");
    let back = exchange(&store, inc, 2, (cell, 0, 30))
        .await
        .expect("it answers");
    assert_eq!(back.granted, units(30));
    let behind = exchange(&store, inc, 3, (cell, 50, 29)).await;
    assert_eq!(behind, Err(ExchangeError::PostedBehind(cell)));
}

async fn what_an_exchange_says_was_posted_is_not_stored(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0))
        .await
        .expect("it answers");
    exchange(&store, inc, 2, (cell, 60, 40))
        .await
        .expect("it answers");
    assert_eq!(store.row(cell).await.posted, [Units::ZERO; 2]);
}

async fn a_closed_incarnation_is_fenced(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0))
        .await
        .expect("it answers");
    store.close_period(inc, PERIOD).await.expect("it answers");
    let closed = exchange(&store, inc, 2, (cell, 60, 0)).await;
    assert_eq!(closed, Err(ExchangeError::PeriodNotOpen(PERIOD)));
    store.close(inc).await.expect("it answers");
    store.close(inc).await.expect("it answers");
    let fenced = exchange(&store, inc, 2, (cell, 60, 0)).await;
    assert_eq!(fenced, Err(ExchangeError::Fenced));
    let append = append(&store, inc, 0, vec![good(1, cell, 1)]).await;
    assert_eq!(append, Err(AppendError::Fenced));
    let stranger = exchange(&store, Incarnation(99), 1, (cell, 1, 0)).await;
    assert_eq!(stranger, Err(ExchangeError::Fenced));
}

async fn an_unknown_cell_refuses_the_whole_ask(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    let wish = |cell| CellAsk {
        cell,
        target: units(10),
        posted: Units::ZERO,
    };
    let ask = ExchangeAsk {
        incarnation: inc,
        period: PERIOD,
        seq: 1,
        cells: vec![wish(cell), wish(CellId(77))],
    };
    let refused = store.exchange(ask).await;
    assert_eq!(refused, Err(ExchangeError::UnknownCell(CellId(77))));
    assert_eq!(store.row(cell).await.cell.granted, Units::ZERO);
}

async fn a_cut_keeps_what_was_granted_and_grants_no_more(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 80, 0))
        .await
        .expect("it answers");
    store.set(cell, 20).await;
    let cut = store.row(cell).await;
    assert_eq!(
        (cut.cell.wanted, cut.cell.allotment),
        (units(20), units(80))
    );
    let more = exchange(&store, inc, 2, (cell, 90, 0))
        .await
        .expect("it answers");
    assert_eq!((more.granted, more.wanted), (units(80), units(20)));
    // The allotment follows what is given back, and does not rise with an exchange.
    exchange(&store, inc, 3, (cell, 50, 0))
        .await
        .expect("it answers");
    assert_eq!(store.row(cell).await.cell.allotment, units(50));
    let more = exchange(&store, inc, 4, (cell, 60, 0))
        .await
        .expect("it answers");
    assert_eq!(more.granted, units(50));
    // A raise counts at once.
    store.set(cell, 70).await;
    let more = exchange(&store, inc, 5, (cell, 60, 0))
        .await
        .expect("it answers");
    assert_eq!(more.granted, units(60));
}

// === append ===

async fn a_resend_books_nothing_twice_and_a_gap_is_refused(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0))
        .await
        .expect("it answers");
    let receipts: Vec<_> = (1..=3).map(|call| good(call, cell, 10)).collect();
    assert_eq!(append(&store, inc, 0, receipts.clone()).await, Ok(3));
    assert_eq!(append(&store, inc, 0, receipts.clone()).await, Ok(3));
    // The tail of a resend may be new.
    let mut longer = receipts;
    longer.push(good(4, cell, 10));
    assert_eq!(append(&store, inc, 0, longer).await, Ok(4));
    let gap = append(&store, inc, 5, vec![good(6, cell, 1)]).await;
    assert_eq!(
        gap,
        Err(AppendError::Gap {
            first: 5,
            expected: 4
        })
    );
    assert_eq!(store.row(cell).await.posted, [units(40), Units::ZERO]);
}

async fn a_receipt_beyond_the_grant_is_refused_whole(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 25, 0))
        .await
        .expect("it answers");
    let receipts = vec![good(1, cell, 20), good(2, cell, 6)];
    let refused = append(&store, inc, 0, receipts).await;
    assert_eq!(refused, Err(AppendError::BeyondGrant { cell }));
    assert_eq!(store.row(cell).await.posted, [Units::ZERO; 2]);
    assert!(store.receipt(inc, 1).await.is_none());
    // The books go on after it.
    assert_eq!(append(&store, inc, 0, vec![good(1, cell, 25)]).await, Ok(1));
}

async fn receipts_that_do_not_add_up_are_refused(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    let other = store.make_cell(1, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0))
        .await
        .expect("it answers");
    let base = || good(1, cell, 10);
    let mut no_lease = base();
    no_lease.attempts.insert(
        0,
        Attempt {
            cell: other,
            outcome: Outcome::Busy,
            units: Units::ZERO,
            first_chunk_us: None,
            duration_us: 1,
        },
    );
    let mut two_with_units = base();
    two_with_units.attempts.push(two_with_units.attempts[0]);
    let mut other_sum = base();
    other_sum.units = units(11);
    let mut nobody_charged = base();
    nobody_charged.held.clear();
    let mut charged_twice = base();
    charged_twice.held.push(cell);
    for wrong in [
        no_lease,
        two_with_units,
        other_sum,
        nobody_charged,
        charged_twice,
    ] {
        let refused = append(&store, inc, 0, vec![wrong.clone()]).await;
        assert!(
            matches!(refused, Err(AppendError::BeyondGrant { .. })),
            "{wrong:?}"
        );
    }
    assert_eq!(store.row(cell).await.posted, [Units::ZERO; 2]);
}

async fn parts_are_cumulative_and_attempts_count_with_the_last(store: Kept) {
    let (cell, inc) = with_cell(&store, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0))
        .await
        .expect("it answers");
    assert_eq!(append(&store, inc, 0, vec![part(1, cell, 10)]).await, Ok(1));
    assert_eq!(store.row(cell).await.posted[0], units(10));
    assert_eq!(store.attempts(cell, Outcome::Good).await, 0);
    // Another call between, a part and the end in one ask.
    let receipts = vec![good(2, cell, 5), part(1, cell, 30), good(1, cell, 42)];
    assert_eq!(append(&store, inc, 1, receipts).await, Ok(4));
    assert_eq!(store.row(cell).await.posted[0], units(47));
    assert_eq!(store.attempts(cell, Outcome::Good).await, 2);
    // It ended once; less than before cannot be.
    let again = append(&store, inc, 4, vec![good(1, cell, 42)]).await;
    assert_eq!(again, Err(AppendError::BeyondGrant { cell }));
    append(&store, inc, 4, vec![part(3, cell, 9)])
        .await
        .expect("it answers");
    let less = append(&store, inc, 5, vec![good(3, cell, 8)]).await;
    assert_eq!(less, Err(AppendError::BeyondGrant { cell }));
}

async fn units_go_to_every_held_cell_and_attempts_to_the_miners(store: Kept) {
    let (miner, inc) = with_cell(&store, 100).await;
    let tried = store.make_cell(1, 100).await;
    let ceiling = store.make_cell(2, 1000).await;
    for cell in [miner, tried, ceiling] {
        exchange(&store, inc, 1, (cell, 50, 0))
            .await
            .expect("it answers");
    }
    let mut receipt = good(1, miner, 10);
    receipt.held = SmallVec::from_slice(&[miner, ceiling]);
    receipt.attempts.insert(
        0,
        Attempt {
            cell: tried,
            outcome: Outcome::Stalled,
            units: Units::ZERO,
            first_chunk_us: None,
            duration_us: 9,
        },
    );
    append(&store, inc, 0, vec![receipt.clone()])
        .await
        .expect("it answers");
    for (cell, posted) in [(miner, 10), (tried, 0), (ceiling, 10)] {
        assert_eq!(store.row(cell).await.posted[0], units(posted));
    }
    assert_eq!(store.attempts(miner, Outcome::Good).await, 1);
    assert_eq!(store.attempts(tried, Outcome::Stalled).await, 1);
    assert_eq!(store.attempts(ceiling, Outcome::Good).await, 0);
    assert_eq!(store.receipt(inc, 1).await, Some(receipt));
}
