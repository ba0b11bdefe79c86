//! What it costs to send a call to a miner: the lower of two wins.

/// What is known of a candidate, and of its market, whatever it has to do.
#[derive(Clone, Copy, Debug)]
pub struct Burden {
    /// Its latency, any unit; 0: not known.
    pub latency: f64,
    /// The market's median latency in the same unit; 0: not known.
    pub median: f64,
    /// The latency at which it keeps what it declared, all its places taken, in the same
    /// unit; 0: not known.
    pub promised: f64,
    /// The part of its allotment that attempts took in this period.
    pub pace: f64,
    /// The mean of that over the market.
    pub pace_mean: f64,
    /// The part of attempts that end well.
    pub success: f64,
}

/// `(occupancy + 1/4) x factor`, occupancy being the part of its places that is taken.
///
/// The fourth lets small miners in: `(in flight + 1) / places` would starve them.
#[must_use]
pub fn cost(in_flight: u32, places: f64, factor: f64) -> f64 {
    (f64::from(in_flight) / places.max(1.0) + 0.25) * factor
}

/// `latency ratio x pace / success squared`: it changes with what is learned and with the
/// market, not with each call in flight, so that a choice finds it worked out.
#[must_use]
pub fn factor(burden: &Burden) -> f64 {
    let latency = slowness(burden.latency, burden.median, burden.promised);
    // No attempt yet is a pace, too: the slowest.
    let pace = if burden.pace_mean > 0.0 {
        (burden.pace / burden.pace_mean).clamp(0.3, 3.0)
    } else {
        1.0
    };
    let success = burden.success.max(0.05);
    latency * pace / (success * success)
}

/// How slow a miner is against others (a ratio, 1: as usual), but no slower than against its
/// own word: a miner that writes slowly in many places does all that it declared, and gets
/// its part like any other.
pub(super) fn slowness(latency: f64, median: f64, promised: f64) -> f64 {
    /// However little a miner promises, others that are so much quicker go first.
    const WORST: f64 = 10.0;
    let promised = promised.min(median * WORST);
    let by_word = if promised > 0.0 && latency > 0.0 {
        (latency / promised).max(1.0)
    } else {
        WORST
    };
    ratio(latency, median).clamp(0.7, WORST).min(by_word)
}

/// 1 where either is not known.
fn ratio(value: f64, usual: f64) -> f64 {
    if value > 0.0 && usual > 0.0 {
        value / usual
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Burden = Burden {
        latency: 100.0,
        median: 100.0,
        promised: 0.0,
        pace: 0.1,
        pace_mean: 0.1,
        success: 1.0,
    };

    #[test]
    fn an_idle_usual_miner_costs_a_fourth() {
        assert!((cost(0, 4.0, factor(&USUAL)) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn each_burden_costs_more() {
        assert!(cost(2, 4.0, 1.0) > cost(0, 4.0, 1.0));
        let burdens = [
            Burden {
                latency: 200.0,
                ..USUAL
            },
            Burden { pace: 0.2, ..USUAL },
            Burden {
                success: 0.5,
                ..USUAL
            },
        ];
        for burden in burdens {
            assert!(factor(&burden) > factor(&USUAL), "{burden:?}");
        }
    }

    #[test]
    fn a_miner_that_is_as_slow_as_it_said_is_not_slow() {
        let slow = Burden {
            latency: 600.0,
            ..USUAL
        };
        assert!(factor(&slow) > 5.0 * factor(&USUAL));
        let as_it_said = Burden {
            promised: 700.0,
            ..slow
        };
        assert!((factor(&as_it_said) - factor(&USUAL)).abs() < 1e-12);
        // Slower than it said costs by how much, not by how slow that is to others.
        let slower = Burden {
            promised: 300.0,
            ..slow
        };
        assert!((factor(&slower) - 2.0 * factor(&USUAL)).abs() < 1e-12);
    }

    #[test]
    fn a_promise_of_next_to_nothing_excuses_no_miner() {
        let endless = Burden {
            latency: 5_000.0,
            promised: 1e9,
            ..USUAL
        };
        assert!(factor(&endless) >= 5.0 * factor(&USUAL));
    }

    #[test]
    fn a_small_idle_miner_costs_no_more_than_a_large_idle_one() {
        assert!((cost(0, 1.0, 1.0) - cost(0, 64.0, 1.0)).abs() < 1e-12);
    }
}
