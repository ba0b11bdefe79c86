//! The loop in paused time, on the real books over the reference engine, with miners that
//! follow a script.

mod world;

use std::time::Duration;

use proptest::prelude::*;
use taugate_ledger::receipt::Outcome;
use taugate_ledger::units::Units;

use self::world::{Case, LENGTH_S, Scripted, World, in_paused_time, simulate};
use crate::report::due::DueSource as _;
use crate::synthetic::Mode;
use crate::synthetic::draw::{Draw, Draws};

fn all_of(part: f64) -> Draws {
    Draws::new(vec![Draw::of(1.0, part, part)]).expect("a distribution")
}

/// Clients, draws, restarts and miners of all sorts.
fn cases() -> impl Strategy<Value = Case> {
    let clients = prop::collection::vec((0_u64..9_800, 0_u32..3, 1_u64..8_000), 0..30);
    let restarts = prop::collection::vec(500_u64..7_500, 0..3);
    let before = prop::collection::vec(0_u64..60_000, 0..3);
    let miner = (20_u64..300, 0_u64..250, 0.5..1.0, 0.6..1.0);
    (any::<u64>(), clients, restarts, before, miner).prop_map(
        |(seed, clients, mut restarts, before, (takes_ms, waits_ms, brings, holds))| {
            restarts.sort_unstable();
            Case {
                seed,
                clients,
                restarts,
                before,
                miner: Scripted {
                    takes: Duration::from_millis(takes_ms),
                    waits: Duration::from_millis(waits_ms),
                    brings,
                    holds,
                    outcome: Outcome::Good,
                },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn p8_at_each_send_checks_come_to_no_more_than_what_is_due_and_one_request(case in cases()) {
        for sent in simulate(&case).sent {
            let uncovered = sent.target.saturating_sub(sent.organic);
            let bound = uncovered.max(sent.floor).saturating_add(sent.held);
            prop_assert!(sent.spent <= bound, "{sent:?}");
        }
    }

    #[test]
    fn p8_at_a_periods_end_every_healthy_miner_has_shown_its_target(case in cases()) {
        for cell in simulate(&case).cells {
            let shown = cell.organic.saturating_add(cell.synthetic);
            prop_assert!(shown >= cell.target, "{cell:?}");
            prop_assert!(cell.good > 0, "{cell:?}");
        }
    }

    #[test]
    fn p8_once_clients_did_the_target_only_the_floor_is_sent(case in cases()) {
        for sent in simulate(&case).sent {
            if sent.organic >= sent.target {
                let before = sent.spent.saturating_sub(sent.held);
                prop_assert!(sent.good == 0 && before < sent.check, "{sent:?}");
            }
        }
    }

    #[test]
    fn a_restart_draws_nothing_anew_and_refills_nothing(mut case in cases()) {
        // Whatever was durable at the kill counts after it: in sum no more is sent than without.
        case.restarts = vec![2_000, 5_000];
        let outcome = simulate(&case);
        for cell in &outcome.cells {
            let uncovered = cell.target.saturating_sub(cell.organic_at_last_send);
            let bound = uncovered.max(cell.check).saturating_add(cell.check);
            prop_assert!(cell.synthetic <= bound, "{cell:?}");
            prop_assert!(cell.draws == 1, "{cell:?}");
        }
    }
}

#[test]
fn a_dead_miner_is_not_asked_for_ever() {
    in_paused_time(async {
        for (part, most) in [(0.05, 6), (0.0, 4), (0.5, 50)] {
            let world = World::new(1, all_of(part)).await;
            world.script(Scripted {
                outcome: Outcome::Lost,
                ..Scripted::default()
            });
            let mut life = world.begin(Mode::BuiltIn).await;
            tokio::time::sleep(Duration::from_secs(u64::from(LENGTH_S))).await;
            let sent = world.sent().len();
            assert!((2..=most).contains(&sent), "{sent} of {part}");
            life.kill().await;
        }
    });
}

#[test]
fn a_miner_that_says_too_many_is_left_alone_after_as_many_tries() {
    in_paused_time(async {
        let world = World::new(1, all_of(0.05)).await;
        world.script(Scripted {
            outcome: Outcome::Busy,
            ..Scripted::default()
        });
        let _life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(u64::from(LENGTH_S))).await;
        assert!(world.sent().len() <= 6);
    });
}

#[test]
fn a_term_that_is_lost_stops_it() {
    in_paused_time(async {
        let world = World::new(3, all_of(0.5)).await;
        let life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = world.sent().len();
        assert!(before > 3, "{before}");
        world.plans.take_over();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.sent().len(), before, "fenced before the next batch");
        // Who took over falls silent: this one leads again, with the same draws.
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.plans.fall_silent();
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(world.sent().len() > before);
        drop(life);
    });
}

#[test]
fn nothing_is_sent_while_nobody_knows_whether_the_term_stands() {
    in_paused_time(async {
        let world = World::new(3, all_of(0.5)).await;
        let _life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = world.sent().len();
        world.plans.go_away(true);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(world.sent().len(), before);
        world.plans.go_away(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(world.sent().len() > before);
    });
}

#[test]
fn checks_are_spread_over_the_period_and_miners_do_not_keep_step() {
    in_paused_time(async {
        let world = World::new(3, all_of(0.3)).await;
        let _life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(u64::from(LENGTH_S))).await;
        let sent = world.sent();
        let times = |cell: u32| -> Vec<u64> {
            let of_cell = sent.iter().filter(|sent| sent.cell.0 == cell);
            of_cell.map(|sent| sent.at_ms).collect()
        };
        for cell in 0..3 {
            let times = times(cell);
            assert!(times.len() >= 15, "{}", times.len());
            for second in 1..9 {
                let span = second * 1000..second * 1000 + 1000;
                let in_it = times.iter().filter(|at| span.contains(*at)).count();
                assert!((1..=4).contains(&in_it), "{in_it} in second {second}");
            }
        }
        let firsts: Vec<u64> = (0..3).map(|cell| times(cell)[0]).collect();
        assert!(firsts.iter().any(|first| *first != firsts[0]), "{firsts:?}");
    });
}

#[test]
fn clients_come_first_where_they_are_expected_to_need_all() {
    in_paused_time(async {
        let world = World::new(1, all_of(1.0)).await;
        // In the periods before, clients had all of it.
        world.plans.had_before(&[100_000, 100_000]);
        world.script(Scripted {
            takes: Duration::from_millis(20),
            ..Scripted::default()
        });
        let _life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(u64::from(LENGTH_S))).await;
        let sent = world.sent();
        assert!(sent.len() > 10);
        for one in sent {
            // To the millisecond.
            let expected = Units::new((9_999 - one.at_ms) * 10);
            assert!(one.left >= expected, "{one:?}");
        }
    });
}

