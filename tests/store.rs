//! What the embedded store promises.

use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use smallvec::{SmallVec, smallvec};
use taugate::clock::ManualClock;
use taugate::identity::api_key::{KeyStore as _, Scope, StoredKey};
use taugate::identity::hotkey::Hotkey;
use taugate::identity::nonce::NonceStore as _;
use taugate::registry::declaration::{DeclarationRow, DeclarationStore as _, Put, Subject};
use taugate::store::sqlite::{
    BackupError, OpenError, SqliteSettings, SqliteStore, StoreReader, backup,
};
use taugate::store::{BookRow, Health, StoreFault};
use taugate_ledger::engine::{
    AppendAsk, AppendError, AppendReply, CellAsk, CellGrant, Engine as _, ExchangeAsk,
    ExchangeError, ExchangeReply,
};
use taugate_ledger::ids::{CellId, Incarnation, Origin, RequestId};
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;

#[path = "store/model.rs"]
mod model;

const LENGTH_S: u32 = 3600;
const PERIOD: Period = Period::starting_at(1_000 * 3600);
const NEXT: Period = Period::starting_at(1_001 * 3600);
/// A quarter into the period.
const NOW_MS: u64 = (1_000 * 3600 + 900) * 1000;

fn length() -> PeriodLength {
    PeriodLength::from_secs(LENGTH_S).expect("not zero")
}

/// A store in a directory of its own, with its clock.
struct Place {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a scratch directory"),
            clock: Arc::new(ManualClock::at(NOW_MS)),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    /// Opens it. A child that another test starts holds our lock between its fork and its
    /// exec, so that a lock is waited for a little.
    fn try_open(&self, settings: SqliteSettings) -> Result<SqliteStore, OpenError> {
        for _ in 0..100 {
            match self.open_once(settings) {
                Err(OpenError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
                opened => return opened,
            }
        }
        self.open_once(settings)
    }

    fn open_once(&self, settings: SqliteSettings) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(
            &self.path(),
            settings,
            Arc::<ManualClock>::clone(&self.clock),
            length(),
        )
    }

    fn open(&self) -> SqliteStore {
        self.try_open(settings()).expect("the store opens")
    }
}

fn settings() -> SqliteSettings {
    SqliteSettings {
        free_bytes_min: 0,
        ..SqliteSettings::default()
    }
}

fn hotkey(number: u8) -> Hotkey {
    Hotkey::from_bytes([number; 32])
}

fn units(amount: u64) -> Units {
    Units::new(amount)
}

/// A store with a miner's cell of that size and one incarnation.
async fn with_cell(place: &Place, wanted: u64) -> (SqliteStore, CellId, Incarnation) {
    let store = place.open();
    let cell = make_cell(&store, 1, wanted).await;
    let inc = store.new_incarnation("one").await.expect("an incarnation");
    (store, cell, inc)
}

async fn make_cell(store: &SqliteStore, number: u8, wanted: u64) -> CellId {
    let subject = Subject::Miner {
        hotkey: hotkey(number),
        task: "chat".into(),
    };
    let cell = store.subject(subject).await.expect("a subject");
    store
        .set_cells(PERIOD, vec![(cell, units(wanted))])
        .await
        .expect("a cell");
    cell
}

async fn exchange(
    store: &SqliteStore,
    inc: Incarnation,
    seq: u64,
    (cell, target, posted): (CellId, u64, u64),
) -> Result<CellGrant, ExchangeError> {
    exchange_in(store, PERIOD, inc, seq, (cell, target, posted)).await
}

async fn exchange_in(
    store: &SqliteStore,
    period: Period,
    incarnation: Incarnation,
    seq: u64,
    (cell, target, posted): (CellId, u64, u64),
) -> Result<CellGrant, ExchangeError> {
    let ask = ExchangeAsk {
        incarnation,
        period,
        seq,
        cells: vec![CellAsk {
            cell,
            target: units(target),
            posted: units(posted),
        }],
    };
    let ExchangeReply { cells, .. } = store.exchange(ask).await?;
    Ok(cells[0])
}

async fn append(
    store: &SqliteStore,
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
    let AppendReply { next_offset } = store.append(ask).await?;
    Ok(next_offset)
}

/// A good call of some units.
fn good(call: u64, cell: CellId, amount: u64) -> Receipt {
    let attempt = Attempt {
        cell,
        outcome: Outcome::Good,
        units: units(amount),
        first_chunk_us: Some(1_000),
        duration_us: 5_000,
    };
    Receipt {
        call,
        origin: Origin::Organic,
        client: "client00".into(),
        task: "chat".into(),
        admitted_ms: NOW_MS,
        finish: Finish::Attempt(Outcome::Good),
        quality: Quality::Exact,
        units: units(amount),
        prompt_units: Units::ZERO,
        held: smallvec![cell],
        attempts: smallvec![attempt],
        digest: [7; 32],
        labels: vec![("team".to_owned(), "a".to_owned())],
        claim: None,
    }
}

