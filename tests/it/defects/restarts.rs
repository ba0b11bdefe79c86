//! What a gateway keeps when it is killed, loses its store's last commits, or a part of it dies:
//! the binary, real files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taugate::clock::{Clock as _, ManualClock, SystemClock};
use taugate::gateway::Gateway;
use taugate::proto::v1;
use taugate::store::BookRow;
use taugate::store::sqlite::{SqliteSettings, SqliteStore, StoreReader, backup};
use taugate_ledger::ids::RequestId;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::units::Units;
use tokio::task::JoinSet;
use tonic_types::StatusExt;

use crate::support::miner::{Act, FakeMiner};
use crate::support::process::{KeyedClient, Place, Process};
use crate::support::{Heard, TestGateway, chat};

/// A length of which the running period has long begun and is long not over, so that a test
/// within one period sees no turn.
fn calm_length() -> PeriodLength {
    let now_s = SystemClock.unix_ms() / 1000;
    let calm = |length: &u32| {
        let into = now_s % u64::from(*length);
        (1_000..u64::from(*length) - 1_000).contains(&into)
    };
    let length = [3_600, 5_000, 7_000, 11_000, 13_000].into_iter().find(calm);
    PeriodLength::from_secs(length.expect("one of them is calm")).expect("not zero")
}

fn open(length: PeriodLength) -> Place {
    let length_s = length.secs();
    Place::new(&format!(
        "[keys]\nrequired = false\n[registry]\nopen_registration = true\nunauthenticated_miners = true\n\
         [period]\nlength_s = {length_s}\n[tasks.tiny]\n"
    ))
}

/// So many units of this length an hour.
fn hourly(units: u64, length: PeriodLength) -> u64 {
    (units * 3_600).div_ceil(u64::from(length.secs()))
}

/// What the file holds of a period once nobody uses it.
async fn books(place: &Place, length: PeriodLength, period: Period) -> Vec<BookRow> {
    let clock = Arc::new(SystemClock);
    let store = SqliteStore::open(&place.store(), SqliteSettings::default(), clock, length);
    let rows = store.expect("it opens").books(period).await;
    rows.expect("it answers")
}

fn posted(rows: &[BookRow]) -> u64 {
    rows.iter().flat_map(|row| row.posted).map(Units::get).sum()
}

/// A recorded answer: who it was, and what it cost.
type Told = Arc<Mutex<Vec<(String, u64)>>>;