#[test]
fn an_external_planner_is_told_what_is_due_and_nothing_is_sent() {
    in_paused_time(async {
        let world = World::new(2, all_of(0.05)).await;
        let life = world.begin(Mode::External).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.client(0, 1_200).await;
        let mut sheet = life.desk.sheet();
        sheet.rows.sort_by_key(|row| row.due);
        let said: Vec<_> = sheet.rows.iter().map(|row| (row.target, row.due)).collect();
        let units = |target, due| (Units::new(target), Units::new(due));
        assert_eq!(said, [units(5_000, 3_800), units(5_000, 5_000)]);
        assert!(world.sent().is_empty());
    });
}

#[test]
fn a_stop_cancels_the_checks_that_run_and_they_count_in_nothing() {
    in_paused_time(async {
        let world = World::new(1, all_of(0.5)).await;
        world.script(Scripted {
            takes: Duration::from_secs(60),
            ..Scripted::default()
        });
        let mut life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(world.reserved(0) > Units::ZERO);
        life.stop().await;
        assert_eq!(world.reserved(0), Units::ZERO);
        assert_eq!(world.attempts(0), 0);
    });
}

#[test]
fn the_turn_of_a_period_draws_anew_and_goes_on() {
    in_paused_time(async {
        let world = World::new(2, all_of(0.2)).await;
        let _life = world.begin(Mode::BuiltIn).await;
        tokio::time::sleep(Duration::from_secs(u64::from(2 * LENGTH_S))).await;
        let periods = |from: u64| {
            let all = world.sent().into_iter();
            all.filter(|sent| sent.at_ms / 10_000 == from).count()
        };
        assert!(periods(0) > 10 && periods(1) > 10);
    });
}
