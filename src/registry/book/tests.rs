//! What the registry promises, over an engine as its trait describes it.

use prost::Message as _;
use taugate_ledger::engine::BoxFuture;

use super::*;
use crate::clock::ManualClock;
use crate::identity::hotkey::Keypair;
use crate::proto::v1;
use crate::registry::checked::RECORD_KIND;
use crate::registry::declaration::Subject;
use crate::registry::roll::LeftOut;
use crate::registry::share::Share;
use crate::registry::snapshot::{Availability, Offer, Proofs, Shown};
use crate::task::{Task, TaskKind};

const NOW_MS: u64 = 1_700_000_400_000;
const HOUR_MS: u64 = 3_600_000;
const ENDPOINT: &str = "http://127.0.0.1:9000";

/// The engine, as its trait describes it.
#[derive(Debug, Default)]
struct Engine(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    away: bool,
    /// Whether it breaks off before it sets a cell.
    cells_away: bool,
    declarations: HashMap<Hotkey, DeclarationRow>,
    subjects: HashMap<Subject, CellId>,
    wanted: BTreeMap<(Period, CellId), Units>,
}

impl Engine {
    fn rows<T>(&self, look: impl FnOnce(&mut Rows) -> T) -> BoxFuture<'_, Result<T, StoreAway>>
    where
        T: Send + 'static,
    {
        let away = self.0.lock().away;
        let answer = (!away).then(|| look(&mut self.0.lock()));
        Box::pin(std::future::ready(answer.ok_or(StoreAway)))
    }
}

impl DeclarationStore for Engine {
    fn declarations(&self) -> BoxFuture<'_, Result<Vec<DeclarationRow>, StoreAway>> {
        self.rows(|rows| rows.declarations.values().cloned().collect())
    }

    fn put_declaration(&self, row: DeclarationRow) -> BoxFuture<'_, Result<Put, StoreAway>> {
        self.rows(|rows| {
            let put = match rows.declarations.get(&row.hotkey) {
                Some(held) if held.sequence > row.sequence => Put::Stale,
                Some(held) if held.sequence == row.sequence => {
                    if held.withdrawn || held.payload != row.payload {
                        Put::Stale
                    } else {
                        Put::Same
                    }
                }
                Some(_) | None => Put::Stored,
            };
            if put != Put::Stale {
                rows.declarations.insert(row.hotkey, row);
            }
            put
        })
    }

    fn withdraw(&self, hotkey: Hotkey, sequence: u64) -> BoxFuture<'_, Result<bool, StoreAway>> {
        self.rows(|rows| {
            let held = rows.declarations.get_mut(&hotkey);
            let held = held.filter(|held| held.sequence <= sequence);
            held.map(|held| (held.sequence, held.withdrawn) = (sequence, true))
                .is_some()
        })
    }

    fn subject(&self, subject: Subject) -> BoxFuture<'_, Result<CellId, StoreAway>> {
        self.rows(|rows| {
            let next = CellId(u32::try_from(rows.subjects.len()).unwrap());
            *rows.subjects.entry(subject).or_insert(next)
        })
    }

    fn set_cells(
        &self,
        period: Period,
        wanted: Vec<(CellId, Units)>,
    ) -> BoxFuture<'_, Result<(), StoreAway>> {
        let keyed = wanted
            .into_iter()
            .map(|(cell, units)| ((period, cell), units));
        if self.0.lock().cells_away {
            return Box::pin(std::future::ready(Err(StoreAway)));
        }
        self.rows(|rows| rows.wanted.extend(keyed))
    }
}

/// A registry over an engine, and a clock to move.
struct Bench {
    registry: Arc<Registry>,
    engine: Arc<Engine>,
    clock: Arc<ManualClock>,
}

fn length() -> PeriodLength {
    PeriodLength::from_secs(3600).unwrap()
}

fn task(id: &str) -> Task {
    Task {
        cap: Units::new(60_000),
        weight: 1.0,
        ..Task::open_chat(Arc::from(id))
    }
}

fn settings() -> RegistrySettings {
    RegistrySettings {
        network: Arc::from("test"),
        share: Share::WHOLE,
        open_registration: true,
        metagraph: None,
        hotkeys: BTreeSet::new(),
        open_tasks: false,
        private_endpoints: true,
        miners_max: 100,
    }
}

impl Bench {
    async fn new(change: impl FnOnce(&mut RegistrySettings)) -> Self {
        Self::over(Arc::default(), vec![task("chat")], change).await
    }

