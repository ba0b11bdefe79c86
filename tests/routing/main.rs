//! What routing promises: who is chosen, who is left out and for how long, and how fair
//! and quick that is on a simulated network.

mod market;
mod simulation;

use taugate::registry::snapshot::Availability;
use taugate::routing::{NoChoice, Policy, Wish};
use taugate_ledger::ids::CellId;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

use self::market::{CALL, Fair, wish};
use self::simulation::{Found, Rule, Setup, run};

const MUCH: u64 = 1_000_000;
const A: CellId = CellId(0);
const B: CellId = CellId(1);

// === Who is a candidate ===

/// N8: a miner that had failed a call was drawn for it again.
#[test]
fn n8_a_miner_that_was_tried_is_not_tried_again() {
    let fair = Fair::new(&[MUCH; 5]);
    let mut tried = Vec::new();
    while let Some(cell) = fair.choices(wish(&tried)).next_best() {
        assert!(!tried.contains(&cell));
        tried.push(cell);
    }
    assert_eq!(tried.len(), 5);
    let mut choices = fair.choices(wish(&tried));
    assert!(choices.next_best().is_none());
    assert_eq!(choices.none(), NoChoice::AllExcluded);
}

#[test]
fn candidates_of_one_call_go_on_until_all_were_offered() {
    let fair = Fair::new(&[MUCH; 5]);
    let mut choices = fair.choices(wish(&[]));
    let mut offered = std::collections::BTreeSet::new();
    while let Some(cell) = choices.next_best() {
        offered.insert(cell);
        choices.spent();
    }
    assert_eq!(offered.len(), 5);
    assert_eq!(choices.none(), NoChoice::AllSpent);
}

/// N2: spent miners were taken where no other was left.
#[test]
fn n2_a_spent_miner_is_no_candidate_though_the_table_still_has_it() {
    let fair = Fair::new(&[MUCH, MUCH]);
    fair.purse.spend(A, MUCH - CALL + 1);
    assert_eq!(fair.shares(100), [0, 100]);
    fair.purse.spend(B, MUCH);
    let mut choices = fair.choices(wish(&[]));
    assert!(choices.next_best().is_none());
    assert_eq!(choices.none(), NoChoice::AllSpent);
}

#[test]
fn a_lowered_allotment_ends_new_work_at_once() {
    let mut fair = Fair::new(&[MUCH, MUCH]);
    // More was granted than may now be spent, and the table does not know that it was.
    fair.change(0, |offer| offer.allotment = Units::new(MUCH / 2));
    fair.rebuild();
    fair.purse.spend(A, MUCH / 2);
    assert_eq!(fair.shares(100), [0, 100]);
}

#[test]
fn busy_is_told_from_spent_and_from_nobody() {
    let mut fair = Fair::new(&[MUCH, MUCH]);
    fair.change(0, |offer| offer.availability = Availability::Busy);
    fair.change(1, |offer| offer.concurrency = Some(1));
    fair.rebuild();
    let place = fair.begin(B);
    let mut choices = fair.choices(wish(&[]));
    assert!(choices.next_best().is_none());
    assert_eq!(choices.none(), NoChoice::AllBusy);
    drop(place);
    assert_eq!(fair.choose(), Some(B));

    // Nobody waits for a miner that leaves.
    fair.change(0, |offer| offer.availability = Availability::Draining);
    fair.change(1, |offer| offer.availability = Availability::Draining);
    fair.rebuild();
    let mut choices = fair.choices(wish(&[]));
    assert!(choices.next_best().is_none());
    assert_eq!(choices.none(), NoChoice::NoMiner);
}

#[test]
fn a_pinned_call_goes_to_its_miner_or_to_none() {
    let fair = Fair::new(&[MUCH; 1000]);
    let pinned = |hotkey| Wish {
        pinned: Some(hotkey),
        ..wish(&[])
    };
    let found = fair.choices(pinned("miner-777")).next_best();
    assert_eq!(found, Some(CellId(777)));
    let mut choices = fair.choices(pinned("nobody"));
    assert!(choices.next_best().is_none());
    assert_eq!(choices.none(), NoChoice::NoMiner);
}

