//! The books under schedules of faults: gateways over small cells that lose, double, reorder
//! and delay what they say to the engine, pause, die, stop, and live through cuts and turns;
//! in every fourth the engine loses its last commits, and says so.
//!
//! `TAUGATE_SCHEDULES` says how many are tried, `TAUGATE_FIRST` from which seed on. A failing
//! one is made as short as it still fails and says how to try it alone. With
//! `TAUGATE_COUNT_ALL` it goes on after that and counts.

mod consumer;
mod gateway;
mod plan;
mod report;
mod world;

use taugate_ledger::model::ModelStore;
use taugate_ledger::period::Period;

use self::plan::Plan;
use self::report::{Proof, number, try_all};
use self::world::{Broken, Tally, World};

fn run(plan: &Plan) -> (Tally, Result<(), Broken>) {
    let store = ModelStore::new();
    let mut world = World::new(&store, plan, Period::starting_at(600));
    let held = world.run(plan);
    (world.tally, held)
}

#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    let proof = Proof {
        name: "schedules",
        first: number("TAUGATE_FIRST").unwrap_or(0),
        count: number("TAUGATE_SCHEDULES").unwrap_or(3_000),
        may_lose: true,
    };
    try_all(&proof, || run);
}

#[test]
fn a_failing_schedule_is_made_short() {
    use self::plan::What;
    let plan = (0..).map(|seed| Plan::of(seed, true));
    let count = |plan: &Plan| {
        plan.steps
            .iter()
            .filter(|step| step.what == What::Kill)
            .count()
    };
    let plan = plan
        .into_iter()
        .find(|plan| count(plan) >= 3)
        .expect("one with kills");
    let short = plan.clone().shrunk(|plan| count(plan) >= 2);
    assert_eq!(short.steps.len(), 2);
    assert_eq!(
        plan.only(&short.kept).kept,
        short.kept,
        "it can be tried again"
    );
}