    async fn over(
        engine: Arc<Engine>,
        tasks: Vec<Task>,
        change: impl FnOnce(&mut RegistrySettings),
    ) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let registry = Registry::open(
            settings,
            Arc::new(tasks.into_iter().collect()),
            Arc::clone(&engine) as _,
            Arc::clone(&clock) as _,
            length(),
        );
        let registry = registry.await.unwrap();
        let bench = Self {
            registry,
            engine,
            clock,
        };
        bench.registry.open_period(bench.running()).await.unwrap();
        bench
    }

    fn running(&self) -> Period {
        length().period_at(crate::clock::Clock::unix_ms(self.clock.as_ref()))
    }

    async fn declare(&self, name: &str, sequence: u64, units: u64) -> Result<(), DeclareError> {
        let declaration = declaration(name, sequence, &[("chat", units)]);
        self.declare_this(name, &declaration).await
    }

    async fn declare_this(
        &self,
        name: &str,
        declaration: &v1::Declaration,
    ) -> Result<(), DeclareError> {
        let key = key(name);
        let payload = declaration.encode_to_vec();
        let signature = key.sign_record(RECORD_KIND, &payload);
        let record = Record {
            hotkey: key.hotkey(),
            payload: &payload,
            signature: &signature,
        };
        self.registry.declare(record, ENDPOINT).await
    }

    fn offers(&self, task: &str) -> Vec<Offer> {
        let snapshot = self.registry.snapshot();
        snapshot.markets.get(task).unwrap().offers.clone()
    }

    fn only(&self) -> Offer {
        let offers = self.offers("chat");
        assert_eq!(offers.len(), 1);
        offers[0].clone()
    }

    /// What the engine was told of a cell.
    fn told(&self, period: Period, cell: CellId) -> Option<u64> {
        let rows = self.engine.0.lock();
        rows.wanted.get(&(period, cell)).map(|units| units.get())
    }

    fn away(&self, away: bool) {
        self.engine.0.lock().away = away;
    }
}

fn key(name: &str) -> Keypair {
    Keypair::from_secret(name).unwrap()
}

fn declaration(name: &str, sequence: u64, tasks: &[(&str, u64)]) -> v1::Declaration {
    v1::Declaration {
        network: "test".into(),
        hotkey: key(name).hotkey().to_string(),
        sequence,
        valid_from_ms: NOW_MS,
        valid_until_ms: NOW_MS + 24 * HOUR_MS,
        tasks: tasks
            .iter()
            .map(|(task, units)| v1::DeclaredTask {
                task: (*task).into(),
                units_per_hour: *units,
                concurrency: 5,
                kind: v1::TaskKind::Chat.into(),
            })
            .collect(),
    }
}

fn change(counter: u64, availability: Availability) -> Change {
    Change {
        counter,
        task: None,
        availability,
        concurrency: None,
    }
}

#[tokio::test]
async fn equal_bytes_succeed_and_a_lower_sequence_is_stale() {
    // N24.
    let bench = Bench::new(|_| {}).await;
    assert_eq!(bench.declare("//One", 5, 1_000).await, Ok(()));
    assert_eq!(bench.declare("//One", 5, 1_000).await, Ok(()));
    assert_eq!(
        bench.declare("//One", 4, 9_000).await,
        Err(DeclareError::Stale)
    );
    assert_eq!(
        bench.declare("//One", 5, 9_000).await,
        Err(DeclareError::Stale),
        "the same sequence said something else"
    );
    assert_eq!(bench.only().declared, Units::new(1_000));
    assert_eq!(bench.declare("//One", 6, 2_000).await, Ok(()));
    assert_eq!(bench.only().declared, Units::new(2_000));
}

/// Declares with one thing changed.
async fn refused(change: impl FnOnce(&mut v1::Declaration)) -> DeclareError {
    let bench = Bench::new(|_| {}).await;
    let mut declaration = declaration("//One", 1, &[("chat", 1_000)]);
    change(&mut declaration);
    let verdict = bench.declare_this("//One", &declaration).await;
    assert!(bench.engine.0.lock().declarations.is_empty());
    verdict.unwrap_err()
}