#[test]
fn who_has_proven_nothing_gets_checks_but_no_call_that_asks_for_proof() {
    let mut fair = Fair::new(&[MUCH, MUCH]);
    fair.change(0, |offer| {
        offer.proven = false;
        offer.verified = Units::ZERO;
    });
    fair.rebuild();
    let proven_only = Wish {
        proven_only: true,
        ..wish(&[])
    };
    for _ in 0..20 {
        assert_eq!(fair.choices(proven_only).next_best(), Some(B));
    }
    let check = Wish {
        pinned: Some("miner-0"),
        ..proven_only
    };
    assert_eq!(fair.choices(check).next_best(), Some(A));
    fair.change(1, |offer| offer.proven = false);
    fair.rebuild();
    let mut choices = fair.choices(proven_only);
    assert_eq!(choices.next_best(), None);
    assert_eq!(choices.none(), NoChoice::AllUnproven);
    // Who is busy may prove itself later; one that has is worth the wait.
    fair.change(1, |offer| {
        offer.proven = true;
        offer.availability = Availability::Busy;
    });
    fair.rebuild();
    let mut choices = fair.choices(proven_only);
    assert_eq!(choices.next_best(), None);
    assert_eq!(choices.none(), NoChoice::AllBusy);
}

#[test]
fn a_choice_touches_as_many_cells_among_ten_as_among_ten_thousand() {
    for miners in [10, 100, 10_000] {
        let fair = Fair::new(&vec![MUCH; miners]);
        fair.purse.looks();
        for _ in 0..1000 {
            fair.choose();
            let looks = fair.purse.looks();
            assert!(looks <= 2, "{looks} of {miners}");
        }
        // Everyone is spent and the table does not know it yet: still bounded.
        for cell in 0..miners {
            fair.purse
                .spend(CellId(u32::try_from(cell).expect("a few")), MUCH);
        }
        assert_eq!(fair.choose(), None);
        let looks = fair.purse.looks();
        assert!(looks <= 300, "{looks} of {miners}");
    }
}

#[test]
fn a_choice_explains_itself_only_when_asked() {
    let fair = Fair::new(&[MUCH; 3]);
    let mut choices = fair.choices(wish(&[]));
    choices.next_best().expect("a miner");
    let (_, told) = choices.chosen().expect("its offer");
    assert!(told.is_none());

    let asked = Wish {
        explain: true,
        ..wish(&[])
    };
    let mut choices = fair.choices(asked);
    choices.next_best().expect("a miner");
    choices.spent();
    choices.next_best().expect("another");
    let (offer, told) = choices.chosen().expect("its offer");
    let told = told.expect("it was asked").to_proto(3);
    assert_eq!((told.policy.as_str(), told.waited_ms), ("two_choices", 3));
    let verdicts: Vec<_> = told
        .candidates
        .iter()
        .map(|one| one.verdict.as_str())
        .collect();
    assert!(
        verdicts.contains(&"lost_race") && verdicts.contains(&"chosen"),
        "{verdicts:?}"
    );
    let chosen = told.candidates.iter().find(|one| one.verdict == "chosen");
    let chosen = chosen.expect("one was chosen");
    assert_eq!(
        (chosen.miner.as_str(), chosen.units_free),
        (&*offer.miner.hotkey, MUCH)
    );
    assert!(chosen.score.is_some());
}

// === What is learned ===

#[test]
fn a_failing_miner_is_left_out_for_a_while_and_then_tried_again() {
    let mut fair = Fair::new(&[MUCH; 4]);
    // It was good for long: a few failures are bad luck.
    (0..50).for_each(|_| fair.attempt(A, Outcome::Good));
    fair.rebuild();
    fair.fail(A, 4);
    assert!(
        !fair.vitals.pulse(A).is_ejected(fair.now_ms),
        "52 % are enough"
    );
    fair.fail(A, 1);
    // At once, before the table is made anew, and after.
    assert_eq!(fair.shares(400)[0], 0);
    fair.rebuild();
    assert_eq!(fair.shares(400)[0], 0);
    fair.now_ms += 14_900;
    fair.rebuild();
    assert_eq!(fair.shares(400)[0], 0);
    fair.now_ms += 200;
    fair.rebuild();
    let back = fair.shares(400)[0];
    assert!(
        (1..16).contains(&back),
        "less than its part, but some: {back}"
    );
}