fn part(call: u64, cell: CellId, amount: u64) -> Receipt {
    Receipt {
        finish: Finish::Running,
        ..good(call, cell, amount)
    }
}

fn id(incarnation: Incarnation, call: u64) -> RequestId {
    RequestId {
        period: PERIOD,
        incarnation,
        call,
    }
}

async fn row(store: &SqliteStore, cell: CellId) -> BookRow {
    let books = store.books(PERIOD).await.expect("books");
    assert!(books.iter().all(BookRow::closes), "{books:#?}");
    books
        .into_iter()
        .find(|row| row.cell == cell)
        .expect("the cell's row")
}

// === exchange ===

#[tokio::test]
async fn grants_never_pass_what_is_wanted_over_incarnations() {
    let place = Place::new();
    let (store, cell, one) = with_cell(&place, 100).await;
    let two = store.new_incarnation("two").await.unwrap();

    let first = exchange(&store, one, 1, (cell, 70, 0)).await.unwrap();
    assert_eq!((first.granted, first.sum_granted), (units(70), units(70)));
    let second = exchange(&store, two, 1, (cell, 70, 0)).await.unwrap();
    assert_eq!(
        (second.granted, second.sum_granted),
        (units(30), units(100))
    );

    // Given back, it can be had by the other.
    let back = exchange(&store, one, 2, (cell, 10, 0)).await.unwrap();
    assert_eq!((back.granted, back.sum_granted), (units(10), units(40)));
    let more = exchange(&store, two, 2, (cell, 90, 0)).await.unwrap();
    assert_eq!((more.granted, more.sum_granted), (units(90), units(100)));
    assert_eq!(row(&store, cell).await.granted, units(100));
}

#[tokio::test]
async fn an_old_ask_changes_nothing() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 70, 0)).await.unwrap();
    exchange(&store, inc, 2, (cell, 20, 0)).await.unwrap();
    let old = exchange(&store, inc, 1, (cell, 70, 0)).await.unwrap();
    assert_eq!(old.granted, units(20));
}

#[tokio::test]
async fn no_more_is_given_back_than_is_not_proven() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
    append(&store, inc, 0, vec![good(1, cell, 30)])
        .await
        .unwrap();
    let back = exchange(&store, inc, 2, (cell, 0, 30)).await.unwrap();
    assert_eq!(back.granted, units(30));
    let behind = exchange(&store, inc, 3, (cell, 50, 29)).await;
    assert_eq!(behind, Err(ExchangeError::PostedBehind(cell)));
}

#[tokio::test]
async fn what_an_exchange_says_was_posted_is_not_stored() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
    exchange(&store, inc, 2, (cell, 60, 40)).await.unwrap();
    assert_eq!(row(&store, cell).await.posted, [Units::ZERO; 2]);
}

#[tokio::test]
async fn a_closed_incarnation_is_fenced() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
    store.close_period(inc, PERIOD).await.unwrap();
    let closed = exchange(&store, inc, 2, (cell, 60, 0)).await;
    assert_eq!(closed, Err(ExchangeError::PeriodNotOpen(PERIOD)));
    store.close(inc).await.unwrap();
    store.close(inc).await.unwrap();
    let fenced = exchange(&store, inc, 2, (cell, 60, 0)).await;
    assert_eq!(fenced, Err(ExchangeError::Fenced));
    let append = append(&store, inc, 0, vec![good(1, cell, 1)]).await;
    assert_eq!(append, Err(AppendError::Fenced));
    let stranger = exchange(&store, Incarnation(99), 1, (cell, 1, 0)).await;
    assert_eq!(stranger, Err(ExchangeError::Fenced));
}

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
    // Proof still comes into its own period.
    append(&store, inc, 0, vec![good(1, cell, 10)])
        .await
        .unwrap();
    assert_eq!(row(&store, cell).await.posted[0], units(10));
}

#[tokio::test]
async fn an_unknown_cell_refuses_the_whole_ask() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
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
    assert_eq!(row(&store, cell).await.granted, Units::ZERO);
}

#[tokio::test]
async fn a_cut_keeps_what_was_granted_and_grants_no_more() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 80, 0)).await.unwrap();
    store
        .set_cells(PERIOD, vec![(cell, units(20))])
        .await
        .unwrap();
    let cut = row(&store, cell).await;
    assert_eq!((cut.wanted, cut.allotment), (units(20), units(80)));
    let more = exchange(&store, inc, 2, (cell, 90, 0)).await.unwrap();
    assert_eq!((more.granted, more.wanted), (units(80), units(20)));
    // The allotment follows what is given back, and does not rise with an exchange.
    exchange(&store, inc, 3, (cell, 50, 0)).await.unwrap();
    assert_eq!(row(&store, cell).await.allotment, units(50));
    let more = exchange(&store, inc, 4, (cell, 60, 0)).await.unwrap();
    assert_eq!(more.granted, units(50));
    // A raise counts at once.
    store
        .set_cells(PERIOD, vec![(cell, units(70))])
        .await
        .unwrap();
    let more = exchange(&store, inc, 5, (cell, 60, 0)).await.unwrap();
    assert_eq!(more.granted, units(60));
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