#[tokio::test]
async fn a_declaration_that_is_changed_foreign_or_expired_is_refused() {
    // N24.
    use DeclareError::{Foreign, Malformed, Network, NotValidNow};
    let days = Malformed("validity must be at most 31 days");
    assert_eq!(refused(|d| d.network = "other".into()).await, Network);
    assert_eq!(refused(|d| d.hotkey = String::new()).await, Foreign);
    let two = key("//Two").hotkey().to_string();
    assert_eq!(refused(|d| d.hotkey = two).await, Foreign);
    assert_eq!(refused(|d| d.valid_from_ms += 60_000).await, NotValidNow);
    let past = refused(|d| (d.valid_from_ms, d.valid_until_ms) = (NOW_MS - 9, NOW_MS));
    assert_eq!(past.await, NotValidNow);
    let long = refused(|d| d.valid_until_ms = NOW_MS + 31 * 24 * HOUR_MS + 1);
    assert_eq!(long.await, days);
    assert_eq!(refused(|d| d.valid_until_ms = d.valid_from_ms).await, days);

    let bench = Bench::new(|_| {}).await;
    let payload = declaration("//One", 1, &[("chat", 1_000)]).encode_to_vec();
    let mut signature = key("//One").sign_record(RECORD_KIND, &payload);
    signature[0] ^= 1;
    let changed = Record {
        hotkey: key("//One").hotkey(),
        payload: &payload,
        signature: &signature,
    };
    let verdict = bench.registry.declare(changed, ENDPOINT).await;
    assert_eq!(verdict, Err(DeclareError::Signature));
    assert!(bench.engine.0.lock().declarations.is_empty());
}

#[tokio::test]
async fn a_declaration_out_of_range_is_refused() {
    let malformed = async |what, change: fn(&mut v1::Declaration)| {
        assert_eq!(refused(change).await, DeclareError::Malformed(what));
    };
    let sequence = "sequence out of range";
    malformed(sequence, |d| d.sequence = 0).await;
    malformed(sequence, |d| d.sequence = u64::MAX).await;
    let twice = "a task stands twice";
    malformed(twice, |d| d.tasks.push(d.tasks[0].clone())).await;
    let id = "a task's id must be 1 to 128 bytes";
    malformed(id, |d| d.tasks[0].task = String::new()).await;
    malformed(id, |d| d.tasks[0].task = "x".repeat(129)).await;
    malformed(id, |d| d.tasks[0].task = "a\nb".into()).await;
    malformed("a task has no kind", |d| d.tasks[0].kind = 0).await;
    let many = |d: &mut v1::Declaration| {
        let one = d.tasks[0].clone();
        let named = |task| v1::DeclaredTask {
            task,
            ..one.clone()
        };
        d.tasks = (0..257).map(|at| named(format!("t{at}"))).collect();
    };
    malformed("more than 256 tasks", many).await;
    let large = |d: &mut v1::Declaration| d.tasks[0].task = "x".repeat(64 * 1024);
    malformed("more than 64 KiB", large).await;
}

#[tokio::test]
async fn an_endpoint_is_a_scheme_a_host_and_a_port_and_nothing_else() {
    for good in [
        "http://127.0.0.1:9000",
        "http://[::1]:1",
        "http://miner.example:65535",
        "https://127.0.0.1:9000",
        "https://miner.example:443",
    ] {
        assert!(endpoint(good, true).is_ok(), "{good}");
    }
    let long = format!("http://{}:80", "a".repeat(256));
    for bad in [
        "",
        "127.0.0.1:9000",
        "https://127.0.0.1:9000/",
        "HTTP//127.0.0.1:9000",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://:80",
        "http://me@127.0.0.1:80",
        "http://127.0.0.1:80/",
        "http://127.0.0.1:80/path",
        "http://127.0.0.1:80?query",
        "http://127.0.0.1:80#fragment",
        "unix:/run/miner",
        " http://127.0.0.1:80",
        &long,
    ] {
        assert_eq!(endpoint(bad, true), Err(DeclareError::Endpoint), "{bad}");
    }
}

#[tokio::test]
async fn case_13_an_address_that_is_not_public_is_refused_when_it_is_declared() {
    for private in [
        "http://127.0.0.1:9000",
        "https://[::1]:9000",
        "http://10.0.0.7:9000",
        "http://[::ffff:10.0.0.7]:9000",
    ] {
        let refused = endpoint(private, false);
        assert_eq!(refused, Err(DeclareError::Private), "{private}");
        assert!(endpoint(private, true).is_ok(), "{private}");
    }
    let metadata = "http://169.254.169.254:80";
    assert_eq!(endpoint(metadata, true), Err(DeclareError::Private));
    assert!(endpoint("https://93.184.216.34:443", false).is_ok());
}