#[test]
fn a_newcomer_that_never_did_well_is_left_out_after_two_failures() {
    let fair = Fair::new(&[MUCH; 4]);
    fair.fail(A, 1);
    let pulse = fair.vitals.pulse(A);
    assert!(!pulse.is_ejected(fair.now_ms), "one may be bad luck");
    fair.fail(A, 1);
    assert!(pulse.is_ejected(fair.now_ms));
    // One that did well once is given another.
    fair.attempt(B, Outcome::Good);
    fair.fail(B, 1);
    assert!(!fair.vitals.pulse(B).is_ejected(fair.now_ms));
}

#[test]
fn a_newcomer_is_tried_one_call_at_a_time_while_others_are_there() {
    let fair = Fair::new(&[MUCH, MUCH]);
    (0..10).for_each(|_| fair.attempt(B, Outcome::Good));
    fair.rebuild();
    let _places: Vec<_> = (0..2).map(|_| fair.begin(A)).collect();
    // What is in flight at A says nothing yet, so that B is taken where both are looked at.
    let to_a = fair.shares(400)[0];
    assert!(to_a < 200, "{to_a} of 400");
    // Alone it takes what comes.
    let alone = Fair::new(&[MUCH]);
    let _places: Vec<_> = (0..50).map(|_| alone.begin(A)).collect();
    assert_eq!(alone.choose(), Some(A));
}

#[test]
fn a_slow_miner_is_sampled_less_unless_it_is_as_slow_as_it_said() {
    let mut fair = Fair::new(&[MUCH, MUCH, MUCH]);
    for (cell, millis) in [(A, 800), (B, 100), (CellId(2), 100)] {
        (0..20).for_each(|_| fair.wrote(cell, millis));
    }
    fair.rebuild();
    assert!(fair.shares(900)[0] < 60, "{:?}", fair.shares(900));
    // The same, in places enough for its allotment.
    fair.change(0, |offer| offer.concurrency = Some(u32::MAX));
    fair.rebuild();
    assert!(fair.shares(900)[0] > 150, "{:?}", fair.shares(900));
}

#[test]
fn a_miner_that_fails_nearly_always_is_left_out_for_longer() {
    let mut fair = Fair::new(&[MUCH; 4]);
    fair.fail(A, 12);
    fair.now_ms += 59_000;
    fair.rebuild();
    assert_eq!(fair.shares(400)[0], 0);
}

#[test]
fn never_more_than_half_of_a_task_is_left_out() {
    let fair = Fair::new(&[MUCH; 4]);
    for (cell, times) in [(0, 20), (1, 15), (2, 5)] {
        fair.fail(CellId(cell), times);
    }
    fair.rebuild();
    let shares = fair.shares(1000);
    assert_eq!(shares[..2], [0, 0], "the worst are left out");
    assert!(shares[2] > 0, "the third failing one is not: {shares:?}");
    assert!(shares[3] > shares[2], "but it costs more: {shares:?}");
    // A miner alone is never left out.
    let alone = Fair::new(&[MUCH]);
    alone.fail(A, 50);
    alone.rebuild();
    assert_eq!(alone.choose(), Some(A));
}

/// N7: "too many" counted as a failure, twice over.
#[test]
fn n7_too_many_is_no_failure_and_lowers_what_is_sent() {
    let mut fair = Fair::new(&[MUCH, MUCH]);
    let places: Vec<_> = (0..10).map(|_| fair.begin(A)).collect();
    fair.attempt(A, Outcome::Busy);
    let (pulse, history) = (fair.vitals.pulse(A), fair.vitals.history(A));
    assert!((history.success() - 1.0).abs() < 1e-9);
    assert!(!pulse.is_ejected(fair.now_ms));
    assert_eq!(pulse.concurrency(), Some(7));
    drop(places);
    // It gets nothing for a moment, longer each time in a row.
    assert_eq!(fair.shares(50), [0, 50]);
    fair.now_ms += 50;
    assert!(fair.shares(50)[0] > 0);
    fair.attempt(A, Outcome::Busy);
    fair.now_ms += 50;
    assert_eq!(fair.shares(50), [0, 50]);
    fair.now_ms += 50;
    // Good answers raise it again, one by one.
    let learned = pulse.concurrency().expect("it was learned");
    for _ in 0..8 {
        fair.attempt(A, Outcome::Good);
    }
    assert_eq!(pulse.concurrency(), Some(learned + 1));
}

