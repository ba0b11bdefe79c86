//! How far a consumer is: opaque to it, and checked when it comes back.
//!
//! For each incarnation and period a cursor holds two offsets: behind the receipts whose
//! counters were told, and behind those that were sent themselves. One number over all would
//! skip rows, because incarnations commit in an order of their own. It is bound to one store,
//! one hotkey and one consumer. It is no secret and guards nothing: who forges one misleads
//! only its own consumer.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use taugate_ledger::ids::Incarnation;
use taugate_ledger::period::Period;

use super::Standing;
use crate::identity::hotkey::Hotkey;

/// The first byte of a cursor.
const VERSION: u8 = 1;

/// Version, store, consumer, settled, seal.
const HEAD_LEN: usize = 1 + 4 * 8;

/// Period, incarnation and two offsets.
const ENTRY_LEN: usize = 4 * 8;

/// The check digits at the end.
const CRC_LEN: usize = 4;

/// The longest cursor that is read, bytes: two thousand starts of gateways.
const LEN_MAX: usize = 64 * 1024;

/// Whose cursor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    store: u64,
    consumer: u64,
}

/// How far a consumer is in one incarnation's period: offsets behind the last receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Whose counters were told.
    pub counters: u64,
    /// That was sent itself; 0 where receipts are not asked for.
    pub receipts: u64,
}

/// How far a consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    scope: Scope,
    /// The first period that could still change when this was sent.
    pub settled: Period,
    /// The last seal that was sent.
    pub seal: u64,
    places: BTreeMap<(Period, Incarnation), Place>,
}

// === impl Scope ===

impl Scope {
    /// The scope of a hotkey's consumer at a store.
    #[must_use]
    pub fn of(store: [u8; 16], hotkey: Hotkey, consumer: &str) -> Self {
        let name = Sha256::new()
            .chain_update(hotkey.as_bytes())
            .chain_update(consumer);
        Self {
            store: first(&store),
            consumer: first(&name.finalize()),
        }
    }
}

// === impl Cursor ===

impl Cursor {
    /// The cursor of a consumer that knows nothing.
    #[must_use]
    pub const fn start(scope: Scope) -> Self {
        Self {
            scope,
            settled: Period::starting_at(0),
            seal: 0,
            places: BTreeMap::new(),
        }
    }

    /// Reads a cursor of that scope; `None` for what is damaged, another's, or of another
    /// store.
    #[must_use]
    pub fn decode(bytes: &[u8], scope: Scope) -> Option<Self> {
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_LEN)?)?;
        let sound = bytes.len() <= LEN_MAX && crc == crc32fast::hash(body).to_be_bytes();
        let (head, entries) = body.split_at_checked(HEAD_LEN)?;
        if !sound || head[0] != VERSION {
            return None;
        }
        let mut numbers = head[1..].chunks_exact(8).map(first);
        let mut next = || numbers.next();
        let found = Scope {
            store: next()?,
            consumer: next()?,
        };
        let mut cursor = Self {
            settled: Period::starting_at(next()?),
            seal: next()?,
            ..Self::start(found)
        };
        let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
        for entry in entries {
            let [period, incarnation, counters, receipts] =
                [0, 8, 16, 24].map(|at| first(&entry[at..]));
            let key = (Period::starting_at(period), Incarnation(incarnation));
            cursor.places.insert(key, Place { counters, receipts });
        }
        (found == scope && rest.is_empty()).then_some(cursor)
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let mut put = |number: u64| bytes.extend_from_slice(&number.to_be_bytes());
        put(self.scope.store);
        put(self.scope.consumer);
        put(self.settled.start_s());
        put(self.seal);
        for ((period, incarnation), place) in &self.places {
            put(period.start_s());
            put(incarnation.0);
            put(place.counters);
            put(place.receipts);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// How far it is in an incarnation's period.
    #[must_use]
    pub fn place(&self, key: (Period, Incarnation)) -> Place {
        self.places.get(&key).copied().unwrap_or_default()
    }

    /// Says how far it is in an incarnation's period.
    pub fn set(&mut self, key: (Period, Incarnation), place: Place) {
        self.places.insert(key, place);
    }

    /// Forgets periods whose rows are gone.
    pub fn keep_from(&mut self, oldest: Period) {
        self.places.retain(|(period, _), _| *period >= oldest);
    }

    /// Whether nothing in it lies beyond the books: a store that lost commits, or a cursor
    /// that was made up, is known by that.
    #[must_use]
    pub fn is_within(&self, books: &Standing) -> bool {
        let reaches: BTreeMap<_, _> = books
            .reaches
            .iter()
            .map(|reach| ((reach.period, reach.incarnation), reach.next_offset))
            .collect();
        let known = |(key, place): (&(Period, Incarnation), &Place)| {
            let reach = reaches.get(key).copied();
            let reach = reach.or_else(|| (key.0 < books.keep_from).then_some(u64::MAX));
            reach.is_some_and(|reach| place.counters.max(place.receipts) <= reach)
        };
        self.settled <= books.settled
            && self.seal <= books.last_seal
            && self.places.iter().all(known)
    }

    /// Whether it is as far as another in everything.
    #[must_use]
    pub fn is_as_far_as(&self, other: &Self) -> bool {
        let reached = |(key, place): (&(Period, Incarnation), &Place)| {
            // What is settled may have been forgotten since.
            let forgotten = key.0 < self.settled && !self.places.contains_key(key);
            let own = self.place(*key);
            forgotten || (own.counters >= place.counters && own.receipts >= place.receipts)
        };
        self.settled >= other.settled && self.seal >= other.seal && other.places.iter().all(reached)
    }
}

