//! How much of an allotment is to be checked in a period: drawn per cell, so that no miner
//! knows how closely it is looked at.

use std::fmt;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate_ledger::ids::CellId;
use taugate_ledger::period::Period;
use taugate_ledger::units::Units;

/// Shares are written with a few decimals; their sum is as exact as binary fractions are.
const SHARES_SLACK: f64 = 1e-9;

/// Most draws check a twentieth, as in Vision 4.0.1; one in two hundred checks everything, so
/// that no declaration is safe from it.
const DEFAULT: [Draw; 4] = [
    Draw::of(0.695, 0.05, 0.05),
    Draw::of(0.27, 0.05, 0.10),
    Draw::of(0.03, 0.4, 0.8),
    Draw::of(0.005, 1.0, 1.0),
];

/// A part of an allotment, in millionths; at most all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(u32);

/// One row of a distribution: so large a share of draws checks between two parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Its share of all draws, 0 to 1.
    pub share: f64,
    /// The least part of the allotment, 0 to 1.
    pub from: f64,
    /// The largest; drawn evenly in between.
    pub to: f64,
}

/// A distribution of parts. Its shares sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Draws(Vec<Draw>);

/// Why rows are no distribution.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum DrawsError {
    /// A share or a part outside of 0 to 1, or `from` above `to`.
    #[error("row {0}: share, from and to must be from 0 to 1, and from not above to")]
    Row(usize),
    /// Shares that do not sum to 1.
    #[error("the shares sum to {0}; they must sum to 1")]
    Shares(f64),
}

/// Where chance comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// The system: nobody can know it beforehand.
    System,
    /// A seed: the same for the same period and cell each time, for tests.
    Seeded(u64),
}

// === impl Part ===

impl Part {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// All of it.
    pub const ALL: Self = Self(1_000_000);

    /// So many millionths, cut at all of it.
    #[must_use]
    pub const fn from_millionths(millionths: u32) -> Self {
        if millionths > Self::ALL.0 {
            Self::ALL
        } else {
            Self(millionths)
        }
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// That part of an amount, rounded down.
    #[must_use]
    pub fn of(self, whole: Units) -> Units {
        let part = u128::from(whole.get()) * u128::from(self.0) / u128::from(Self::ALL.0);
        Units::new(u64::try_from(part).unwrap_or(u64::MAX))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to a million"
    )]
    fn from_fraction(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * f64::from(Self::ALL.0)).round() as u32)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", f64::from(self.0) / 10_000.0)
    }
}

// === impl Draw ===

impl Draw {
    /// A row.
    #[must_use]
    pub const fn of(share: f64, from: f64, to: f64) -> Self {
        Self { share, from, to }
    }

    fn is_sound(&self) -> bool {
        [self.share, self.from, self.to]
            .iter()
            .all(|number| (0.0..=1.0).contains(number))
            && self.from <= self.to
    }
}

// === impl Draws ===

impl Draws {
    /// A distribution.
    ///
    /// # Errors
    /// When a row is out of bounds, or the shares do not sum to 1.
    pub fn new(rows: Vec<Draw>) -> Result<Self, DrawsError> {
        if let Some(at) = rows.iter().position(|row| !row.is_sound()) {
            return Err(DrawsError::Row(at));
        }
        let sum: f64 = rows.iter().map(|row| row.share).sum();
        if (sum - 1.0).abs() > SHARES_SLACK {
            return Err(DrawsError::Shares(sum));
        }
        Ok(Self(rows))
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> &[Draw] {
        &self.0
    }

    /// Draws a part.
    #[must_use]
    pub fn part(&self, rng: &mut StdRng) -> Part {
        let mut point: f64 = rng.random();
        let within: f64 = rng.random();
        let mut chosen = None;
        for row in self.0.iter().filter(|row| row.share > 0.0) {
            chosen = Some(row);
            if point < row.share {
                break;
            }
            point -= row.share;
        }
        chosen.map_or(Part::NONE, |row| {
            Part::from_fraction((row.to - row.from).mul_add(within, row.from))
        })
    }
}

impl Default for Draws {
    fn default() -> Self {
        Self(DEFAULT.to_vec())
    }
}

// === impl Luck ===

impl Luck {
    /// Seeded where there is a seed.
    #[must_use]
    pub const fn of(seed: Option<u64>) -> Self {
        match seed {
            Some(seed) => Self::Seeded(seed),
            None => Self::System,
        }
    }