// === append ===

#[tokio::test]
async fn a_resend_books_nothing_twice_and_a_gap_is_refused() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
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
    assert_eq!(row(&store, cell).await.receipts, [units(40), Units::ZERO]);
}

#[tokio::test]
async fn a_receipt_beyond_the_grant_is_refused_whole() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 25, 0)).await.unwrap();
    let receipts = vec![good(1, cell, 20), good(2, cell, 6)];
    let refused = append(&store, inc, 0, receipts).await;
    assert_eq!(refused, Err(AppendError::BeyondGrant { cell }));
    assert_eq!(row(&store, cell).await.posted, [Units::ZERO; 2]);
    assert!(store.receipt(id(inc, 1)).await.unwrap().is_none());
    // The books go on after it.
    assert_eq!(append(&store, inc, 0, vec![good(1, cell, 25)]).await, Ok(1));
}

#[tokio::test]
async fn receipts_that_do_not_add_up_are_refused() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    let other = make_cell(&store, 2, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
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
    assert_eq!(row(&store, cell).await.posted, [Units::ZERO; 2]);
}

#[tokio::test]
async fn parts_are_cumulative_and_attempts_count_with_the_last() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 100, 0)).await.unwrap();
    assert_eq!(append(&store, inc, 0, vec![part(1, cell, 10)]).await, Ok(1));
    assert_eq!(row(&store, cell).await.receipts[0], units(10));
    let tally = store.tallies(PERIOD).await.unwrap()[0];
    assert_eq!(
        (tally.attempts[0], tally.units, tally.rev),
        (0, units(10), 1)
    );
    // Another call between, a part and the end in one ask.
    let receipts = vec![good(2, cell, 5), part(1, cell, 30), good(1, cell, 42)];
    assert_eq!(append(&store, inc, 1, receipts).await, Ok(4));
    let books = row(&store, cell).await;
    assert_eq!((books.receipts[0], books.posted[0]), (units(47), units(47)));
    let tally = store.tallies(PERIOD).await.unwrap()[0];
    assert_eq!(
        (tally.attempts[0], tally.units, tally.rev),
        (2, units(47), 2)
    );
    assert_eq!((tally.first_chunk_us, tally.duration_us), (2_000, 10_000));
    // It ended once; less than before cannot be.
    let again = append(&store, inc, 4, vec![good(1, cell, 42)]).await;
    assert_eq!(again, Err(AppendError::BeyondGrant { cell }));
    append(&store, inc, 4, vec![part(3, cell, 9)])
        .await
        .unwrap();
    let less = append(&store, inc, 5, vec![good(3, cell, 8)]).await;
    assert_eq!(less, Err(AppendError::BeyondGrant { cell }));
}

