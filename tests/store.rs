//! What the embedded store promises.

use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use smallvec::{SmallVec, smallvec};
use taugate::clock::ManualClock;
use taugate::identity::api_key::{KeyStore as _, Scope, StoredKey};
use taugate::identity::hotkey::{Hotkey, Keypair};
use taugate::identity::nonce::NonceStore as _;
use taugate::registry::declaration::{DeclarationRow, DeclarationStore as _, Put, Subject};
use taugate::report::seal::{PeriodBooks, Sealer};
use taugate::report::{Closing, SealStore as _};
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

/// The one ended period, as far as its seal is concerned.
async fn closing(store: &SqliteStore) -> Closing {
    let ended = store.closing().await.expect("the store answers");
    assert_eq!(ended.len(), 1, "{ended:?}");
    ended[0]
}

/// Seals the period as it is.
async fn seal(store: &SqliteStore, revision: u32) -> (bool, PeriodBooks) {
    let books = store.period_books(PERIOD).await.expect("books");
    let keypair = Keypair::from_secret("//Validator").expect("a key");
    let sealer = Sealer {
        keypair: &keypair,
        network: "test",
        length: length(),
    };
    let seal = sealer.seal(PERIOD, revision, &books);
    (store.put_seal(seal).await.expect("it is kept"), books)
}

#[tokio::test]
async fn a_period_is_due_for_its_seal_once_all_closed_it_and_at_latest_after_its_grace() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0)).await.unwrap();
    append(&store, inc, 0, vec![good(1, cell, 25)])
        .await
        .unwrap();
    let running = store.closing().await.unwrap();
    assert_eq!(running, [], "it has not ended");
    place.clock.set(NEXT.start_s() * 1000);
    assert!(!closing(&store).await.due, "a lease is open");
    store.close_period(inc, PERIOD).await.unwrap();
    assert!(closing(&store).await.due);

    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0)).await.unwrap();
    let grace_ms = u64::try_from(settings().grace.as_millis()).unwrap();
    place.clock.set(NEXT.start_s() * 1000 + grace_ms - 1);
    assert!(!closing(&store).await.due);
    place.clock.set(NEXT.start_s() * 1000 + grace_ms);
    assert!(closing(&store).await.due);
    // Who is dead for certain is not waited for.
    place.clock.set(NEXT.start_s() * 1000);
    assert!(!closing(&store).await.due);
    drop(store);
    assert!(closing(&place.open()).await.due);
}

#[tokio::test]
async fn a_seal_names_what_is_in_doubt_and_late_proof_makes_a_revision() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 100).await;
    exchange(&store, inc, 1, (cell, 60, 0)).await.unwrap();
    append(&store, inc, 0, vec![good(1, cell, 25)])
        .await
        .unwrap();
    place.clock.set(NEXT.start_s() * 1000);
    let (kept, books) = seal(&store, 1).await;
    assert!(kept);
    assert_eq!(
        (books.totals[0].units, books.totals[0].attempts),
        (units(25), 1)
    );
    assert_eq!(books.in_doubt[0].units, units(35));
    let before = closing(&store).await;

    append(&store, inc, 1, vec![good(2, cell, 10)])
        .await
        .unwrap();
    assert_ne!(closing(&store).await.mark, before.mark);
    assert!(!seal(&store, 1).await.0, "a revision is written once");
    let (kept, books) = seal(&store, 2).await;
    assert!(kept);
    assert_eq!(books.totals[0].units, units(35));
    assert_eq!(books.in_doubt[0].units, units(25));
    drop(store);

    let store = place.open();
    let seals = store.seals(PERIOD).await.unwrap();
    let revisions: Vec<_> = seals.iter().map(|seal| seal.revision).collect();
    assert_eq!(revisions, [1, 2]);
    assert!(seals[0].id < seals[1].id);
    assert!(books.is_said_by(&seals[1].payload) && !books.is_said_by(&seals[0].payload));
    let sum: u64 = row(&store, cell)
        .await
        .receipts
        .iter()
        .map(|sum| sum.get())
        .sum();
    assert_eq!(sum, 35, "the seal is the sum of receipts");
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
