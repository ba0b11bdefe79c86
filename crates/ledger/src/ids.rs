//! Names of what the books are about.

use std::fmt;
use std::str::FromStr;

use crate::period::Period;

/// The stable number of a subject (a miner's hotkey and task, a task's ceiling, a client's
/// limit), given by the store once and dense from 0. Together with a [`Period`] it names a
/// cell; it is also the cell's place in each table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId(pub u32);

/// One start of one gateway process; given by the store, never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// Where work came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A client's request.
    Organic,
    /// A check.
    Synthetic,
}

/// Names a call. It holds where the receipt stands, so that an index over receipts is
/// nearly sequential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The period that is charged: that of the admission.
    pub period: Period,
    /// The start of the gateway that admitted it.
    pub incarnation: Incarnation,
    /// Its number among the incarnation's calls, from 1.
    pub call: u64,
}

/// A text that is no request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a request id")]
pub struct BadRequestId;

// === impl Origin ===

impl Origin {
    /// Both origins, in the order of their index.
    pub const ALL: [Self; 2] = [Self::Organic, Self::Synthetic];

    /// A place in an array of two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Organic => 0,
            Self::Synthetic => 1,
        }
    }
}

// === impl RequestId ===

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tg-{:x}-{:x}-{:x}",
            self.period.start_s(),
            self.incarnation.0,
            self.call
        )
    }
}

impl FromStr for RequestId {
    type Err = BadRequestId;

    fn from_str(text: &str) -> Result<Self, BadRequestId> {
        let mut parts = text
            .strip_prefix("tg-")
            .ok_or(BadRequestId)?
            .split('-')
            .map(|part| {
                let plain = part.len() <= 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
                if plain {
                    u64::from_str_radix(part, 16).map_err(|_| BadRequestId)
                } else {
                    Err(BadRequestId)
                }
            });
        let mut next = || parts.next().unwrap_or(Err(BadRequestId));
        let id = Self {
            period: Period::starting_at(next()?),
            incarnation: Incarnation(next()?),
            call: next()?,
        };
        // One text an id: what does not print back is refused.
        if parts.next().is_none() && id.to_string() == text {
            Ok(id)
        } else {
            Err(BadRequestId)
        }
    }
}
