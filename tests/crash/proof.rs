//! The books against what was seen, by plain SQL.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use taugate::audit::audit;
use taugate_ledger::ids::{Incarnation, RequestId};
use taugate_ledger::period::Period;

use crate::history::{Call, History};

/// The finish of a part.
const RUNNING: i64 = 0;

/// What the proofs came to.
#[derive(Default)]
pub(crate) struct Proof {
    /// Receipts that clients were told of.
    pub(crate) acknowledged: usize,
    /// The most units that clients got in one round for which there is no receipt.
    pub(crate) worst_loss: u64,
}

/// What a store has of a call.
#[derive(Default)]
struct Booked {
    ends: usize,
    units: u64,
    prompt_units: u64,
}

// === impl Proof ===

impl Proof {
    /// Compares a store, which may be in use, with what clients and miners saw until now.
    pub(crate) fn look(&mut self, store: &Path, history: &History) {
        // First what was seen: whatever it tells of must stand in the store by now.
        let (calls, _) = history.calls();
        let booked = read(store);
        // Then what was handed over: nothing can be booked that is not in it by now.
        let (_, sent) = history.calls();
        let mut losses: HashMap<usize, u64> = HashMap::new();
        for (id, call) in &calls {
            let lost = told(*id, *call, booked.get(id));
            // A call that runs still has no receipt and is no loss.
            if id.incarnation < newest(&calls) {
                *losses.entry(call.round).or_default() += lost;
            }
        }
        for (id, booked) in &booked {
            let sent = sent.get(id).copied().unwrap_or(0).div_ceil(4);
            let output = booked.units - booked.prompt_units;
            assert!(
                output <= sent,
                "{id}: {output} units booked, {sent} handed over"
            );
            assert!(booked.ends <= 1, "{id} ended {} times", booked.ends);
        }
        let worst = losses.values().copied().max().unwrap_or(0);
        self.worst_loss = self.worst_loss.max(worst);
        audited(store);
    }
}

fn newest(calls: &HashMap<RequestId, Call>) -> Incarnation {
    let all = calls.keys().map(|id| id.incarnation);
    all.max().unwrap_or(Incarnation(0))
}

/// Checks what a client was told of a call; says how much of what it got is in no receipt.
fn told(id: RequestId, call: Call, booked: Option<&Booked>) -> u64 {
    let got = call.code_points.div_ceil(4);
    let Some(booked) = booked else {
        assert!(!call.is_acknowledged(), "{id}: its receipt is lost");
        return got;
    };
    if let Some((units, true)) = call.last {
        assert_eq!((booked.ends, booked.units), (1, units), "{id}: other units");
    }
    let output = booked.units - booked.prompt_units;
    if booked.ends > 0 {
        assert!(
            output >= got,
            "{id}: {got} units received, {output} booked at its end"
        );
    }
    got.saturating_sub(output)
}

/// The last of each call.
fn read(store: &Path) -> HashMap<RequestId, Booked> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = Connection::open_with_flags(store, flags).expect("it is read");
    let mut receipts = conn
        .prepare(
            "SELECT period, inc, call, finish, units, prompt_units FROM receipt
             ORDER BY period, inc, off",
        )
        .expect("a table of receipts");
    let mut rows = receipts.query([]).expect("it is read");
    let mut all: HashMap<RequestId, Booked> = HashMap::new();
    while let Some(row) = rows.next().expect("it is read") {
        let number = |column: usize| {
            let number: i64 = row.get(column).expect("a number");
            u64::try_from(number).expect("not below 0")
        };
        let id = RequestId {
            period: Period::starting_at(number(0)),
            incarnation: Incarnation(number(1)),
            call: number(2),
        };
        let booked = all.entry(id).or_default();
        let finish: i64 = row.get(3).expect("a number");
        booked.ends += usize::from(finish != RUNNING);
        (booked.units, booked.prompt_units) = (number(4), number(5));
    }
    all
}

/// The audit finds nothing: receipts, counters, leases and grants agree, and none passes its
/// bound, so that no unit was granted that is not allotted.
fn audited(store: &Path) {
    let report = audit(store, |_| {}).expect("it is read");
    assert!(report.is_clean(), "{report}");
}
