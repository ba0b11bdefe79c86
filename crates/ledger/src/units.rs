//! Amounts of work, and all arithmetic on them.

use std::fmt;

/// An amount of work: tokens, steps or items, as the task's unit rule says.
///
/// Only this file does arithmetic on amounts, all of it checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Units(u64);

// === impl Units ===

impl Units {
    /// No work.
    pub const ZERO: Self = Self(0);

    /// The largest amount that the books hold: engines keep signed 64-bit integers.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// An amount, cut at [`Units::MAX`].
    #[must_use]
    pub const fn new(units: u64) -> Self {
        if units > Self::MAX.0 {
            Self::MAX
        } else {
            Self(units)
        }
    }

    /// The amount as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is no work at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` beyond [`Units::MAX`].
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0
            .checked_add(other.0)
            .map(Self)
            .filter(|sum| *sum <= Self::MAX)
    }

    /// The sum, cut at [`Units::MAX`]; for wishes, never for books.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self::new(self.0.saturating_add(other.0))
    }

    /// The difference, or `None` below zero.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, zero where it would be less.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This many times the amount, cut at [`Units::MAX`].
    #[must_use]
    pub fn saturating_mul(self, times: u64) -> Self {
        Self::new(self.0.saturating_mul(times))
    }

    /// An equal part, rounded down; of zero parts, the whole.
    #[must_use]
    pub fn part_of(self, parts: u64) -> Self {
        Self(self.0.checked_div(parts).unwrap_or(self.0))
    }

    /// `floor(amount x factor)` for a factor from 0 up; NaN and negative factors give zero.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "amounts beyond 2^53 lose their last digits in a product with a fraction"
    )]
    pub fn scaled(self, factor: f64) -> Self {
        // Written so that NaN falls into the first case.
        if factor > 0.0 {
            Self::new((self.0 as f64 * factor).floor() as u64)
        } else {
            Self::ZERO
        }
    }

    /// The amount as a real number, for weights and scores; beyond 2^53 it loses digits.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a weight needs no more digits")]
    pub const fn as_f64(self) -> f64 {
        self.0 as f64
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::iter::Sum for Units {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}
