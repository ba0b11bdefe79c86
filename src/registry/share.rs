//! The part of a declaration that belongs to this validator.

use std::fmt;

use taugate_ledger::units::Units;

/// A part of one, exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    parts: u64,
    of: u64,
}

// === impl Share ===

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { parts: 1, of: 1 };

    /// So many parts of so many, in lowest terms; `None` unless 0 < parts <= of.
    #[must_use]
    pub const fn new(parts: u64, of: u64) -> Option<Self> {
        if parts == 0 || parts > of {
            return None;
        }
        let (mut common, mut rest) = (parts, of);
        while rest != 0 {
            (common, rest) = (rest, common % rest);
        }
        Some(Self {
            parts: parts / common,
            of: of / common,
        })
    }

    /// The allotment: `floor(amount x share)`.
    #[must_use]
    pub fn of(self, amount: Units) -> Units {
        let part = u128::from(amount.get()) * u128::from(self.parts) / u128::from(self.of);
        Units::new(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.parts, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_periods_keep_their_allotment() {
        // N27: what was multiplied again each period shrank.
        let share = Share::new(1, 3).unwrap();
        let declared = Units::new(100_000);
        let first = share.of(declared);
        assert_eq!(first, Units::new(33_333));
        assert!((0..100).all(|_| share.of(declared) == first));
    }
}
