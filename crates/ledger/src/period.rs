//! Periods: stretches of fixed length, aligned to Unix time.

use std::fmt;

/// A period, named by its first second in Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

/// The length of periods, seconds; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodLength(u32);

// === impl Period ===

impl Period {
    /// The period whose first second this is.
    #[must_use]
    pub const fn starting_at(start_s: u64) -> Self {
        Self(start_s)
    }

    /// Its first second, Unix time.
    #[must_use]
    pub const fn start_s(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl PeriodLength ===

impl PeriodLength {
    /// A length of at least one second.
    #[must_use]
    pub const fn from_secs(secs: u32) -> Option<Self> {
        if secs == 0 { None } else { Some(Self(secs)) }
    }

    /// The length in seconds.
    #[must_use]
    pub const fn secs(self) -> u32 {
        self.0
    }

    /// The period that holds an instant of Unix time in milliseconds.
    #[must_use]
    pub fn period_at(self, unix_ms: u64) -> Period {
        let length_s = u64::from(self.0);
        let unix_s = unix_ms / 1000;
        let past = unix_s.checked_rem(length_s).unwrap_or(0);
        Period(unix_s.saturating_sub(past))
    }

    /// The period after this one.
    #[must_use]
    pub fn next(self, period: Period) -> Period {
        Period(period.0.saturating_add(u64::from(self.0)))
    }

    /// The first millisecond after a period, Unix time.
    #[must_use]
    pub fn end_ms(self, period: Period) -> u64 {
        self.next(period).0.saturating_mul(1000)
    }
}