/// The first eight bytes as a number, big end first; fewer stand for less.
fn first(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().take(8);
    bytes.fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reach;

    const HOUR: u64 = 3600;

    fn scope(name: &str) -> Scope {
        Scope::of([7; 16], Hotkey::from_bytes([1; 32]), name)
    }

    fn key(hour: u64, incarnation: u64) -> (Period, Incarnation) {
        (Period::starting_at(hour * HOUR), Incarnation(incarnation))
    }

    fn cursor(offset: u64) -> Cursor {
        let mut cursor = Cursor::start(scope("a"));
        (cursor.settled, cursor.seal) = (key(10, 0).0, 4);
        let place = Place {
            counters: offset,
            receipts: offset / 2,
        };
        cursor.set(key(10, 1), place);
        cursor.set(key(11, 1), place);
        cursor
    }

    fn books(offset: u64) -> Standing {
        let reach = |hour| Reach {
            period: key(hour, 0).0,
            incarnation: Incarnation(1),
            next_offset: offset,
        };
        Standing {
            store: [7; 16],
            reaches: vec![reach(10), reach(11)],
            last_seal: 4,
            keep_from: key(8, 0).0,
            settled: key(10, 0).0,
            now_ms: 0,
        }
    }

    #[test]
    fn a_cursor_comes_back_and_only_for_whom_it_was_made() {
        let bytes = cursor(9).encode();
        assert_eq!(Cursor::decode(&bytes, scope("a")), Some(cursor(9)));
        assert_eq!(Cursor::decode(&bytes, scope("b")), None);
        let foreign = Scope::of([8; 16], Hotkey::from_bytes([1; 32]), "a");
        assert_eq!(Cursor::decode(&bytes, foreign), None);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(Cursor::decode(&other, scope("a")), None, "{at}");
            assert_eq!(Cursor::decode(&bytes[..at], scope("a")), None, "{at}");
        }
    }

    #[test]
    fn a_cursor_beyond_the_books_is_known() {
        assert!(cursor(9).is_within(&books(9)));
        assert!(!cursor(10).is_within(&books(9)));
        let mut sealed = cursor(9);
        sealed.seal = 5;
        assert!(!sealed.is_within(&books(9)));
        let mut strange = cursor(9);
        strange.set(key(11, 2), Place::default());
        assert!(!strange.is_within(&books(9)), "no such incarnation");
        let mut old = cursor(9);
        old.set(
            key(7, 5),
            Place {
                counters: 99,
                receipts: 0,
            },
        );
        assert!(old.is_within(&books(9)), "its rows are gone");
    }

    #[test]
    fn a_cursor_is_as_far_as_itself_and_as_those_before() {
        assert!(cursor(9).is_as_far_as(&cursor(9)));
        assert!(cursor(9).is_as_far_as(&cursor(8)));
        assert!(!cursor(8).is_as_far_as(&cursor(9)));
        let mut later = cursor(9);
        (later.settled, later.seal) = (key(11, 0).0, 5);
        later.keep_from(key(11, 0).0);
        assert!(
            later.is_as_far_as(&cursor(9)),
            "the old period was forgotten"
        );
        assert!(!cursor(9).is_as_far_as(&later));
    }
}
