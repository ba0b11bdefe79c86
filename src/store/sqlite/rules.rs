//! What the store refuses by its own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use taugate_ledger::period::{Period, PeriodLength};

use crate::clock::SharedClock;

/// Periods whose seals are kept: a week of hours, some 20 MB for a thousand miners.
const SEALS_KEPT: u64 = 168;

/// The store's clock and the periods that follow from it.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) clock: SharedClock,
    pub(super) length: PeriodLength,
    /// How long after its end a period takes exchanges, milliseconds; it only rises.
    pub(super) grace_ms: Arc<AtomicU64>,
    /// How many whole periods are kept beyond the grace.
    pub(super) retention_periods: u32,
    /// How long what scores are made of is kept.
    pub(super) scores_kept: Duration,
}

// === impl Rules ===

impl Rules {
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// Whether rights to spend are given out: from one period ahead to the grace after.
    pub(super) fn may_exchange(&self, period: Period) -> bool {
        self.is_not_beyond_next(period) && self.ended_within(period, self.grace_ms())
    }

    /// Whether receipts are taken: as long as the period's rows are kept, so that late proof
    /// comes into the period it belongs to.
    pub(super) fn may_append(&self, period: Period) -> bool {
        self.is_not_beyond_next(period) && period >= self.keep_from()
    }

    /// The oldest period whose rows are kept.
    pub(super) fn keep_from(&self) -> Period {
        let kept_ms = u64::from(self.length.secs())
            .saturating_mul(1000)
            .saturating_mul(u64::from(self.retention_periods))
            .saturating_add(self.grace_ms());
        self.length.period_at(self.now_ms().saturating_sub(kept_ms))
    }

    /// The oldest period whose seals are kept: long after its rows are gone.
    pub(super) fn keep_seals_from(&self) -> Period {
        let kept_ms = u64::from(self.length.secs())
            .saturating_mul(1000)
            .saturating_mul(SEALS_KEPT);
        let keep_from = self.length.period_at(self.now_ms().saturating_sub(kept_ms));
        keep_from.min(self.keep_from())
    }

    /// From when on what scores are made of is kept, milliseconds; at least as long as the books.
    pub(super) fn keep_scores_from_ms(&self) -> u64 {
        let kept_ms = u64::try_from(self.scores_kept.as_millis()).unwrap_or(u64::MAX);
        let from_ms = self.now_ms().saturating_sub(kept_ms);
        from_ms.min(self.keep_from().start_s().saturating_mul(1000))
    }

    /// The first period that is still waited for.
    pub(super) fn settled(&self) -> Period {
        self.length
            .period_at(self.now_ms().saturating_sub(self.grace_ms()))
    }

    /// Whether a period ended so long ago that nothing is waited for any more.
    pub(super) fn is_past_grace(&self, period: Period) -> bool {
        !self.ended_within(period, self.grace_ms())
    }

    /// Whether a period starts on a boundary and is no later than the next one.
    fn is_not_beyond_next(&self, period: Period) -> bool {
        let start_ms = period.start_s().saturating_mul(1000);
        let next = self.length.next(self.length.period_at(self.now_ms()));
        self.length.period_at(start_ms) == period && period <= next
    }

    fn ended_within(&self, period: Period, grace_ms: u64) -> bool {
        self.now_ms() < self.length.end_ms(period).saturating_add(grace_ms)
    }

    /// Waits at least so long after a period's end.
    pub(super) fn wait_at_least(&self, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.grace_ms.fetch_max(grace_ms, Ordering::Relaxed);
    }

    fn grace_ms(&self) -> u64 {
        self.grace_ms.load(Ordering::Relaxed)
    }
}
