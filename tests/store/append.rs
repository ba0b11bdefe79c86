//! Receipts, and the counters that they raise.

use futures_util::future::join_all;
use smallvec::SmallVec;
use taugate::registry::declaration::{DeclarationStore as _, Subject};
use taugate_ledger::engine::AppendError;
use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Finish;

use crate::place::{
    PERIOD, Place, append, exchange, good, id, make_cell, part, row, units, with_cell,
};

#[tokio::test]
async fn a_counter_tells_of_units_at_once_and_of_attempts_with_the_last_receipt() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
    assert_eq!(append(&store, inc, 0, vec![part(1, cell, 10)]).await, Ok(1));
    let tally = store.tallies(PERIOD).await.unwrap()[0];
    assert_eq!(
        (tally.attempts[0], tally.units, tally.rev),
        (0, units(10), 1)
    );
    let receipts = vec![good(2, cell, 5), part(1, cell, 30), good(1, cell, 42)];
    assert_eq!(append(&store, inc, 1, receipts).await, Ok(4));
    let tally = store.tallies(PERIOD).await.unwrap()[0];
    assert_eq!(
        (tally.attempts[0], tally.units, tally.rev),
        (2, units(47), 2)
    );
    assert_eq!((tally.first_chunk_us, tally.duration_us), (2_000, 10_000));
}

#[tokio::test]
async fn a_receipt_is_read_with_the_names_of_its_cells() {
    let place = Place::new();
    let (store, miner, inc) = with_cell(&place, 100).await;
    let ceiling = Subject::Ceiling {
        task: "chat".into(),
    };
    let ceiling = store.subject(ceiling).await.unwrap();
    let wanted = vec![(ceiling, units(1000))];
    store.set_cells(PERIOD, wanted).await.unwrap();
    for cell in [miner, ceiling] {
        exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
    }
    let mut receipt = good(1, miner, 10);
    receipt.held = SmallVec::from_slice(&[miner, ceiling]);
    append(&store, inc, 0, vec![receipt.clone()]).await.unwrap();
    let stored = store.receipt(id(inc, 1)).await.unwrap().unwrap();
    assert_eq!(stored.receipt, receipt);
    assert_eq!(stored.subjects.len(), 2);
}

#[tokio::test]
async fn a_last_part_of_a_dead_incarnation_reads_as_gateway_lost() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
    append(&store, inc, 0, vec![part(1, cell, 10)])
        .await
        .unwrap();
    let running = store.receipt(id(inc, 1)).await.unwrap().unwrap();
    assert_eq!(running.receipt.finish, Finish::Running);
    drop(store);
    let store = place.open();
    let lost = store.receipt(id(inc, 1)).await.unwrap().unwrap();
    assert_eq!(lost.receipt.finish, Finish::GatewayLost);
    assert_eq!(lost.receipt.units, units(10));
    assert_eq!(row(&store, cell).await.receipts[0], units(10));
}

#[tokio::test]
async fn those_who_wait_share_a_commit() {
    const CALLERS: u8 = 100;
    let place = Place::new();
    let (store, cell, _) = with_cell(&place, 10_000).await;
    let mut incarnations = Vec::new();
    for _ in 0..CALLERS {
        let inc = store.new_incarnation("many").await.unwrap();
        exchange(&store, inc, 1, (cell, 10, 0)).await.unwrap();
        incarnations.push(inc);
    }
    let before = store.counts();
    let appends = incarnations
        .iter()
        .map(|inc| append(&store, *inc, 0, vec![good(1, cell, 10)]));
    for done in join_all(appends).await {
        assert_eq!(done, Ok(1));
    }
    let after = store.counts();
    assert_eq!(after.receipts - before.receipts, u64::from(CALLERS));
    let commits = after.commits - before.commits;
    assert!(commits <= u64::from(CALLERS) / 4, "{commits} commits");
}

#[tokio::test]
async fn one_that_is_refused_disturbs_nobody_in_its_commit() {
    let place = Place::new();
    let (store, cell, one) = with_cell(&place, 100).await;
    let two = store.new_incarnation("two").await.unwrap();
    exchange(&store, one, 1, (cell, 10, 0)).await.unwrap();
    exchange(&store, two, 1, (cell, 10, 0)).await.unwrap();
    let (fine, refused) = tokio::join!(
        append(&store, one, 0, vec![good(1, cell, 10)]),
        append(&store, two, 0, vec![good(1, cell, 10), good(2, cell, 1)]),
    );
    assert_eq!(fine, Ok(1));
    assert_eq!(refused, Err(AppendError::BeyondGrant { cell }));
    assert_eq!(row(&store, cell).await.posted[0], units(10));
}

#[tokio::test]
async fn a_second_end_of_a_call_is_refused_by_its_cell_wherever_it_stands() {
    const CALLS: u64 = 40;
    let place = Place::new();
    let (store, one, inc) = with_cell(&place, 10_000).await;
    let two = make_cell(&store, 2, 10_000).await;
    for cell in [one, two] {
        exchange(&store, inc, 1, (cell, 5_000, 0)).await.unwrap();
    }
    append(&store, inc, 0, vec![good(1, two, 1)]).await.unwrap();
    let ask = |doubled_at: usize, call| {
        let mut receipts: Vec<_> = (2..CALLS + 2).map(|call| good(call, one, 1)).collect();
        receipts.insert(doubled_at, good(call, two, 1));
        // Refused as well, but it comes last.
        receipts.push(good(CALLS + 2, CellId(77), 1));
        receipts
    };
    // At the edges of what one statement writes; a call of an earlier ask, and one of the same.
    for doubled_at in [0, 1, 15, 16, 17, 31, 32, 39, 40] {
        let refused = append(&store, inc, 1, ask(doubled_at, 1)).await;
        assert_eq!(refused, Err(AppendError::BeyondGrant { cell: two }));
        if doubled_at > 0 {
            let refused = append(&store, inc, 1, ask(doubled_at, 2)).await;
            assert_eq!(refused, Err(AppendError::BeyondGrant { cell: two }));
        }
    }
    assert_eq!(row(&store, one).await.posted[0], units(0));
    let fine: Vec<_> = (2..CALLS + 2).map(|call| good(call, one, 1)).collect();
    assert_eq!(append(&store, inc, 1, fine).await, Ok(1 + CALLS));
    assert_eq!(row(&store, one).await.receipts[0], units(CALLS));
}

#[tokio::test]
async fn a_part_after_the_end_is_refused_also_within_an_ask() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
    let refused = Err(AppendError::BeyondGrant { cell });
    let after_end = vec![part(1, cell, 1), good(1, cell, 2), part(1, cell, 3)];
    assert_eq!(append(&store, inc, 0, after_end).await, refused);
    let in_one = vec![
        part(1, cell, 1),
        good(2, cell, 5),
        part(1, cell, 2),
        good(1, cell, 4),
    ];
    assert_eq!(append(&store, inc, 0, in_one).await, Ok(4));
    assert_eq!(row(&store, cell).await.receipts[0], units(9));
    for late in [part(1, cell, 4), part(2, cell, 5), good(1, cell, 4)] {
        assert_eq!(append(&store, inc, 4, vec![late]).await, refused);
    }
    assert_eq!(row(&store, cell).await.posted[0], units(9));
}