#[tokio::test]
async fn units_go_to_every_held_cell_and_attempts_to_the_miners() {
    let place = Place::new();
    let (store, miner, inc) = with_cell(&place, 100).await;
    let tried = make_cell(&store, 2, 100).await;
    let ceiling = Subject::Ceiling {
        task: "chat".into(),
    };
    let ceiling = store.subject(ceiling).await.unwrap();
    store
        .set_cells(PERIOD, vec![(ceiling, units(1000))])
        .await
        .unwrap();
    for cell in [miner, tried, ceiling] {
        exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
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
    append(&store, inc, 0, vec![receipt.clone()]).await.unwrap();
    for (cell, posted) in [(miner, 10), (tried, 0), (ceiling, 10)] {
        assert_eq!(row(&store, cell).await.posted[0], units(posted));
    }
    let tallies = store.tallies(PERIOD).await.unwrap();
    let counted: Vec<_> = tallies.iter().map(|tally| tally.cell).collect();
    assert_eq!(counted, [miner, tried]);
    assert_eq!(tallies[1].attempts, [0, 0, 0, 0, 0, 1, 0]);

    let stored = store.receipt(id(inc, 1)).await.unwrap().unwrap();
    assert_eq!(stored.receipt, receipt);
    assert_eq!(stored.subjects.len(), 3);
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

// === against the model ===

/// Something that a gateway, a miner or the network does. Numbers pick from what there is.
#[derive(Clone, Debug)]
enum Step {
    Set {
        cell: usize,
        wanted: u64,
    },
    Exchange {
        inc: usize,
        /// How far the number is above the last one's; 0: below or equal.
        ahead: u64,
        wishes: Vec<(usize, u64, u64)>,
    },
    Append {
        inc: usize,
        back: u64,
        calls: Vec<(u64, usize, u64, bool)>,
    },
    /// The last ask comes once more.
    ExchangeAgain,
    AppendAgain,
    ClosePeriod {
        inc: usize,
    },
    Close {
        inc: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let amount = 0_u64..40;
    let wish = (0_usize..4, 0_u64..60, 0_u64..60);
    let call = (1_u64..20, 0_usize..3, 0_u64..8, any::<bool>());
    let step = prop_oneof![
        30 => (0_usize..3, amount).prop_map(|(cell, wanted)| Step::Set { cell, wanted }),
        100 => (0_usize..3, 0_u64..3, prop::collection::vec(wish, 1..3))
            .prop_map(|(inc, ahead, wishes)| Step::Exchange { inc, ahead, wishes }),
        100 => (0_usize..3, 0_u64..3, prop::collection::vec(call, 0..4))
            .prop_map(|(inc, back, calls)| Step::Append { inc, back, calls }),
        30 => Just(Step::ExchangeAgain),
        30 => Just(Step::AppendAgain),
        1 => (0_usize..3).prop_map(|inc| Step::ClosePeriod { inc }),
        1 => (0_usize..3).prop_map(|inc| Step::Close { inc }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_the_model_does(steps in steps()) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(answers_as_the_model(steps));
    }
}

async fn answers_as_the_model(steps: Vec<Step>) {
    let place = Place::new();
    let store = place.open();
    let (mut model, mut cells, incs) = three_of_each(&store).await;
    // No cell of this period.
    cells.push(CellId(9));
    let (mut next, mut seqs) = ([0_u64; 3], [1_u64; 3]);
    let (mut exchange, mut append) = (None, None);
    for step in steps {
        match step {
            Step::Set { cell, wanted } => {
                let wishes = vec![(cells[cell], units(wanted))];
                store.set_cells(PERIOD, wishes).await.expect("cells");
                model.set_cell(cells[cell], wanted);
            }
            Step::Exchange { inc, ahead, wishes } => {
                seqs[inc] += ahead;
                exchange = Some(ExchangeAsk {
                    incarnation: incs[inc],
                    period: PERIOD,
                    seq: seqs[inc],
                    cells: wishes_for(&cells, wishes),
                });
                exchanges_alike(&store, &mut model, exchange.as_ref()).await;
            }
            Step::ExchangeAgain => exchanges_alike(&store, &mut model, exchange.as_ref()).await,
            Step::Append { inc, back, calls } => {
                let receipts = calls.into_iter().map(|(call, cell, amount, is_part)| {
                    let make = if is_part { part } else { good };
                    make(call, cells[cell], amount)
                });
                append = Some(AppendAsk {
                    incarnation: incs[inc],
                    period: PERIOD,
                    // Mostly what comes next; else a resend, or one too far.
                    first_offset: (next[inc] + 1).saturating_sub(back),
                    receipts: receipts.collect(),
                });
                if let Some(reply) = appends_alike(&store, &mut model, append.as_ref()).await {
                    next[inc] = reply.next_offset;
                }
            }
            Step::AppendAgain => {
                appends_alike(&store, &mut model, append.as_ref()).await;
            }
            Step::ClosePeriod { inc } => {
                let done = store.close_period(incs[inc], PERIOD).await;
                assert_eq!(done, model.close_period(incs[inc]));
            }
            Step::Close { inc } => {
                assert_eq!(store.close(incs[inc]).await, model.close(incs[inc]));
            }
        }
    }
    for cell in &cells[..3] {
        let books = row(&store, *cell).await;
        let (wanted, allotment, granted) = model.cells[cell];
        let expected = [wanted, allotment, granted, model.posted(*cell)].map(units);
        let found = [
            books.wanted,
            books.allotment,
            books.granted,
            books.posted[0],
        ];
        assert_eq!(found, expected);
    }
}

/// Three cells and three incarnations, in the store and in the model.
async fn three_of_each(store: &SqliteStore) -> (model::Model, Vec<CellId>, Vec<Incarnation>) {
    let mut model = model::Model::default();
    let mut cells = Vec::new();
    let mut incs = Vec::new();
    for number in 0..3 {
        cells.push(make_cell(store, number, 30).await);
        model.set_cell(cells[usize::from(number)], 30);
        let inc = store.new_incarnation("g").await.expect("an incarnation");
        model.start(inc);
        incs.push(inc);
    }
    (model, cells, incs)
}

fn wishes_for(cells: &[CellId], wishes: Vec<(usize, u64, u64)>) -> Vec<CellAsk> {
    let mut asks: Vec<CellAsk> = wishes
        .into_iter()
        .map(|(cell, target, posted)| CellAsk {
            cell: cells[cell],
            target: units(target),
            posted: units(posted),
        })
        .collect();
    asks.dedup_by_key(|ask| ask.cell);
    asks
}

async fn exchanges_alike(store: &SqliteStore, model: &mut model::Model, ask: Option<&ExchangeAsk>) {
    if let Some(ask) = ask {
        let reply = store.exchange(ask.clone()).await.map(|reply| reply.cells);
        assert_eq!(reply, model.exchange(ask), "{ask:?}");
    }
}

async fn appends_alike(
    store: &SqliteStore,
    model: &mut model::Model,
    ask: Option<&AppendAsk>,
) -> Option<AppendReply> {
    let ask = ask?;
    let reply = store.append(ask.clone()).await;
    assert_eq!(reply, model.append(ask), "{ask:?}");
    reply.ok()
}

// === rows of other rooms ===

#[tokio::test]
async fn subjects_are_numbered_once_and_densely() {
    let place = Place::new();
    let store = place.open();
    let miner = |number, task: &str| Subject::Miner {
        hotkey: hotkey(number),
        task: task.into(),
    };
    let subjects = [
        miner(1, "a"),
        miner(1, "b"),
        miner(2, "a"),
        Subject::Ceiling { task: "a".into() },
        Subject::Client { key: "a".into() },
    ];
    for (number, subject) in (0..).zip(&subjects) {
        let cell = store.subject(subject.clone()).await.unwrap();
        assert_eq!(cell, CellId(number));
    }
    drop(store);
    let store = place.open();
    assert_eq!(store.subject(subjects[3].clone()).await, Ok(CellId(3)));
}

#[tokio::test]
async fn the_newest_declaration_stands() {
    let place = Place::new();
    let store = place.open();
    let declared = |sequence, payload: &'static str| DeclarationRow {
        hotkey: hotkey(1),
        sequence,
        payload: payload.into(),
        signature: [9; 64],
        endpoint: "http://127.0.0.1:1".into(),
        accepted_ms: NOW_MS,
        withdrawn: false,
    };
    assert_eq!(
        store.put_declaration(declared(5, "x")).await,
        Ok(Put::Stored)
    );
    let mut moved = declared(5, "x");
    moved.endpoint = "http://127.0.0.1:2".into();
    assert_eq!(store.put_declaration(moved.clone()).await, Ok(Put::Same));
    assert_eq!(store.declarations().await, Ok(vec![moved]));
    assert_eq!(
        store.put_declaration(declared(5, "y")).await,
        Ok(Put::Stale)
    );
    assert_eq!(
        store.put_declaration(declared(4, "x")).await,
        Ok(Put::Stale)
    );
    assert_eq!(store.withdraw(hotkey(1), 4).await, Ok(false));
    assert_eq!(store.withdraw(hotkey(1), 7).await, Ok(true));
    assert_eq!(store.withdraw(hotkey(2), 7).await, Ok(false));
    assert_eq!(
        store.put_declaration(declared(7, "x")).await,
        Ok(Put::Stale)
    );
    assert_eq!(
        store.put_declaration(declared(8, "x")).await,
        Ok(Put::Stored)
    );
    drop(store);
    let rows = place.open().declarations().await.unwrap();
    assert_eq!(rows, [declared(8, "x")]);
}

#[tokio::test]
async fn a_nonce_is_good_once_and_keys_are_kept() {
    let place = Place::new();
    let store = place.open();
    let keep = NOW_MS + 20_000;
    assert_eq!(store.spend_nonce(hotkey(1), [1; 16], keep).await, Ok(true));
    assert_eq!(store.spend_nonce(hotkey(1), [1; 16], keep).await, Ok(false));
    assert_eq!(store.spend_nonce(hotkey(2), [1; 16], keep).await, Ok(true));
    let key = StoredKey {
        public_id: "abcdefgh".into(),
        sha256: [3; 32],
        name: "a name".into(),
        tasks: Some(vec!["chat".into(), "with \"quotes\" and, commas".into()]),
        scopes: vec![Scope::Generate, Scope::Check],
        proven_only: true,
        created_ms: NOW_MS,
        expires_ms: Some(NOW_MS + 1),
        revoked_ms: None,
        last_used_ms: Some(NOW_MS),
    };
    store.put_key(key.clone()).await.unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(store.keys().await.unwrap(), [key]);
    assert_eq!(store.revoke_key("nobody00".into(), NOW_MS).await, Ok(false));
    assert_eq!(store.revoke_key("abcdefgh".into(), 5).await, Ok(true));
    assert_eq!(store.revoke_key("abcdefgh".into(), 9).await, Ok(true));
    assert_eq!(store.keys().await.unwrap()[0].revoked_ms, Some(5));
    assert_eq!(store.spend_nonce(hotkey(1), [1; 16], keep).await, Ok(false));
}

// === the file ===

#[tokio::test]
async fn an_empty_or_missing_file_in_its_place_is_refused() {
    let place = Place::new();
    drop(with_cell(&place, 100).await);
    let kept = place.dir.path().join("kept.db");
    std::fs::rename(place.path(), &kept).unwrap();
    assert!(matches!(
        place.try_open(settings()),
        Err(OpenError::Missing)
    ));
    assert!(!place.path().exists(), "it was made anew");
    std::fs::write(place.path(), b"").unwrap();
    assert!(matches!(
        place.try_open(settings()),
        Err(OpenError::Missing)
    ));
    std::fs::rename(&kept, place.path()).unwrap();
    assert_eq!(place.open().periods().await, Ok(vec![PERIOD]));
}

#[tokio::test]
async fn another_store_in_its_place_is_refused() {
    let (place, other) = (Place::new(), Place::new());
    drop(place.open());
    drop(other.open());
    std::fs::copy(other.path(), place.path()).unwrap();
    let refused = place.try_open(settings());
    assert!(matches!(refused, Err(OpenError::OtherStore)), "{refused:?}");
}

#[tokio::test]
async fn an_older_copy_is_opened_frozen_or_not_at_all() {
    let place = Place::new();
    let (store, cell, first) = with_cell(&place, 100).await;
    let copy = place.dir.path().join("copy.db");
    backup(&place.path(), &copy, |_| {}).unwrap();
    let lost = store.new_incarnation("two").await.unwrap();
    exchange(&store, lost, 1, (cell, 100, 0)).await.unwrap();
    drop(store);
    for gone in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!(
            "{}{gone}",
            place.path().display()
        )));
    }
    std::fs::rename(&copy, place.path()).unwrap();
    let refused = place.try_open(settings());
    assert!(
        matches!(refused, Err(OpenError::Older { found, noted })
            if (found, noted) == (first.0, lost.0)),
        "{refused:?}"
    );

    let frozen = SqliteSettings {
        freeze: true,
        ..settings()
    };
    let store = place.try_open(frozen).unwrap();
    let inc = store.new_incarnation("three").await.unwrap();
    assert!(inc > lost, "a number was given twice");
    let raised = exchange(&store, inc, 1, (cell, 1, 0)).await;
    assert_eq!(raised, Err(ExchangeError::LostCommits));
    drop(store);
    // It stays frozen when it is opened without the setting, until the period ends.
    let store = place.open();
    let inc = store.new_incarnation("four").await.unwrap();
    let raised = exchange(&store, inc, 1, (cell, 1, 0)).await;
    assert_eq!(raised, Err(ExchangeError::LostCommits));
    store.set_cells(NEXT, vec![(cell, units(5))]).await.unwrap();
    let next = exchange_in(&store, NEXT, inc, 1, (cell, 5, 0))
        .await
        .unwrap();
    assert_eq!(next.granted, units(5));
}

