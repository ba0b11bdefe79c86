//! What scores pay for, and whether validators agree, simulated with production scores, router,
//! draws, dues and bursts: `cargo run --release --example incentive_simulation`,
//! or with a number of seeds such as `1`.

#[path = "../tests/scoring/simulation.rs"]
mod simulation;

use taugate::scoring::Profile;

use self::simulation::{JOINS, Trick, agreement, gain, two_validators, with_trick};

const TRICKS: [Trick; 9] = [
    Trick::TenTimes,
    Trick::TenTimesOfAQuarter,
    Trick::FourHotkeys,
    Trick::Rotating,
    Trick::TwoTasks,
    Trick::Split,
    Trick::Newcomer,
    Trick::Polite,
    Trick::Failing,
];

const PERIODS: u64 = 50;

/// Runs of each; another number may follow the command.
const SEEDS: u64 = 3;

/// Scores are looked at in every such period.
const LOOK_EVERY: u64 = 5;

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn main() {
    let seeds = std::env::args().nth(1).and_then(|seeds| seeds.parse().ok());
    let seeds: Vec<u64> = (1..=seeds.unwrap_or(SEEDS)).collect();
    println!(
        "Two validators, shares 0.7 and 0.3, over 200 honest miners, 24 periods, {} seeds;",
        seeds.len()
    );
    println!("the one's clients ask for 60 % of its allotments, the other only checks.");
    println!(
        "{:15} {:>12} {:>24}",
        "rule", "correlation", "half the difference, %"
    );
    let worlds: Vec<_> = seeds
        .iter()
        .map(|seed| {
            let mut worlds = two_validators(200, *seed);
            for world in &mut worlds {
                (0..24).for_each(|_| world.turn());
            }
            worlds
        })
        .collect();
    for name in Profile::NAMES {
        let profile = Profile::named(name).unwrap_or_default();
        let compared = worlds.iter().map(|[busy, quiet]| {
            let [one, other] = [busy, quiet].map(|world| world.standing(name, profile.clone()));
            agreement(&one.weights, &other.weights)
        });
        say(name, &compared.collect::<Vec<_>>());
    }
    let compared = worlds
        .iter()
        .map(|[busy, quiet]| agreement(&busy.served(), &quiet.served()));
    say("approach 2", &compared.collect::<Vec<_>>());

    println!(
        "\nWhat all hotkeys of a miner get, over its honest twin: the last of {PERIODS} periods"
    );
    println!("(the largest of every fifth), {} seeds.", seeds.len());
    print!("{:19}", "");
    for name in Profile::NAMES {
        print!(" {name:>17}");
    }
    println!();
    for trick in TRICKS {
        print!("{:19}", format!("{trick:?}"));
        let found = seeds
            .iter()
            .map(|seed| all_gains(trick, *seed))
            .collect::<Vec<_>>();
        for at in 0..Profile::NAMES.len() {
            let last = mean(found.iter().map(|one| one[at].0));
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

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / f64::max(count, 1.0)
}

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn say(name: &str, found: &[(f64, f64)]) {
    let correlation = mean(found.iter().map(|one| one.0));
    let apart = mean(found.iter().map(|one| one.1));
    println!("{name:15} {correlation:>12.4} {:>24.2}", apart * 100.0);
}

/// By profile, the last and the largest gain.
fn all_gains(trick: Trick, seed: u64) -> Vec<(f64, f64)> {
    let mut world = with_trick(trick, seed);
    let mut gains = vec![(0.0, 0.0_f64); Profile::NAMES.len()];
    for period in 1..=PERIODS {
        world.turn();
        if !period.is_multiple_of(LOOK_EVERY) {
            continue;
        }
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