    /// The chance of one cell in one period. `of_what` keeps draws and waits apart.
    #[must_use]
    pub fn rng(self, period: Period, cell: CellId, of_what: u32) -> StdRng {
        let Self::Seeded(seed) = self else {
            return StdRng::from_seed(rand::random());
        };
        let mut whole = [0; 32];
        let words = [
            seed.to_le_bytes(),
            period.start_s().to_le_bytes(),
            (u64::from(cell.0) << 32 | u64::from(of_what)).to_le_bytes(),
        ];
        for (place, byte) in whole.iter_mut().zip(words.into_iter().flatten()) {
            *place = byte;
        }
        StdRng::from_seed(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERIOD: Period = Period::starting_at(3600);

    fn parts(luck: Luck, count: u32) -> Vec<Part> {
        let draws = Draws::default();
        let one = |cell| draws.part(&mut luck.rng(PERIOD, CellId(cell), 0));
        (0..count).map(one).collect()
    }

    #[test]
    fn a_seed_draws_the_same_again_and_another_period_cell_or_seed_differently() {
        assert_eq!(parts(Luck::Seeded(1), 100), parts(Luck::Seeded(1), 100));
        assert_ne!(parts(Luck::Seeded(1), 100), parts(Luck::Seeded(2), 100));
        let draws = Draws::new(vec![Draw::of(1.0, 0.0, 1.0)]).unwrap();
        let at = |period, cell| {
            let luck = Luck::Seeded(1);
            draws.part(&mut luck.rng(Period::starting_at(period), CellId(cell), 0))
        };
        assert_ne!(at(0, 1), at(0, 2));
        assert_ne!(at(0, 1), at(3600, 1));
    }

    #[test]
    fn the_systems_randomness_does_not_repeat() {
        let draws = Draws::new(vec![Draw::of(1.0, 0.0, 1.0)]).unwrap();
        let one = || draws.part(&mut Luck::System.rng(PERIOD, CellId(1), 0));
        let first = one();
        assert!((0..20).any(|_| one() != first));
    }

    #[test]
    fn draws_follow_their_shares() {
        let parts = parts(Luck::Seeded(7), 20_000);
        let between = |from: u32, to: u32| {
            let in_it = parts.iter().filter(|part| (from..=to).contains(&part.0));
            f64::from(u32::try_from(in_it.count()).unwrap()) / 20_000.0
        };
        let near = |found: f64, wanted: f64| {
            assert!((found - wanted).abs() < 0.015, "{found} for {wanted}");
        };
        near(between(50_000, 50_000), 0.695);
        near(between(50_001, 100_000), 0.27);
        near(between(400_000, 800_000), 0.03);
        assert!(between(1_000_000, 1_000_000) > 0.002);
        near(between(0, 49_999), 0.0);
    }

    #[test]
    fn rows_that_are_no_distribution_are_refused() {
        let draws = |rows: &[Draw]| Draws::new(rows.to_vec());
        assert_eq!(draws(&[]), Err(DrawsError::Shares(0.0)));
        assert_eq!(
            draws(&[Draw::of(0.5, 0.1, 0.2)]),
            Err(DrawsError::Shares(0.5))
        );
        for wrong in [
            Draw::of(1.0, 0.2, 0.1),
            Draw::of(1.0, -0.1, 0.1),
            Draw::of(1.0, 0.1, 1.1),
            Draw::of(f64::NAN, 0.1, 0.2),
        ] {
            assert_eq!(draws(&[wrong]), Err(DrawsError::Row(0)));
        }
    }

    proptest! {
        #[test]
        fn a_part_is_of_one_of_its_rows_and_never_more_than_the_whole(
            seed: u64,
            from in 0.0..=1.0,
            more in 0.0..=1.0,
            share in 0.0..=1.0,
            whole: u64,
        ) {
            let to = f64::min(from + more, 1.0);
            let rows = vec![Draw::of(share, from, to), Draw::of(1.0 - share, 0.25, 0.25)];
            let draws = Draws::new(rows).unwrap();
            let part = draws.part(&mut Luck::Seeded(seed).rng(PERIOD, CellId(0), 0));
            let of_first = (Part::from_fraction(from)..=Part::from_fraction(to)).contains(&part);
            prop_assert!(of_first || part.millionths() == 250_000);
            prop_assert!(part.of(Units::new(whole)) <= Units::new(whole));
            prop_assert_eq!(Part::ALL.of(Units::new(whole)), Units::new(whole));
        }
    }
}