#[tokio::test]
async fn equal_bytes_may_name_another_endpoint() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 5, 1_000).await.unwrap();
    let payload = declaration("//One", 5, &[("chat", 1_000)]).encode_to_vec();
    let signature = key("//One").sign_record(RECORD_KIND, &payload);
    let record = Record {
        hotkey: key("//One").hotkey(),
        payload: &payload,
        signature: &signature,
    };
    let moved = "http://127.0.0.1:9001";
    bench.registry.declare(record, moved).await.unwrap();
    assert_eq!(bench.only().miner.endpoint, moved);
}

#[tokio::test]
async fn a_withdrawn_declaration_stops_at_once_and_cannot_come_back() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 5, 1_000).await.unwrap();
    let cell = bench.only().cell;
    let hotkey = key("//One").hotkey();
    let withdraw = |sequence| bench.registry.withdraw(hotkey, sequence);
    assert_eq!(withdraw(4).await, Err(DeclareError::Stale));
    assert!(matches!(withdraw(0).await, Err(DeclareError::Malformed(_))));
    assert!(matches!(
        withdraw(u64::MAX).await,
        Err(DeclareError::Malformed(_))
    ));
    assert_eq!(bench.offers("chat").len(), 1);
    assert_eq!(withdraw(5).await, Ok(()));
    assert!(bench.offers("chat").is_empty());
    assert_eq!(bench.told(bench.running(), cell), Some(0));
    let replayed = bench.declare("//One", 5, 1_000).await;
    assert_eq!(replayed, Err(DeclareError::Stale));
    bench.declare("//One", 6, 1_000).await.unwrap();
    assert_eq!(bench.only().cell, cell, "a subject keeps its number");
}

#[tokio::test]
async fn a_change_in_mid_period_reaches_the_running_and_the_opened_next_period() {
    let bench = Bench::new(|_| {}).await;
    let running = bench.running();
    let next = length().next(running);
    bench.declare("//One", 1, 1_000).await.unwrap();
    let cell = bench.only().cell;
    assert_eq!(bench.told(running, cell), Some(1_000));
    assert_eq!(bench.told(next, cell), None);
    bench.registry.open_period(next).await.unwrap();
    for (sequence, units) in [(2, 400), (3, 2_000)] {
        bench.declare("//One", sequence, units).await.unwrap();
        assert_eq!(bench.only().allotment, Units::new(units));
        assert_eq!(bench.told(running, cell), Some(units));
        assert_eq!(bench.told(next, cell), Some(units));
    }
    // A task that is left out is not done.
    let nothing = declaration("//One", 4, &[]);
    bench.declare_this("//One", &nothing).await.unwrap();
    assert!(bench.offers("chat").is_empty());
    assert_eq!(bench.told(running, cell), Some(0));
    // The period that ended is left alone.
    bench.clock.set(next.start_s() * 1000);
    bench.declare("//One", 5, 3_000).await.unwrap();
    assert_eq!(bench.told(running, cell), Some(0));
    assert_eq!(bench.told(next, cell), Some(3_000));
}

#[tokio::test]
async fn a_hundred_periods_get_the_same_allotment() {
    // N27: capacities that were multiplied again each period shrank.
    let third = Share::new(1, 3).unwrap();
    let bench = Bench::new(|settings| settings.share = third).await;
    let mut lasting = declaration("//One", 1, &[("chat", 50_000)]);
    lasting.valid_until_ms = NOW_MS + 30 * 24 * HOUR_MS;
    bench.declare_this("//One", &lasting).await.unwrap();
    let cell = bench.only().cell;
    for _ in 0..100 {
        let next = length().next(bench.running());
        bench.registry.open_period(next).await.unwrap();
        assert_eq!(bench.told(next, cell), Some(16_666));
        bench.clock.set(next.start_s() * 1000);
        bench.registry.tick().await.unwrap();
        assert_eq!(bench.only().allotment, Units::new(16_666));
    }
}

#[tokio::test]
async fn the_turn_of_the_period_has_no_empty_moment() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let mut versions = bench.registry.subscribe();
    versions.mark_unchanged();
    let next = length().next(bench.running());
    bench.away(true);
    assert!(bench.registry.open_period(next).await.is_err());
    assert_eq!(
        bench.offers("chat").len(),
        1,
        "an engine that is away took offers away"
    );
    bench.away(false);
    bench.registry.open_period(next).await.unwrap();
    bench.clock.set(next.start_s() * 1000);
    bench.registry.tick().await.unwrap();
    assert_eq!(bench.offers("chat").len(), 1);
}

