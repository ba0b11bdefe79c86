//! Other processes: killed ones, and a second one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures_util::future::join_all;
use taugate::clock::ManualClock;
use taugate::store::BookRow;
use taugate::store::sqlite::{OpenError, SqliteStore, StoreReader, backup};
use taugate_ledger::ids::{CellId, Incarnation};

use crate::place::{
    NOW_MS, PERIOD, Place, append, exchange, good, id, length, make_cell, settings, units,
};

/// Names the work of a child and the store it works on.
const CHILD: &str = "TAUGATE_STORE_CHILD";

/// This test's binary again, as a child that does `work` on the store at `path`.
pub(crate) fn child_command(work: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--exact", "processes::works_as_a_child", "--nocapture"])
        .env(CHILD, format!("{work}:{}", path.display()))
        .stdout(Stdio::piped());
    command
}

pub(crate) fn child(work: &str, path: &Path) -> Child {
    child_command(work, path).spawn().expect("a child")
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
        "append_on" => append_whatever_comes(&store, cell).await,
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

/// Tells of each append, and tries a refused one again.
async fn append_whatever_comes(store: &SqliteStore, cell: CellId) {
    let inc = store
        .new_incarnation("child")
        .await
        .expect("the store answers");
    exchange(store, inc, 1, (cell, 1_000_000, 0))
        .await
        .expect("the store answers");
    let mut next = 0;
    loop {
        match append(store, inc, next, vec![good(next + 1, cell, 1)]).await {
            Ok(offset) => {
                next = offset;
                say(&format!("ack {} {next}", inc.0));
            }
            Err(error) => say(&format!("refused {error:?}")),
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