/// Asks until the gateway is gone, or says that nothing is left `refused_max` times on end. A
/// gateway that has just started may not know its miners yet.
async fn ask_on(mut client: KeyedClient, told: Told, refused_max: u32) -> Heard {
    let mut refused = 0;
    loop {
        let heard = Heard::of(client.stream_generate(chat("hello")).await).await;
        let Some(completed) = &heard.completed else {
            let gone = heard
                .status
                .as_ref()
                .and_then(StatusExt::get_details_error_info);
            refused += 1;
            if gone.is_none() || refused >= refused_max {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        refused = 0;
        assert!(completed.recorded, "the engine was never away");
        let usage = completed.usage.as_ref().expect("usage");
        let started = heard.started.as_ref().expect("it began");
        told.lock().push((started.request_id.clone(), usage.units));
    }
}

/// N14: a restart forgot what was spent, or gave it again. The binary is killed while calls
/// run, after some more answers each time: each answer that a client was told is recorded is in
/// the books with what it cost, and all incarnations together never spend more than the
/// allotment.
#[tokio::test]
async fn n14_a_kill_at_any_moment_loses_no_receipt_and_mints_no_allotment() {
    // Each kill leaves what ran and what was fetched ahead, at most half of the rest, charged.
    const ALLOTMENT: u64 = 12_000;
    let length = calm_length();
    let place = open(length);
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(240)), Act::Complete(60)]).await;
    let told = Told::default();
    let (mut period, mut allotment) = (None, 0);
    for kill_after in [0, 1, 5, 9, 14] {
        let mut gateway = place.start().await;
        let hourly = hourly(ALLOTMENT, length);
        let declared = gateway.declare("//One", miner.address, hourly).await;
        allotment = declared.allotments[0].allotment;
        // A declaration of whole units an hour is a few more over a longer period.
        assert!((ALLOTMENT..ALLOTMENT + 4).contains(&allotment));
        let due = told.lock().len() + kill_after;
        let mut asking = JoinSet::new();
        for _ in 0..2 {
            asking.spawn(ask_on(
                gateway.client("").await,
                Arc::clone(&told),
                u32::MAX,
            ));
        }
        until(|| told.lock().len() >= due, &gateway).await;
        gateway.kill().await;
        while let Some(ended) = asking.join_next().await {
            let ended = ended.expect("no panic");
            assert!(ended.completed.is_none(), "it was cut");
        }
        let last = told.lock().last().cloned();
        if let Some((id, _)) = last {
            let id: RequestId = id.parse().expect("an id");
            assert_eq!(*period.get_or_insert(id.period), id.period, "no turn");
        }
    }

    // What is left is spent to its end, and each receipt is still told.
    let gateway = place.start().await;
    let before = told.lock().clone();
    let heard = ask_on(gateway.client("").await, Arc::clone(&told), 3).await;
    assert_eq!(heard.reason(), "NO_CAPACITY");
    let mut client = gateway.client("").await;
    for (request_id, units) in before {
        let request = v1::GetReceiptRequest { request_id };
        let answer = client.get_receipt(request).await.expect("it is kept");
        let receipt = answer.into_inner().receipt.expect("a receipt");
        assert_eq!(receipt.units, units, "{receipt:?}");
    }
    gateway.stop().await;
    let rows = books(&place, length, period.expect("answers came")).await;
    for row in &rows {
        assert!(row.closes() && row.granted <= row.allotment, "{row:?}");
        assert_eq!(row.allotment.get(), allotment, "{row:?}");
    }
    let recorded: u64 = told.lock().iter().map(|(_, units)| units).sum();
    let posted = posted(&rows);
    assert!(
        recorded <= posted && posted <= allotment,
        "{recorded} {posted}"
    );
}

async fn until(reached: impl Fn() -> bool, gateway: &Process) {
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    while !reached() {
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "it never came: {}", gateway.logged());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// N31: pools and background tasks died in silence. Here a page of the store goes bad under a
/// gateway that runs: it says so and ends with a code that is not zero.
#[tokio::test]
async fn n31_a_store_that_goes_bad_is_an_alarm_and_the_end() {
    let place = open(calm_length());
    let mut gateway = place.start().await;
    let miner = FakeMiner::start(vec![Act::Say("Hello".into()), Act::Complete(1)]).await;
    gateway.declare("//One", miner.address, 1_000_000).await;
    let mut client = gateway.client("").await;
    let heard = Heard::of(client.stream_generate(chat("hello")).await).await;
    assert!(heard.completed.expect("it works").recorded);
    let raw = rusqlite::Connection::open(place.store()).expect("it opens");
    raw.busy_timeout(super::PATIENCE).expect("it waits");
    raw.execute("UPDATE lease SET granted = granted + 7", [])
        .expect("it is written");
    drop(raw);
    // Nobody need ask for anything that is granted: the next receipts find it.
    drop(client.stream_generate(chat("again")).await);
    gateway.until_said("a background task died").await;
    let ended = gateway.ended().await;
    assert_eq!(ended.code(), Some(1), "{}", gateway.logged());
}

/// Puts a copy of a store where the store is.
fn restore(copy: &Path, store: &Path) {
    for ending in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{ending}", store.display())));
    }
    std::fs::copy(copy, store).expect("it is copied");
}