#[tokio::test]
async fn gateways_with_one_share_agree_to_the_unit() {
    // N26. The cap counts before the share, and every step rounds down.
    let share = Share::new(2, 7).unwrap();
    let mut found = Vec::new();
    for _ in 0..2 {
        let bench = Bench::new(|settings| settings.share = share).await;
        bench.declare("//One", 1, 99_999).await.unwrap();
        let offer = bench.only();
        assert_eq!(offer.declared, Units::new(99_999));
        assert_eq!(offer.allotment, Units::new(60_000 * 2 / 7));
        // Five at once over all validators; of two sevenths one is left.
        assert_eq!(offer.concurrency, Some(1));
        found.push(offer.allotment);
    }
    assert_eq!(found[0], found[1]);
}

#[tokio::test]
async fn an_expired_declaration_drops_out() {
    let bench = Bench::new(|_| {}).await;
    let mut short = declaration("//One", 1, &[("chat", 1_000)]);
    short.valid_until_ms = NOW_MS + 60_000;
    bench.declare_this("//One", &short).await.unwrap();
    let cell = bench.only().cell;
    bench.clock.set(NOW_MS + 59_999);
    bench.registry.tick().await.unwrap();
    assert_eq!(bench.offers("chat").len(), 1);
    bench.clock.set(NOW_MS + 60_000);
    bench.registry.tick().await.unwrap();
    assert!(bench.offers("chat").is_empty());
    assert_eq!(bench.told(bench.running(), cell), Some(0));
}

#[tokio::test]
async fn a_restart_finds_what_was_declared_and_who_is_still_listed() {
    let engine = Arc::<Engine>::default();
    let listed = |names: &[&str]| names.iter().map(|name| key(name).hotkey()).collect();
    let tasks = || vec![task("chat")];
    let before = Bench::over(Arc::clone(&engine), tasks(), |settings| {
        settings.open_registration = false;
        settings.hotkeys = listed(&["//One", "//Two"]);
    });
    let before = before.await;
    before.declare("//One", 1, 1_000).await.unwrap();
    before.declare("//Two", 1, 2_000).await.unwrap();
    let stranger = before.declare("//Three", 1, 3_000).await;
    assert_eq!(stranger, Err(DeclareError::NotRegistered));
    let cell = before.offers("chat")[0].cell;
    let after = Bench::over(engine, tasks(), |settings| {
        settings.open_registration = false;
        settings.hotkeys = listed(&["//One"]);
    });
    let after = after.await;
    assert_eq!(after.only().cell, cell);
    assert_eq!(after.only().allotment, Units::new(1_000));
    assert_eq!(
        after.declare("//One", 1, 1_000).await,
        Ok(()),
        "equal bytes"
    );
}

#[tokio::test]
async fn names_decide_nothing() {
    // N18: the order is that of arrival, whatever the hotkeys are.
    let names = ["//One", "//Two", "//Three", "//Four", "//Five"];
    for turn in 0..names.len() {
        let bench = Bench::new(|_| {}).await;
        for at in 0..names.len() {
            let name = names[(at + turn) % names.len()];
            let later_ms = u64::try_from(at).unwrap();
            let units = 1_000 + later_ms;
            bench.clock.set(NOW_MS + later_ms);
            bench.declare(name, 1, units).await.unwrap();
        }
        let offers = bench.offers("chat");
        let found = offers.iter().map(|offer| offer.allotment.get());
        assert_eq!(
            found.collect::<Vec<_>>(),
            [1_000, 1_001, 1_002, 1_003, 1_004]
        );
        let numbers = offers.iter().map(|offer| offer.miner.number);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2, 3, 4]);

        // A restart does not make it the order of the rows.
        let engine = Arc::clone(&bench.engine);
        let again = Bench::over(engine, vec![task("chat")], |_| {}).await;
        let again = again.offers("chat");
        let order =
            |offers: &[Offer]| -> Vec<_> { offers.iter().map(|offer| offer.cell).collect() };
        assert_eq!(order(&again), order(&offers));
    }
}

#[tokio::test]
async fn a_task_that_is_unknown_or_of_another_kind_is_left_out_and_costs_no_cell() {
    let image = Task {
        kind: TaskKind::TextToImage,
        ..task("image")
    };
    let bench = Bench::over(Arc::default(), vec![task("chat"), image], |_| {}).await;
    let tasks = [("chat", 1), ("image", 2), ("what", 3)];
    let declaration = declaration("//One", 1, &tasks);
    bench.declare_this("//One", &declaration).await.unwrap();
    let standing = bench.registry.standing(key("//One").hotkey());
    let left_out: Vec<_> = standing.iter().map(|one| one.left_out).collect();
    let expected = [None, Some(LeftOut::WrongKind), Some(LeftOut::UnknownTask)];
    assert_eq!(left_out, expected);
    assert!(bench.offers("image").is_empty());
    assert_eq!(bench.engine.0.lock().subjects.len(), 1);
}

