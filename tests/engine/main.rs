//! What every engine under the ledger promises. One suite runs over the reference engine and
//! over SQLite, and a random walk is answered by both alike.

mod kept;
mod suite;
mod twin;

use smallvec::smallvec;
use taugate_ledger::ids::CellId;
use taugate_ledger::period::Period;
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::units::Units;

use self::kept::{LENGTH_S, NOW_MS};

const PERIOD: Period = Period::starting_at(1_000 * LENGTH_S as u64);

fn units(amount: u64) -> Units {
    Units::new(amount)
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
        origin: taugate_ledger::ids::Origin::Organic,
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