#[test]
fn a_client_that_cancels_or_asks_nonsense_ejects_nobody() {
    let fair = Fair::new(&[MUCH, MUCH]);
    for _ in 0..100 {
        fair.attempt(A, Outcome::Cancelled);
        fair.attempt(A, Outcome::Refused);
    }
    let (pulse, history) = (fair.vitals.pulse(A), fair.vitals.history(A));
    assert!((history.success() - 1.0).abs() < 1e-9);
    assert!(history.latency().abs() < 1e-9, "nor do they teach its pace");
    assert_eq!(pulse.in_flight(), 0);
}

#[test]
fn pace_counts_attempts_whatever_their_end_and_starts_again_with_a_period() {
    let fair = Fair::new(&[MUCH, MUCH]);
    fair.attempt(A, Outcome::Lost);
    fair.attempt(A, Outcome::Good);
    let history = fair.vitals.history(A);
    assert_eq!(history.attempted(), Units::new(2 * CALL));
    fair.vitals.turn();
    assert_eq!(history.attempted(), Units::ZERO);
    assert!(
        history.latency() > 0.0,
        "what was learned outlives the period"
    );
}

// === Policies, on a network ===

const OURS: Rule = Rule::Router(Policy::TwoChoices);

fn setup(rule: Rule) -> Setup {
    Setup {
        rule,
        miners: 60,
        gateways: 2,
        seconds: 180,
        load: 0.5,
        seed: 1,
        prefix: "",
        newcomer_s: None,
    }
}

fn failed_percent(found: &Found) -> u64 {
    (found.failed + found.refused) * 100 / found.calls
}

/// The whole network of `examples/routing_simulation.rs`, once.
#[test]
fn at_half_load_few_first_tries_fail_and_units_follow_allotments() {
    let found = run(Setup {
        miners: 400,
        gateways: 4,
        seconds: 900,
        ..setup(OURS)
    });
    let first_tries_failed = found.failed + found.refused;
    let told = format!(
        "{first_tries_failed} of {}, Jain {}",
        found.calls, found.jain
    );
    assert!(found.calls > 100_000, "{told}");
    assert!(found.jain >= 0.97, "{told}");
    assert!(first_tries_failed * 1000 <= found.calls * 2, "{told}");
}

#[test]
fn units_follow_allotments_and_failing_miners_starve() {
    let ours = run(setup(OURS));
    assert!(ours.calls > 5_000, "{ours:?}");
    assert!(ours.jain >= 0.97, "{ours:?}");
    assert!(ours.failing_share < 0.005, "{ours:?}");
    assert_eq!(failed_percent(&ours), 0, "{ours:?}");
    for policy in [Policy::Random, Policy::RoundRobin] {
        let theirs = run(setup(Rule::Router(policy)));
        assert!(theirs.jain < ours.jain, "{policy:?}: {theirs:?}");
        assert!(theirs.p99_s > 2.0 * ours.p99_s, "{policy:?}: {theirs:?}");
        assert!(failed_percent(&theirs) > 5, "{policy:?}: {theirs:?}");
    }
    let theirs = run(setup(Rule::LeastOutstanding));
    assert!(theirs.jain < ours.jain, "{theirs:?}");
    assert!(theirs.failing_share > 0.1, "it feeds the dead: {theirs:?}");
}

/// N18: the best were listed by name, so that some names got most of the work. Other names
/// in another order change nothing, and units follow allotments.
#[test]
fn n18_names_of_miners_change_nothing() {
    let named = run(setup(OURS));
    assert!(named.jain >= 0.95, "{named:?}");
    let renamed = run(Setup {
        prefix: "zz-",
        ..setup(OURS)
    });
    assert_eq!(named, renamed);
}

/// N19: work needed a history of good work. A miner that joins in the first half of a period
/// gets its part in it.
#[test]
fn n19_a_miner_that_joins_gets_its_part_in_the_same_period() {
    let found = run(Setup {
        newcomer_s: Some(60),
        ..setup(OURS)
    });
    let share = |at: usize| found.posted[at] * 1000 / found.allotted[at];
    let newcomer = share(59);
    let others = (10..59).map(share).sum::<u64>() / 49;
    assert!(newcomer > 0);
    // It had two thirds of the time, and had nothing to unlearn.
    assert!(newcomer * 2 >= others, "{newcomer} of {others} per mille");
    assert!(newcomer <= others * 2, "{newcomer} of {others} per mille");
}