#[tokio::test]
async fn a_flapping_miner_costs_no_more_than_a_calm_one() {
    // Abuse case 11, with a new task in each declaration.
    let bench = Bench::over(Arc::default(), Vec::new(), |settings| {
        settings.open_tasks = true;
    });
    let bench = bench.await;
    let mut taken = 0;
    for at in 0..2_000_u64 {
        // A hundred a second.
        bench.clock.set(NOW_MS + at * 10);
        let name = format!("task-{at}");
        let declaration = declaration("//One", at + 1, &[(&name, 1_000)]);
        let verdict = bench.declare_this("//One", &declaration).await;
        assert!(matches!(verdict, Ok(()) | Err(DeclareError::TooOften(_))));
        taken += u32::from(verdict.is_ok());
        let said = bench.registry.set_availability(
            key("//One").hotkey(),
            Change {
                task: Some(Arc::from(name)),
                ..change(at + 1, Availability::Busy)
            },
        );
        assert_eq!(said, verdict.is_ok());
    }
    assert!(
        (20..=61).contains(&taken),
        "{taken} declarations were taken"
    );
    assert_eq!(bench.registry.snapshot().tasks.len(), 1);
    assert_eq!(bench.engine.0.lock().declarations.len(), 1);

    // And over a long time: names that nobody offers any more make room for no new ones.
    for at in 2_000..2_600_u64 {
        bench.clock.set(NOW_MS + at * 1_000);
        let name = format!("task-{at}");
        let declaration = declaration("//One", at + 1, &[(&name, 1_000)]);
        bench.declare_this("//One", &declaration).await.unwrap();
    }
    assert_eq!(bench.engine.0.lock().subjects.len(), 256);
}

#[tokio::test]
async fn a_full_registry_makes_room_for_the_living_only() {
    let bench = Bench::new(|settings| settings.miners_max = 2).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    bench.declare("//Two", 1, 1_000).await.unwrap();
    let third = bench.declare("//Three", 1, 1_000).await;
    assert_eq!(third, Err(DeclareError::Full));
    bench.declare("//Two", 2, 500).await.unwrap();
    let hotkey = key("//One").hotkey();
    bench.registry.withdraw(hotkey, 1).await.unwrap();
    bench.declare("//Three", 1, 1_000).await.unwrap();
    let numbers = bench.offers("chat");
    let numbers: Vec<_> = numbers.iter().map(|offer| offer.miner.number).collect();
    assert_eq!(numbers, [1, 2], "a number was used twice");
    // The store still knows what was withdrawn.
    bench
        .registry
        .withdraw(key("//Two").hotkey(), 2)
        .await
        .unwrap();
    assert_eq!(
        bench.declare("//One", 1, 1_000).await,
        Err(DeclareError::Stale)
    );
}

#[tokio::test]
async fn an_opened_task_has_its_part_of_the_weights() {
    let bench = Bench::over(Arc::default(), Vec::new(), |settings| {
        settings.open_tasks = true;
    });
    let bench = bench.await;
    let two = declaration("//One", 1, &[("a", 1_000), ("b", 1_000)]);
    bench.declare_this("//One", &two).await.unwrap();
    let weights = || {
        let tasks = Arc::clone(&bench.registry.snapshot().tasks);
        tasks.iter().map(|task| task.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights(), [0.5, 0.5]);
    let one = declaration("//One", 2, &[("b", 1_000)]);
    bench.declare_this("//One", &one).await.unwrap();
    assert_eq!(weights(), [1.0]);
}

#[tokio::test]
async fn a_name_that_no_configuration_could_have_opens_no_task() {
    let bench = Bench::over(Arc::default(), Vec::new(), |settings| {
        settings.open_tasks = true;
    });
    let bench = bench.await;
    let named = [("ti ny", 1_000), ("org/model-1.5", 1_000)];
    let declaration = declaration("//One", 1, &named);
    bench.declare_this("//One", &declaration).await.unwrap();
    let tasks = Arc::clone(&bench.registry.snapshot().tasks);
    let ids: Vec<_> = tasks.iter().map(|task| &*task.id).collect();
    assert_eq!(ids, ["org/model-1.5"]);
}

#[tokio::test]
async fn tasks_reload_in_mid_period() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 50_000).await.unwrap();
    let (cell, running) = (bench.only().cell, bench.running());
    let capped = Task {
        cap: Units::new(10_000),
        ceiling: Some(Units::new(7_000)),
        ..task("chat")
    };
    let tasks = Arc::new([capped].into_iter().collect());
    bench.registry.set_tasks(tasks).await.unwrap();
    assert_eq!(bench.only().allotment, Units::new(10_000));
    assert_eq!(bench.told(running, cell), Some(10_000));
    let ceiling = bench.registry.snapshot().markets["chat"].ceiling.unwrap();
    assert_eq!(bench.told(running, ceiling), Some(7_000));
    bench.registry.set_tasks(Arc::default()).await.unwrap();
    assert!(bench.registry.snapshot().markets.is_empty());
    assert_eq!(bench.told(running, cell), Some(0));
    assert_eq!(bench.told(running, ceiling), Some(0));
}

