//! Compares routing policies on a simulated network of 400 miners, driven by the production
//! router: round robin, any at random (as Vision 3.0 did), the least outstanding, and ours. `cargo run --release --example routing_simulation`, or with a load such as `0.5`.

#[path = "../tests/routing/simulation.rs"]
mod simulation;

use taugate::routing::Policy;

use self::simulation::{Rule, Setup, run};

const RULES: [Rule; 4] = [
    Rule::Router(Policy::RoundRobin),
    Rule::Router(Policy::Random),
    Rule::LeastOutstanding,
    Rule::Router(Policy::TwoChoices),
];

const SEEDS: [u64; 3] = [1, 2, 3];

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn main() {
    let loads: Vec<f64> = std::env::args()
        .skip(1)
        .flat_map(|load| load.parse())
        .collect();
    let loads = if loads.is_empty() {
        vec![0.3, 0.5, 0.7]
    } else {
        loads
    };
    println!(
        "400 miners, 4 gateways, 900 s, {} seeds; 4 % slow x 8, 2 % fail, 2 % hang",
        SEEDS.len()
    );
    println!(
        "{:17} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>9}",
        "policy", "load", "Jain", "p50 s", "p99 s", "fail %", "none %", "failing %"
    );
    for rule in RULES {
        for load in &loads {
            let found = SEEDS.map(|seed| {
                run(Setup {
                    rule,
                    miners: 400,
                    gateways: 4,
                    seconds: 900,
                    load: *load,
                    seed,
                    prefix: "",
                    newcomer_s: None,
                })
            });
            let mean = |value: fn(&simulation::Found) -> f64| {
                found.iter().map(value).sum::<f64>() / f64::from(3_u8)
            };
            println!(
                "{:17} {load:5.2} {:6.3} {:6.2} {:6.2} {:7.3} {:7.3} {:9.3}",
                name(rule),
                mean(|found| found.jain),
                mean(|found| found.p50_s),
                mean(|found| found.p99_s),
                mean(|found| percent(found.failed, found.calls)),
                mean(|found| percent(found.refused, found.calls)),
                mean(|found| found.failing_share * 100.0),
            );
        }
    }
}

const fn name(rule: Rule) -> &'static str {
    match rule {
        Rule::Router(policy) => policy.as_str(),
        Rule::LeastOutstanding => "least_outstanding",
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a simulation are small"
)]
fn percent(part: u64, of: u64) -> f64 {
    part as f64 * 100.0 / of.max(1) as f64
}