/// A backup that is put in place knows nothing of what was spent since: without a freeze that
/// would be given a second time.
#[tokio::test]
async fn nothing_of_a_frozen_period_is_granted_and_the_next_one_works() {
    let length = PeriodLength::from_secs(600).expect("not zero");
    let now_ms = SystemClock.unix_ms();
    let period = length.period_at(now_ms);
    let clock = Arc::new(ManualClock::at(now_ms));
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (store, copy) = (dir.path().join("taugate.db"), dir.path().join("copy.db"));
    let config = {
        let mut config = TestGateway::config(&store);
        config.period.length = length;
        config.limits.wait = Duration::ZERO;
        Arc::new(config)
    };
    let miner = FakeMiner::start(vec![Act::Say("x".repeat(240)), Act::Complete(60)]).await;
    let hourly = hourly(400, length);

    let gateway = Gateway::start(Arc::clone(&config), Arc::clone(&clock) as _).await;
    let gateway = TestGateway::over(gateway.expect("it starts"), dir);
    gateway.declare("//One", &miner, hourly, 8).await;
    assert!(gateway.ask(chat("one")).await.completed.is_some());
    let before = gateway.posted().await;
    backup(&store, &copy, |_| {}).expect("it is copied");
    while gateway.ask(chat("more")).await.completed.is_some() {}
    let spent = gateway.posted().await;
    assert!(before < spent && spent <= 400, "{before} {spent}");
    let dir = gateway.stop().await;

    restore(&copy, &store);
    let gateway = Gateway::open_frozen(config, Arc::clone(&clock) as _).await;
    let gateway = gateway.expect("it starts");
    gateway.begin().await;
    let gateway = TestGateway::over(gateway, dir);
    let answered = miner.seen().len();
    for _ in 0..3 {
        let refused = gateway.ask(chat("again")).await;
        assert_eq!(refused.reason(), "NO_CAPACITY");
    }
    assert_eq!(miner.seen().len(), answered, "none reached the miner");
    assert_eq!(gateway.posted().await, before);
    let rows = gateway.gateway.book_rows(period).await.expect("it answers");
    let granted: u64 = rows.iter().map(|row| row.granted.get()).sum();
    assert_eq!(granted, granted_before(&copy, period));

    clock.set(length.end_ms(period));
    gateway
        .until("the period turns", || {
            gateway.gateway.books().table().period() != period
        })
        .await;
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    while gateway.ask(chat("next")).await.completed.is_none() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it never works again"
        );
    }
    gateway.stop().await;
}

fn granted_before(copy: &Path, period: Period) -> u64 {
    let store = StoreReader::open(copy).expect("it opens");
    let rows = store.books(period).expect("it answers");
    rows.iter().map(|row| row.granted.get()).sum()
}

/// The operator's side of it: a backup is refused, also one of the last start, and the refusal
/// names the argument that opens it.
#[tokio::test]
async fn a_restored_backup_is_refused_until_its_period_is_frozen() {
    let length = calm_length();
    let place = open(length);
    let miner = FakeMiner::start(vec![Act::Say("Hello".into()), Act::Complete(1)]).await;
    let ask = async |gateway: &Process| {
        let mut client = gateway.client("").await;
        Heard::of(client.stream_generate(chat("hello")).await).await
    };
    let gateway = place.start().await;
    gateway.declare("//One", miner.address, 1_000_000).await;
    assert!(ask(&gateway).await.completed.is_some());
    let copy = place.store().with_extension("copy");
    let copied = place
        .run(&["store", "backup", copy.to_str().expect("text")])
        .await;
    assert!(copied.status.success(), "{copied:?}");
    // Of this the copy knows nothing, though it is of the same start.
    assert!(ask(&gateway).await.completed.is_some());
    gateway.stop().await;

    restore(&copy, &place.store());
    let refused = place.run(&["gateway"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("--freeze-period"), "{said}");
    let gateway = place.start_with(&["--freeze-period"]).await;
    assert_eq!(ask(&gateway).await.reason(), "NO_CAPACITY");
    gateway.stop().await;
}