#[tokio::test]
async fn what_an_absent_engine_did_not_take_is_not_offered_and_is_told_it_later() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let cell = bench.only().cell;
    bench.away(true);
    let verdict = bench.declare("//Two", 1, 1_000).await;
    assert_eq!(verdict, Err(DeclareError::Away(StoreAway)));
    assert_eq!(bench.only().cell, cell);
    let more = Task {
        cap: Units::new(400),
        ..task("chat")
    };
    let tasks = Arc::new([more].into_iter().collect());
    assert!(bench.registry.set_tasks(tasks).await.is_err());
    assert_eq!(
        bench.only().allotment,
        Units::new(400),
        "less counts at once"
    );
    assert_eq!(bench.told(bench.running(), cell), Some(1_000));
    assert!(bench.registry.tick().await.is_err());
    bench.away(false);
    bench.registry.tick().await.unwrap();
    assert_eq!(bench.told(bench.running(), cell), Some(400));
}

#[tokio::test]
async fn the_books_never_hear_of_a_cell_before_the_engine_knows_it() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let known = bench.registry.wanted();
    assert_eq!(known.len(), 1);
    bench.engine.0.lock().cells_away = true;
    let verdict = bench.declare("//Two", 1, 1_000).await;
    assert_eq!(verdict, Err(DeclareError::Away(StoreAway)));
    assert_eq!(bench.registry.wanted(), known);
    // Nor by what is published for another reason.
    let hotkey = key("//One").hotkey();
    let busy = change(1, Availability::Busy);
    assert!(bench.registry.set_availability(hotkey, busy));
    assert_eq!(bench.registry.wanted(), known);
    bench.engine.0.lock().cells_away = false;
    assert_eq!(bench.declare("//Two", 1, 1_000).await, Ok(()));
    assert_eq!(bench.registry.wanted().len(), 2);
}

#[tokio::test]
async fn availability_is_heeded_in_the_order_of_its_counter() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let revision = || bench.registry.snapshot().markets["chat"].revision;
    let calm = revision();
    let hotkey = key("//One").hotkey();
    let say = |change| bench.registry.set_availability(hotkey, change);
    assert!(say(change(5, Availability::Busy)));
    assert!(!say(change(5, Availability::Free)));
    assert!(!say(change(4, Availability::Free)));
    assert_eq!(bench.only().availability, Availability::Busy);
    assert_eq!(revision(), calm, "availability is no new offer");
    let other_task = Change {
        task: Some(Arc::from("other")),
        ..change(6, Availability::Free)
    };
    assert!(!say(other_task));
    let fewer = Change {
        task: Some(Arc::from("chat")),
        concurrency: Some(2),
        ..change(6, Availability::Free)
    };
    assert!(say(fewer));
    assert_eq!(bench.only().concurrency, Some(2));
    assert!(revision() > calm);
    assert!(say(change(7, Availability::Free)));
    assert_eq!(bench.only().concurrency, Some(5), "as declared");
    let stranger = key("//Two").hotkey();
    let unheard = change(1, Availability::Free);
    assert!(!bench.registry.set_availability(stranger, unheard));
}