#[tokio::test]
async fn a_newer_schema_and_a_strange_file_are_refused() {
    let place = Place::new();
    drop(place.open());
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let refused = place.try_open(settings());
    assert!(
        matches!(refused, Err(OpenError::NewerSchema { found: 99, .. })),
        "{refused:?}"
    );

    let strange = Place::new();
    let raw = rusqlite::Connection::open(strange.path()).unwrap();
    raw.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(raw);
    let refused = strange.try_open(settings());
    assert!(matches!(refused, Err(OpenError::NotAStore)), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_page_is_refused_with_its_reason() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100_000).await;
    exchange(&store, inc, 1, (cell, 100_000, 0)).await.unwrap();
    let receipts = (1..=500).map(|call| good(call, cell, 1)).collect();
    append(&store, inc, 0, receipts).await.unwrap();
    drop(store);
    let bytes = std::fs::metadata(place.path()).unwrap().len();
    let mut file = std::fs::File::options()
        .write(true)
        .open(place.path())
        .unwrap();
    // The last pages are those of receipts.
    file.seek(SeekFrom::Start((bytes / 4096 - 2) * 4096))
        .unwrap();
    file.write_all(&[0xff; 4096]).unwrap();
    drop(file);
    let refused = place.try_open(settings());
    assert!(
        matches!(&refused, Err(OpenError::Damaged { reason }) if !reason.is_empty()),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_flipped_digit_is_refused() {
    for change in [
        "UPDATE cell SET granted = granted - 1",
        "UPDATE lease SET organic = organic - 1",
        "UPDATE receipt SET units = units + 1",
        "UPDATE receipt SET held = zeroblob(length(held) + 4)",
    ] {
        let place = Place::new();
        let (store, cell, inc) = with_cell(&place, 100).await;
        exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
        append(&store, inc, 0, vec![good(1, cell, 5)])
            .await
            .unwrap();
        drop(store);
        let raw = rusqlite::Connection::open(place.path()).unwrap();
        assert_eq!(raw.execute(change, []).unwrap(), 1);
        drop(raw);
        let refused = place.try_open(settings());
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{change}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_row_that_is_damaged_while_open_stops_the_store_for_good() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 50, 0)).await.unwrap();
    let mut health = store.health();
    assert_eq!(*health.borrow(), Health::Ready);
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    raw.execute("UPDATE lease SET granted = 60", []).unwrap();
    let damaged = append(&store, inc, 0, vec![good(1, cell, 55)]).await;
    assert_eq!(damaged, Err(AppendError::Damaged));
    health
        .wait_for(|health| *health == Health::Damaged)
        .await
        .unwrap();
    // Even when the row is mended: what was acknowledged since is not known.
    raw.execute("UPDATE lease SET granted = 50", []).unwrap();
    let still = append(&store, inc, 0, vec![good(1, cell, 5)]).await;
    assert_eq!(still, Err(AppendError::Damaged));
    assert_eq!(store.heartbeat(inc).await, Err(StoreFault::Damaged));
}

#[tokio::test]
async fn the_length_of_periods_changes_once_none_is_open() {
    let place = Place::new();
    drop(with_cell(&place, 100).await);
    let open = |place: &Place| {
        SqliteStore::open(
            &place.path(),
            settings(),
            Arc::<ManualClock>::clone(&place.clock),
            PeriodLength::from_secs(600).unwrap(),
        )
    };
    let refused = open(&place);
    assert!(
        matches!(refused, Err(OpenError::PeriodLength { until_s, .. })
            if until_s == NEXT.start_s()),
        "{refused:?}"
    );
    place.clock.set(NEXT.start_s() * 1000);
    open(&place).unwrap();
}

#[tokio::test]
async fn a_full_file_refuses_and_keeps_what_it_acknowledged() {
    let place = Place::new();
    let small = SqliteSettings {
        bytes_max: Some(400 << 10),
        ..settings()
    };
    let store = place.try_open(small).unwrap();
    let cell = make_cell(&store, 1, 1_000_000).await;
    let inc = store.new_incarnation("one").await.unwrap();
    exchange(&store, inc, 1, (cell, 1_000_000, 0))
        .await
        .unwrap();
    let mut next = 0;
    let end = loop {
        let receipts = (0..50).map(|at| good(next + at + 1, cell, 1)).collect();
        match append(&store, inc, next, receipts).await {
            Ok(offset) => next = offset,
            Err(error) => break error,
        }
        assert!(next < 100_000, "it never filled up");
    };
    assert_eq!(end, AppendError::Unavailable);
    assert!(next > 0);
    assert_eq!(row(&store, cell).await.receipts[0], units(next));
    drop(store);
    // With more room it goes on where it was.
    let store = place.open();
    let more = append(&store, inc, next, vec![good(next + 1, cell, 1)]).await;
    assert_eq!(more, Ok(next + 1));
}

#[tokio::test]
async fn with_little_space_left_grants_are_refused_before_receipts() {
    let place = Place::new();
    let small = SqliteSettings {
        bytes_max: Some(1 << 20),
        free_bytes_min: 512 << 10,
        ..settings()
    };
    let store = place.try_open(small).unwrap();
    let cell = make_cell(&store, 1, 1_000_000).await;
    let inc = store.new_incarnation("one").await.unwrap();
    exchange(&store, inc, 1, (cell, 500_000, 0)).await.unwrap();
    let mut health = store.health();
    let mut next = 0;
    while *health.borrow_and_update() == Health::Ready {
        let receipts = (0..50).map(|at| good(next + at + 1, cell, 1)).collect();
        next = append(&store, inc, next, receipts).await.unwrap();
    }
    assert_eq!(*health.borrow(), Health::Full);
    let more = exchange(&store, inc, 2, (cell, 600_000, next)).await;
    assert_eq!(more, Err(ExchangeError::Unavailable));
    // Proof and giving back still pass.
    append(&store, inc, next, vec![good(next + 1, cell, 1)])
        .await
        .unwrap();
    let back = exchange(&store, inc, 2, (cell, 0, next + 1)).await.unwrap();
    assert_eq!(back.granted, units(next + 1));
}

#[tokio::test]
async fn old_periods_are_dropped_and_open_ones_kept() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 10_000).await;
    exchange(&store, inc, 1, (cell, 10_000, 0)).await.unwrap();
    let receipts = (1..=3_000).map(|call| good(call, cell, 1)).collect();
    append(&store, inc, 0, receipts).await.unwrap();
    let at = |periods: u64, seconds: u64| {
        let start_s = PERIOD.start_s() + periods * u64::from(LENGTH_S);
        place.clock.set((start_s + seconds) * 1000);
        Period::starting_at(start_s)
    };
    // Three ended periods are kept, and the grace.
    let kept = at(4, 0);
    store.set_cells(kept, vec![(cell, units(1))]).await.unwrap();
    assert!(store.receipt(id(inc, 3_000)).await.unwrap().is_some());
    at(5, 0);
    let dropped = async {
        while store.periods().await.unwrap() != [kept] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped)
        .await
        .expect("the old period goes");
    assert!(store.receipt(id(inc, 3_000)).await.unwrap().is_none());
    let late = append(&store, inc, 3_000, vec![good(3_001, cell, 1)]).await;
    assert_eq!(late, Err(AppendError::PeriodNotOpen(PERIOD)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_store_in_use_is_whole() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 1_000_000).await;
    exchange(&store, inc, 1, (cell, 1_000_000, 0))
        .await
        .unwrap();
    let receipts = (1..=5_000).map(|call| good(call, cell, 1)).collect();
    append(&store, inc, 0, receipts).await.unwrap();
    let copy = Place::new();
    let (from, to) = (place.path(), copy.path());
    let copying = tokio::task::spawn_blocking(move || {
        let mut steps = Vec::new();
        backup(&from, &to, |progress| steps.push(progress)).map(|()| steps)
    });
    let mut next = 5_000;
    while !copying.is_finished() {
        next = append(&store, inc, next, vec![good(next + 1, cell, 1)])
            .await
            .unwrap();
    }
    let steps = copying.await.unwrap().unwrap();
    assert!(steps.last().is_some_and(|last| last.done == last.total));
    let again = backup(&place.path(), &copy.path(), |_| {});
    assert!(matches!(again, Err(BackupError::Exists)));

    let restored = copy.open();
    let books = row(&restored, cell).await;
    assert!(books.receipts[0] >= units(5_000), "{books:?}");
    assert!(books.receipts[0] <= units(next));
    let missing = backup(
        &copy.dir.path().join("none"),
        &copy.dir.path().join("x"),
        |_| {},
    );
    assert!(matches!(missing, Err(BackupError::Source(_))));
    assert!(!copy.dir.path().join("x").exists());
}

