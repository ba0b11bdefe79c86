//! What scores pay for, and whether validators agree, simulated with production scores, router,
//! draws, dues and bursts: `cargo run --release --example incentive_simulation`.

#[path = "../tests/scoring/simulation.rs"]
mod simulation;

use taugate::scoring::Profile;

use self::simulation::{JOINS, Trick, agreement, gain, two_validators, with_trick};

const TRICKS: [Trick; 8] = [
    Trick::TenTimes,
    Trick::FourHotkeys,
    Trick::Rotating,
    Trick::TwoTasks,
    Trick::Split,
    Trick::Newcomer,
    Trick::Polite,
    Trick::Failing,
];

const PERIODS: u64 = 50;

const SEEDS: [u64; 3] = [1, 2, 3];

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn main() {
    println!("Two validators, shares 0.7 and 0.3, over 200 honest miners, 24 periods, 3 seeds;");
    println!("the one's clients ask for 60 % of its allotments, the other only checks.");
    println!(
        "{:15} {:>12} {:>24}",
        "rule", "correlation", "half the difference, %"
    );
    let worlds = SEEDS.map(|seed| {
        let mut worlds = two_validators(200, seed);
        for world in &mut worlds {
            (0..24).for_each(|_| world.turn());
        }
        worlds
    });
    for name in Profile::NAMES {
        let profile = Profile::named(name).unwrap_or_default();
        say(
            name,
            worlds.each_ref().map(|[busy, quiet]| {
                let [one, other] = [busy, quiet].map(|world| world.standing(name, profile.clone()));
                agreement(&one.weights, &other.weights)
            }),
        );
    }
    let by_query = |[busy, quiet]: &[_; 2]| served(busy, quiet);
    say("approach 2", worlds.each_ref().map(by_query));

    println!(
        "\nWhat all hotkeys of a miner get, over its honest twin: the last of {PERIODS} periods"
    );
    println!("(the largest from the second on), {} seeds.", SEEDS.len());
    print!("{:13}", "");
    for name in Profile::NAMES {
        print!(" {name:>17}");
    }
    println!();
    for trick in TRICKS {
        print!("{:13}", format!("{trick:?}"));
        let found = SEEDS.map(|seed| all_gains(trick, seed));
        for at in 0..Profile::NAMES.len() {
            let last: f64 = found.iter().map(|one| one[at].0).sum::<f64>() / 3.0;
            let largest = found.iter().map(|one| one[at].1).fold(0.0, f64::max);
            print!(" {:>17}", format!("{last:.3} ({largest:.3})"));
        }
        println!();
    }
    println!("\nPeriods until a newcomer of period {JOINS} has 98 % of its twin's weight:");
    for name in Profile::NAMES {
        let profile = Profile::named(name).unwrap_or_default();
        let mut world = with_trick(Trick::Newcomer, 1);
        let full = (1..=PERIODS).find(|_| {
            world.turn();
            gain(&world.standing(name, profile.clone())) >= 0.98
        });
        let full = full.map(|period| (period + 1).saturating_sub(JOINS).to_string());
        println!("{name:15} {}", full.as_deref().unwrap_or("never"));
    }
}

fn served(busy: &simulation::World, quiet: &simulation::World) -> (f64, f64) {
    agreement(&busy.served(), &quiet.served())
}

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn say(name: &str, found: [(f64, f64); 3]) {
    let correlation: f64 = found.iter().map(|one| one.0).sum::<f64>() / 3.0;
    let apart: f64 = found.iter().map(|one| one.1).sum::<f64>() / 3.0;
    println!("{name:15} {correlation:>12.4} {:>24.2}", apart * 100.0);
}

/// By profile, the last and the largest gain.
fn all_gains(trick: Trick, seed: u64) -> Vec<(f64, f64)> {
    let mut world = with_trick(trick, seed);
    let mut gains = vec![(0.0, 0.0_f64); Profile::NAMES.len()];
    for period in 1..=PERIODS {
        world.turn();
        for (name, gain_of) in Profile::NAMES.into_iter().zip(&mut gains) {
            let profile = Profile::named(name).unwrap_or_default();
            let found = gain(&world.standing(name, profile));
            let largest = if period > 1 {
                found.max(gain_of.1)
            } else {
                0.0
            };
            *gain_of = (found, largest);
        }
    }
    gains
}