#[tokio::test]
async fn what_was_shown_counts_where_bursts_are_planned() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let offer = bench.only();
    assert_eq!(offer.verified, offer.declared);
    assert!(!offer.proven && !bench.registry.snapshot().proving);
    let prove = |planned, passes_to| {
        let shown = Shown {
            verified: Units::new(100),
            passes_to: Units::new(passes_to),
        };
        bench.registry.set_proofs(Proofs {
            planned,
            shown: HashMap::from([(offer.cell, shown)]),
        });
        let offer = bench.only();
        (offer.verified, offer.proven)
    };
    assert_eq!(prove(false, 999), (offer.declared, false));
    assert_eq!(prove(true, 999), (Units::new(100), false));
    assert_eq!(prove(true, 1_000), (Units::new(100), true));
    // Who showed nothing is nothing yet.
    bench.registry.set_proofs(Proofs {
        planned: true,
        ..Proofs::default()
    });
    assert_eq!(bench.only().verified, Units::ZERO);
    // What passed for less does not pass for more.
    assert_eq!(prove(true, 1_500), (Units::new(100), true));
    bench.declare("//One", 2, 2_000).await.unwrap();
    assert!(!bench.only().proven);
}

#[tokio::test]
async fn one_stream_of_a_hotkey_lives_and_the_newest_wins() {
    // Abuse case 11.
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let hotkey = key("//One").hotkey();
    let older = bench.registry.open_stream(hotkey);
    assert!(older.heed(change(1, Availability::Busy)));
    let newer = bench.registry.open_stream(hotkey);
    older.superseded().await;
    drop(older);
    assert_eq!(
        bench.only().availability,
        Availability::Busy,
        "the newer one lives"
    );
    drop(newer);
    assert_eq!(
        bench.only().availability,
        Availability::Free,
        "nobody takes busy back"
    );
    for _ in 0..100 {
        let _flapping = bench.registry.open_stream(hotkey);
    }
    assert_eq!(bench.registry.streams().len(), 0);
}

#[tokio::test]
async fn a_last_word_stands_and_a_cut_stream_takes_no_draining_back() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let hotkey = key("//One").hotkey();
    let stream = bench.registry.open_stream(hotkey);
    assert!(stream.heed(change(1, Availability::Busy)));
    stream.finish();
    assert_eq!(bench.only().availability, Availability::Busy);
    let stream = bench.registry.open_stream(hotkey);
    assert!(stream.heed(change(2, Availability::Draining)));
    drop(stream);
    assert_eq!(bench.only().availability, Availability::Draining);
}

#[tokio::test]
async fn a_newer_declaration_restates_how_many_at_once_and_not_how_the_miner_is() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let stream = bench.registry.open_stream(key("//One").hotkey());
    let said = Change {
        concurrency: Some(2),
        ..change(1, Availability::Busy)
    };
    assert!(stream.heed(said));
    // One that states the same number as before says nothing new of it.
    bench.declare("//One", 2, 2_000).await.unwrap();
    assert_eq!(bench.only().concurrency, Some(2));
    let mut more = declaration("//One", 3, &[("chat", 2_000)]);
    more.tasks[0].concurrency = 9;
    bench.declare_this("//One", &more).await.unwrap();
    assert_eq!(
        bench.only().concurrency,
        Some(9),
        "a raised one counts at once"
    );
    assert_eq!(bench.only().availability, Availability::Busy);
    assert!(stream.heed(change(2, Availability::Free)));
    assert_eq!(bench.only().availability, Availability::Free);
}

#[tokio::test]
async fn who_drained_and_declares_anew_is_back() {
    let bench = Bench::new(|_| {}).await;
    bench.declare("//One", 1, 1_000).await.unwrap();
    let hotkey = key("//One").hotkey();
    let stream = bench.registry.open_stream(hotkey);
    assert!(stream.heed(change(5, Availability::Draining)));
    bench.declare("//One", 2, 1_000).await.unwrap();
    assert_eq!(
        bench.only().availability,
        Availability::Draining,
        "the stream that says so is open"
    );
    stream.finish();
    bench.declare("//One", 2, 1_000).await.unwrap();
    assert_eq!(
        bench.only().availability,
        Availability::Draining,
        "equal bytes say nothing new"
    );
    bench.declare("//One", 3, 1_000).await.unwrap();
    assert_eq!(bench.only().availability, Availability::Free);
    assert!(
        !bench
            .registry
            .set_availability(hotkey, change(4, Availability::Busy))
    );
}

#[tokio::test]
async fn a_miner_that_says_too_much_is_told_to_wait() {
    let bench = Bench::new(|_| {}).await;
    let hotkey = key("//One").hotkey();
    let said = (0..1_000).filter(|_| bench.registry.may_say(hotkey).is_ok());
    assert_eq!(said.count(), 40);
    assert_eq!(bench.registry.may_say(hotkey), Err(SAY_EACH));
}