// === other processes ===

/// Names the work of a child and the store it works on.
const CHILD: &str = "TAUGATE_STORE_CHILD";

/// Starts this test's binary again, as a child that does `work` on the store at `path`.
fn child(work: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "works_as_a_child", "--nocapture"])
        .env(CHILD, format!("{work}:{}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("the parent reads");
    out.flush().expect("the parent reads");
}

/// Not a test by itself: what the children of the tests below do. Without a parent it has
/// nothing to do.
#[tokio::test]
async fn works_as_a_child() {
    let Some(work) = std::env::var_os(CHILD) else {
        return;
    };
    let work = work.into_string().unwrap();
    let (work, path) = work.split_once(':').unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = SqliteStore::open(Path::new(path), settings(), clock, length()).unwrap();
    let cell = make_cell(&store, 1, 100_000_000).await;
    say("open");
    match work {
        "hold" => std::future::pending().await,
        "append" => {
            let tasks = (0..3).map(|_| append_for_ever(&store, cell));
            join_all(tasks).await;
        }
        other => panic!("no such work: {other}"),
    }
}

/// Tells of each acknowledged append.
async fn append_for_ever(store: &SqliteStore, cell: CellId) {
    let inc = store
        .new_incarnation("child")
        .await
        .expect("the store answers");
    let (mut next, mut seq) = (0, 0);
    loop {
        seq += 1;
        let target = next + 1_000;
        exchange(store, inc, seq, (cell, target, next))
            .await
            .expect("the store answers");
        for _ in 0..10 {
            let count = 1 + next % 40;
            let receipts = (0..count).map(|at| good(next + at + 1, cell, 1)).collect();
            next = append(store, inc, next, receipts)
                .await
                .expect("the store answers");
            say(&format!("ack {} {next}", inc.0));
        }
    }
}

#[tokio::test]
async fn acknowledged_receipts_survive_a_kill() {
    const ROUNDS: usize = 8;
    let place = Place::new();
    let mut acknowledged = std::collections::BTreeMap::new();
    for round in 1..=ROUNDS {
        let mut child = child("append", &place.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A different moment each round.
        let wanted = 5 + round * 17 % 60;
        let mut acks = 0;
        while let Some(Ok(line)) = lines.next() {
            // The last line may have been cut by the kill: it has no third word then, or
            // a number that is too small, which asks for less.
            if let Some((inc, next)) = line
                .strip_prefix("ack ")
                .and_then(|rest| rest.split_once(' '))
            {
                let (inc, next): (u64, u64) = (inc.parse().unwrap(), next.parse().unwrap());
                acknowledged.insert(Incarnation(inc), next);
                acks += 1;
                if acks == wanted {
                    child.kill().unwrap();
                }
            }
        }
        assert!(!child.wait().unwrap().success(), "it ended by itself");
        assert!(acks >= wanted, "{acks} acks");

        let store = place.open();
        let books = store.books(PERIOD).await.unwrap();
        assert!(books.iter().all(BookRow::closes), "{books:#?}");
        let booked = books[0].receipts[0];
        assert!(booked >= acknowledged.values().copied().map(units).sum());
        for (inc, next) in &acknowledged {
            for call in 1..=*next {
                let stored = store.receipt(id(*inc, call)).await.unwrap();
                assert_eq!(stored.map(|stored| stored.offset), Some(call - 1));
            }
        }
    }
    assert!(acknowledged.len() >= ROUNDS, "{acknowledged:?}");
}

#[tokio::test]
async fn a_second_process_is_told_who_uses_the_store() {
    let place = Place::new();
    let mut child = child("hold", &place.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "open" {}
    let refused = place.try_open(settings());
    let pid = child.id();
    assert!(
        matches!(refused, Err(OpenError::InUse { pid: Some(by) }) if by == pid),
        "{refused:?}"
    );
    assert!(refused.unwrap_err().to_string().contains(&pid.to_string()));
    // Reading and copying are free to others.
    let reader = StoreReader::open(&place.path()).unwrap();
    assert_eq!(reader.periods().unwrap(), [PERIOD]);
    assert_eq!(reader.books(PERIOD).unwrap().len(), 1);
    backup(&place.path(), &place.dir.path().join("copy"), |_| {}).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock dies with its process.
    place.open();
}
