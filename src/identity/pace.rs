//! How often someone may: a burst at once, then one each while.
//!
//! One number is kept of each: the instant at which all that it did is paid off. Who has
//! nothing to pay off needs no entry, so that the map holds only those of the last moments.
//! It has a bound all the same; those for whom it has no room share one pace, so that a
//! crowd of new names slows itself down and nobody whom the map holds.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;

/// A full map is swept at most this often, so that a crowd cannot make each step a sweep.
const SWEEP_EVERY_MS: u64 = 1_000;

/// Bounds how often each of many may do something.
#[derive(Debug)]
pub struct Pace<K> {
    each_ms: u64,
    burst: u64,
    entries_max: usize,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    /// When all that was done is paid off, Unix milliseconds.
    paid_ms: HashMap<K, u64>,
    crowd_ms: u64,
    swept_ms: u64,
}

// === impl Pace ===

impl<K: Eq + Hash> Pace<K> {
    /// One each `each` (at least a millisecond), and `burst` at once after a pause; kept of
    /// at most `entries_max`.
    #[must_use]
    pub fn new(each: Duration, burst: u32, entries_max: usize) -> Self {
        Self {
            each_ms: u64::try_from(each.as_millis()).unwrap_or(u64::MAX).max(1),
            burst: u64::from(burst.max(1)),
            entries_max,
            state: Mutex::new(State {
                paid_ms: HashMap::new(),
                crowd_ms: 0,
                swept_ms: 0,
            }),
        }
    }

    /// Takes one step at `now_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// How long to wait; nothing was taken then.
    pub fn step(&self, who: K, now_ms: u64) -> Result<(), Duration> {
        let mut state = self.state.lock();
        let full = !state.paid_ms.contains_key(&who) && state.paid_ms.len() >= self.entries_max;
        if full && now_ms.saturating_sub(state.swept_ms) >= SWEEP_EVERY_MS {
            state.paid_ms.retain(|_, paid_ms| *paid_ms > now_ms);
            state.swept_ms = now_ms;
        }
        let room = state.paid_ms.len() < self.entries_max || state.paid_ms.contains_key(&who);
        let paid_ms = if room {
            state.paid_ms.entry(who).or_default()
        } else {
            &mut state.crowd_ms
        };
        let after = self.after(*paid_ms, now_ms);
        let late_ms = self.late_ms(after, now_ms);
        if late_ms == 0 {
            *paid_ms = after;
            drop(state);
            Ok(())
        } else {
            drop(state);
            Err(Duration::from_millis(late_ms))
        }
    }

    /// How long one whom the map holds would have to wait for a step at `now_ms`.
    #[must_use]
    pub fn owes(&self, who: &K, now_ms: u64) -> Option<Duration> {
        let paid_ms = *self.state.lock().paid_ms.get(who)?;
        let late_ms = self.late_ms(self.after(paid_ms, now_ms), now_ms);
        (late_ms > 0).then(|| Duration::from_millis(late_ms))
    }

    /// When all is paid off once one more step is taken.
    fn after(&self, paid_ms: u64, now_ms: u64) -> u64 {
        paid_ms.max(now_ms).saturating_add(self.each_ms)
    }

    fn late_ms(&self, after_ms: u64, now_ms: u64) -> u64 {
        let credit_ms = self.each_ms.saturating_mul(self.burst);
        after_ms.saturating_sub(now_ms.saturating_add(credit_ms))
    }

    /// Of how many something is kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().paid_ms.len()
    }

    /// Whether nothing is kept of anyone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(entries_max: usize) -> Pace<u32> {
        Pace::new(Duration::from_secs(1), 3, entries_max)
    }

    #[test]
    fn a_burst_then_one_each_while() {
        let pace = pace(10);
        let now_ms = 1_700_000_000_000;
        for _ in 0..3 {
            assert_eq!(pace.step(1, now_ms), Ok(()));
        }
        assert_eq!(pace.step(1, now_ms), Err(Duration::from_secs(1)));
        assert_eq!(pace.owes(&1, now_ms), Some(Duration::from_secs(1)));
        assert_eq!(pace.owes(&1, now_ms + 1_000), None);
        assert_eq!(pace.owes(&2, now_ms), None, "it never did anything");
        assert_eq!(pace.step(1, now_ms + 999), Err(Duration::from_millis(1)));
        assert_eq!(pace.step(1, now_ms + 1_000), Ok(()));
        assert!(pace.step(1, now_ms + 1_000).is_err());
        assert_eq!(pace.step(2, now_ms), Ok(()), "one's burst cost another");
    }

    #[test]
    fn a_crowd_slows_itself_and_the_map_stays_flat() {
        let pace = pace(10);
        let now_ms = 1_700_000_000_000;
        assert_eq!(pace.step(0, now_ms), Ok(()));
        let let_in = (1..1_000).filter(|who| pace.step(*who, now_ms).is_ok());
        assert_eq!(
            let_in.count(),
            9 + 3,
            "the map's room, and one burst of the crowd"
        );
        assert_eq!(pace.len(), 10);
        assert_eq!(
            pace.step(0, now_ms),
            Ok(()),
            "the crowd slowed one of before"
        );
        // Those who paid off make room.
        assert_eq!(pace.step(5_000, now_ms + 60_000), Ok(()));
        assert_eq!(pace.len(), 1);
    }
}
