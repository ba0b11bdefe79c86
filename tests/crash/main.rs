//! The real program under load, killed by SIGKILL and started again on the same file: what
//! clients were told must stand in the books, to the unit.
//!
//! A round is a kill, a start, and at least [`BOOKED_MIN`] receipts after it. Some kills come
//! from outside: at a random moment, when a miner gets a dispatch, when a client gets a chunk
//! or its final message. For moments within the program it has to be built with the feature
//! `failpoints`: `run.sh` does so, and names that program in `TAUGATE_CRASH_PROGRAM`. How many
//! rounds there are is in `TAUGATE_CRASH_ROUNDS`; without, a few from outside are done.

#![expect(clippy::disallowed_methods, reason = "each test ends its own tasks")]

mod history;
mod load;
mod program;
mod proof;
mod trap;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};

use self::history::History;
use self::load::Load;
use self::program::{Ended, Place, Program};
use self::proof::Proof;
use self::trap::{Moment, Trap};

/// Receipts that clients must have after a start, or the round does not count.
const BOOKED_MIN: usize = 20;

/// Rounds on one store; then a new one is begun, every other with periods of ten seconds.
const ROUNDS_A_STORE: usize = 10;

/// Rounds without `TAUGATE_CRASH_ROUNDS`.
const ROUNDS: usize = 4;

/// Long enough for a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(60);

/// All that was seen.
#[derive(Default)]
struct Seen {
    kills: BTreeMap<&'static str, usize>,
    proof: Proof,
}

#[expect(clippy::print_stdout, reason = "the line of the proof")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_were_told_survives_kills() {
    let rounds = std::env::var_os("TAUGATE_CRASH_ROUNDS").map_or(ROUNDS, |rounds| {
        let rounds = rounds.to_str().and_then(|rounds| rounds.parse().ok());
        rounds.expect("a number of rounds")
    });
    let inside = std::env::var_os("TAUGATE_CRASH_PROGRAM").is_some();
    let moments: Vec<Moment> = Moment::all(inside).collect();
    let mut random = rand::rngs::SmallRng::seed_from_u64(rand::random());
    let mut seen = Seen::default();
    let mut done = 0;
    while done < rounds {
        let here = ROUNDS_A_STORE.min(rounds - done);
        let short = done / ROUNDS_A_STORE % 2 == 1;
        let these = (done..done + here).map(|round| moments[round % moments.len()]);
        campaign(&these.collect::<Vec<_>>(), short, &mut random, &mut seen).await;
        done += here;
    }
    let by_moment: Vec<String> = seen
        .kills
        .iter()
        .map(|(moment, kills)| format!("{moment} {kills}"))
        .collect();
    println!(
        "crash: {done} kills under load ({}); {} receipts acknowledged, none lost or doubled; \
         worst loss {} units in one kill, of answers that were not acknowledged; held",
        by_moment.join(", "),
        seen.proof.acknowledged,
        seen.proof.worst_loss
    );
}

/// Kills on one store.
async fn campaign(
    moments: &[Moment],
    short: bool,
    random: &mut rand::rngs::SmallRng,
    seen: &mut Seen,
) {
    // Enough for all rounds, and so little that slices are asked for all the time.
    let (periods, units_per_hour) = if short {
        ("[period]\nlength_s = 10\n", 100_000_000)
    } else {
        ("", 1_200_000)
    };
    let place = Place::new(periods);
    let history = Arc::new(History::default());
    let trap = Arc::new(Trap::default());
    let mut load = Load::start(Arc::clone(&history), Arc::clone(&trap)).await;
    declare(&place, &load, &trap, units_per_hour).await;

    let mut program = Program::start(&place, &trap).await;
    for moment in moments {
        load.aim(program.public());
        history.until_acknowledged(BOOKED_MIN, PATIENCE).await;
        kill(*moment, &program, &place, random).await;
        if moment.is_of_slices() {
            load.burst(program.public());
        }
        load.aim_nowhere();
        let ended = program.ended(PATIENCE).await;
        assert_eq!(ended, Ended::Killed, "at {moment:?}: {}", program.log());
        *seen.kills.entry(moment.name()).or_default() += 1;
        place.disarm();

        program = Program::start(&place, &trap).await;
        history.begin_round();
        load.aim(program.public());
        history.until_acknowledged(BOOKED_MIN, PATIENCE).await;
        seen.proof.look(&place.store(), &history);
    }
    // Answers that run are cut at the end of the drain, and booked.
    program.terminate().await;
    let ended = program.ended(PATIENCE).await;
    assert_eq!(ended, Ended::Well, "{}", program.log());
    load.stop().await;
    seen.proof.look(&place.store(), &history);
    seen.proof.acknowledged += history.acknowledged();
}

/// Declares the load's miners; the store keeps that over all starts.
async fn declare(place: &Place, load: &Load, trap: &Arc<Trap>, units_per_hour: u64) {
    let program = Program::start(place, trap).await;
    for (name, address) in load.miners() {
        program.declare(name, address, units_per_hour).await;
    }
    program.terminate().await;
    assert_eq!(
        program.ended(PATIENCE).await,
        Ended::Well,
        "{}",
        program.log()
    );
}

/// Sees to it that the program dies at a moment of this kind.
async fn kill(moment: Moment, program: &Program, place: &Place, random: &mut rand::rngs::SmallRng) {
    let times = random.random_range(1..=moment.times_max());
    match moment {
        Moment::Random => {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..300_000))).await;
            program.trap().kill();
        }
        Moment::Inside(name) => {
            place.arm(name, times);
            if moment.is_of_the_end() {
                program.terminate().await;
            }
        }
        Moment::Dispatched | Moment::Chunk | Moment::Final | Moment::Part => {
            program.trap().set(moment, times);
        }
    }
}
