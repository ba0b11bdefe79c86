//! A disk that fails under the store: a sync, a write, a journal that is torn or flipped.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use taugate::audit::audit;
use taugate::store::sqlite::OpenError;
use taugate_ledger::ids::Incarnation;

use crate::place::{PERIOD, Place, append, exchange, good, id, settings, with_cell};
use crate::processes::child_command;

/// What a child said, and what the disk did to it.
struct Heard {
    /// Receipts that were acknowledged, by incarnation.
    acknowledged: BTreeMap<Incarnation, u64>,
    refusals: Vec<String>,
    /// Acknowledgements after the first refusal.
    acks_after: usize,
}

/// The library that makes a disk fail, built with the C compiler that SQLite needs anyway.
fn faulty_disk(place: &Place) -> PathBuf {
    let library = place.dir.path().join("faulty_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/faulty_disk.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    assert!(built.expect("a C compiler").success());
    library
}

/// Lets a child append on such a disk until it was refused so often, or acknowledged as often
/// after a refusal.
fn heard_on(place: &Place, faults: &[(&str, &str)]) -> Heard {
    const ENOUGH: usize = 20;
    let mut command = child_command("append_on", &place.path());
    command.env("LD_PRELOAD", faulty_disk(place));
    command.envs(faults.iter().copied());
    let mut child = command.spawn().expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut heard = Heard {
        acknowledged: BTreeMap::new(),
        refusals: Vec::new(),
        acks_after: 0,
    };
    for line in lines.map_while(Result::ok) {
        if let Some((inc, next)) = line
            .strip_prefix("ack ")
            .and_then(|rest| rest.split_once(' '))
        {
            let inc = Incarnation(inc.parse().expect("a number"));
            let next = next.parse().expect("a number");
            heard.acknowledged.insert(inc, next);
            heard.acks_after += usize::from(!heard.refusals.is_empty());
        } else if let Some(refusal) = line.strip_prefix("refused ") {
            heard.refusals.push(refusal.to_owned());
        }
        if heard.acks_after >= ENOUGH || heard.refusals.len() >= ENOUGH {
            break;
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("it ended");
    heard
}

/// Opens what is left: everything that was acknowledged is there, and the books add up.
async fn nothing_is_lost(place: &Place, heard: &Heard) {
    let store = place.open();
    for (inc, next) in &heard.acknowledged {
        for call in 1..=*next {
            let stored = store.receipt(id(*inc, call)).await.expect("an answer");
            assert_eq!(stored.map(|stored| stored.offset), Some(call - 1));
        }
    }
    let report = audit(&place.path(), |_| {}).expect("an audit");
    assert_eq!(report.findings, []);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    for sync in ["40", "41", "57"] {
        let place = Place::new();
        let heard = heard_on(&place, &[("TAUGATE_FAULT_SYNC", sync)]);
        assert!(!heard.acknowledged.is_empty());
        assert!(!heard.refusals.is_empty(), "no sync failed");
        assert_eq!(heard.acks_after, 0, "the sync was tried again");
        assert!(
            heard.refusals.iter().all(|refusal| refusal == "Damaged"),
            "{:?}",
            heard.refusals
        );
        nothing_is_lost(&place, &heard).await;
    }
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_refuses_and_then_goes_on() {
    let place = Place::new();
    let faults = [
        ("TAUGATE_FAULT_WRITE", "200"),
        ("TAUGATE_FAULT_WRITES", "6"),
    ];
    let heard = heard_on(&place, &faults);
    assert!(!heard.refusals.is_empty(), "it was never full");
    assert!(
        heard
            .refusals
            .iter()
            .all(|refusal| refusal == "Unavailable"),
        "{:?}",
        heard.refusals
    );
    assert!(heard.acks_after > 0, "it did not go on");
    nothing_is_lost(&place, &heard).await;
}

/// A copy of a store as a power cut leaves it, with its journal changed.
fn after_a_cut(from: &Place, change: impl FnOnce(&mut Vec<u8>)) -> Place {
    let copy = Place::new();
    let beside = |place: &Place, name: &str| {
        let mut path = place.path().into_os_string();
        path.push(name);
        PathBuf::from(path)
    };
    for name in ["", ".id"] {
        std::fs::copy(beside(from, name), beside(&copy, name)).expect("a copy");
    }
    let mut journal = std::fs::read(beside(from, "-wal")).expect("a journal");
    change(&mut journal);
    std::fs::write(beside(&copy, "-wal"), journal).expect("a copy");
    copy
}

/// Opens a copy. What is left adds up; says how many receipts it has, `None` when it was
/// refused because too much is gone.
fn left_of(copy: &Place) -> Option<u64> {
    match copy.try_open(settings()) {
        Ok(store) => drop(store),
        Err(OpenError::Missing | OpenError::Older { .. }) => return None,
        Err(other) => panic!("{other:?}"),
    }
    let report = audit(&copy.path(), |_| {}).expect("an audit");
    assert_eq!(report.findings, []);
    Some(report.receipts())
}

/// A journal that was cut or flipped ends at its last whole commit: the receipts before are
/// there, and the books add up. When not even the incarnation is there, the store is refused,
/// never taken for a new one.
#[tokio::test]
async fn a_torn_or_flipped_journal_ends_at_a_whole_commit() {
    let place = Place::new();
    let (store, cell, inc) = with_cell(&place, 10_000).await;
    exchange(&store, inc, 1, (cell, 10_000, 0)).await.unwrap();
    for call in 1..=20 {
        let receipts = vec![good(call, cell, 1)];
        append(&store, inc, call - 1, receipts).await.unwrap();
    }
    assert_eq!(left_of(&after_a_cut(&place, |_| {})), Some(20));
    let mut seen = std::collections::BTreeSet::new();
    for part in 0..24 {
        let torn = after_a_cut(&place, |journal| {
            journal.truncate(journal.len() * part / 24 + 7);
        });
        let flipped = after_a_cut(&place, |journal| {
            let at = journal.len() * part / 24 + 7;
            journal[at] ^= 4;
        });
        seen.insert(left_of(&torn));
        seen.insert(left_of(&flipped));
    }
    assert!(seen.contains(&None) && seen.len() >= 5, "{seen:?}");
    assert_eq!(store.periods().await.unwrap(), [PERIOD]);
}
