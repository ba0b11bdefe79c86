//! Streams that are open to consumers: one a consumer, the newest; and how many there may be.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::front_door::status::{Excess, Refusal};
use crate::identity::hotkey::Hotkey;
use crate::report::cursor::Cursor;
use crate::report::feed::Sent;

/// Consumers at once: each has a page in memory and asks the store once a second.
const SESSIONS_MAX: usize = 64;

/// Consumers of one hotkey at once.
const PER_HOTKEY_MAX: usize = 8;

/// When a place may be free.
const LATER: std::time::Duration = std::time::Duration::from_secs(5);

/// Who consumes: a hotkey, and the name that it gave this consumer.
pub(super) type Consumer = (Hotkey, String);

/// The open streams.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    streams: HashMap<Consumer, Stream>,
    opened: u64,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    superseded: CancellationToken,
    sent: Sent,
}

/// One open stream.
#[derive(Clone, Debug)]
pub(super) struct Session {
    number: u64,
    /// Cancelled when a newer stream of the same consumer was opened.
    pub(super) superseded: CancellationToken,
    /// Up to where it was sent.
    pub(super) sent: Sent,
}

// === impl Sessions ===

impl Sessions {
    /// Opens a stream; an older one of the same consumer ends by it.
    pub(super) fn open(&self, consumer: &Consumer) -> Result<Session, Refusal> {
        let mut open = self.0.lock();
        if !open.streams.contains_key(consumer) {
            let own = open
                .streams
                .keys()
                .filter(|(hotkey, _)| *hotkey == consumer.0);
            if open.streams.len() >= SESSIONS_MAX || own.count() >= PER_HOTKEY_MAX {
                return Err(Refusal::RateLimited(Excess::Watches, LATER));
            }
        }
        open.opened = open.opened.wrapping_add(1);
        let session = Session {
            number: open.opened,
            superseded: CancellationToken::new(),
            sent: Sent::default(),
        };
        let stream = Stream {
            number: session.number,
            superseded: session.superseded.clone(),
            sent: Sent::clone(&session.sent),
        };
        let older = open.streams.insert(consumer.clone(), stream);
        drop(open);
        if let Some(older) = older {
            older.superseded.cancel();
        }
        Ok(session)
    }

    /// Takes an ended stream away, unless a newer one stands in its place.
    pub(super) fn close(&self, consumer: &Consumer, session: &Session) {
        let mut open = self.0.lock();
        let stands = open.streams.get(consumer);
        if stands.is_some_and(|stands| stands.number == session.number) {
            open.streams.remove(consumer);
        }
    }

    /// The last cursor that the open stream of a consumer sent; `None`: there is no stream.
    /// A stream that sent none yet has nothing that could be acknowledged of it, but an
    /// older one may.
    pub(super) fn sent(&self, consumer: &Consumer) -> Option<Cursor> {
        let sent = Sent::clone(&self.0.lock().streams.get(consumer)?.sent);
        sent.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_stream_of_a_consumer_ends_the_older_and_places_are_bounded() {
        let sessions = Sessions::default();
        let key = |number| Hotkey::from_bytes([number; 32]);
        let name = |number: u8, name: usize| (key(number), name.to_string());
        let older = sessions.open(&name(1, 1)).unwrap();
        let newer = sessions.open(&name(1, 1)).unwrap();
        assert!(older.superseded.is_cancelled() && !newer.superseded.is_cancelled());
        sessions.close(&name(1, 1), &older);
        assert_eq!(sessions.0.lock().streams.len(), 1, "the newer stands");
        for other in 2..=PER_HOTKEY_MAX {
            sessions.open(&name(1, other)).unwrap();
        }
        assert!(sessions.open(&name(1, 99)).is_err());
        sessions.close(&name(1, 1), &newer);
        assert!(sessions.open(&name(1, 99)).is_ok());
        let opened = (2..20).map(|number| sessions.open(&name(number, 0)).is_ok());
        assert!(opened.take(18).all(|opened| opened));
        let opened = (20..255).filter(|number| sessions.open(&name(*number, 0)).is_ok());
        assert_eq!(opened.count(), SESSIONS_MAX - PER_HOTKEY_MAX - 18);
    }
}
