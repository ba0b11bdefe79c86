//! `[gateway]`: who this gateway is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use toml::Value;

use super::fault::Wrong;
use super::field::{Fields, Section, Slot};
use super::slot::{MaybeFile, MaybeWhole, Text, number};

/// No network of that name exists, so nothing signed in development counts elsewhere.
const NETWORK: &str = "development";

/// More shards than any machine has cores is a slip of the keyboard.
const SHARDS_MAX: u64 = 1024;

/// Decimals of a share that count: a millionth of a miner is below any unit.
const SHARE_OF_MAX: u64 = 1_000_000_000;

/// Who this gateway is.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// The network's name; it is part of what miners and validators sign.
    pub network: Arc<str>,
    /// The file with the validator's hotkey; `None`: a development hotkey.
    pub hotkey_file: Option<PathBuf>,
    /// The part of every miner that belongs to this validator; `None`: its part of all
    /// validators' stake where there is a metagraph, else all of it.
    pub share: Option<Share>,
    /// How many shards serve; `None`: one per core.
    pub shards: Option<usize>,
}

/// A part of a whole, above 0 and at most 1, exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    parts: u64,
    of: u64,
}

/// A text that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a share, such as 1/3 or 0.25")]
pub struct BadShare;

struct ShareSlot<'a>(&'a mut Option<Share>);

// === impl Gateway ===

impl Default for Gateway {
    fn default() -> Self {
        Self {
            network: NETWORK.into(),
            hotkey_file: None,
            share: None,
            shards: None,
        }
    }
}

impl Section for Gateway {
    fn fields(&mut self, fields: &mut dyn Fields) {
        fields.field(
            "network",
            "The network's name. It is part of what miners sign: both sides must name the same.",
            &mut Text(&mut self.network),
        );
        fields.field(
            "hotkey_file",
            "The file with this validator's hotkey. Without it a development hotkey is used, \
             on loopback only.",
            &mut MaybeFile(&mut self.hotkey_file, "/etc/taugate/hotkey"),
        );
        fields.field(
            "share",
            "The part of every miner that belongs to this validator: a ratio (\"1/3\") or a \
             number (0.25). An allotment is floor(min(declared, cap) x share). Not set: this \
             validator's part of all validators' stake where registry.metagraph is set, else \
             all of it.",
            &mut ShareSlot(&mut self.share),
        );
        fields.field(
            "shards",
            "How many threads serve connections. Not set: one per core.",
            &mut MaybeWhole(&mut self.shards, 1..=SHARDS_MAX, "4"),
        );
    }
}

// === impl Share ===

impl Share {
    /// `parts` of `of`, in lowest terms; `None` unless above 0 and at most 1.
    #[must_use]
    pub fn new(parts: u64, of: u64) -> Option<Self> {
        if parts == 0 || parts > of {
            return None;
        }
        let common = common_divisor(parts, of);
        Some(Self {
            parts: parts / common,
            of: of / common,
        })
    }

    /// How many parts.
    #[must_use]
    pub const fn parts(self) -> u64 {
        self.parts
    }

    /// Of how many.
    #[must_use]
    pub const fn of(self) -> u64 {
        self.of
    }

    /// The share as a number.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "both numbers are below 2^53 as this room reads them"
    )]
    pub fn as_f64(self) -> f64 {
        self.parts as f64 / self.of as f64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.parts, self.of)
    }
}

impl FromStr for Share {
    type Err = BadShare;

    /// Reads `1/3` or `0.25`, both exactly.
    fn from_str(text: &str) -> Result<Self, BadShare> {
        let (parts, of) = match text.split_once('/') {
            Some((parts, of)) => (natural(parts)?, natural(of)?),
            None => decimal(text)?,
        };
        if of > SHARE_OF_MAX {
            return Err(BadShare);
        }
        Self::new(parts, of).ok_or(BadShare)
    }
}

/// Greatest common divisor of two numbers above 0.
const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn natural(text: &str) -> Result<u64, BadShare> {
    text.trim().parse().map_err(|_| BadShare)
}

/// `0.25` as (25, 100).
fn decimal(text: &str) -> Result<(u64, u64), BadShare> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = u32::try_from(fraction.len()).map_err(|_| BadShare)?;
    let of = 10_u64.checked_pow(digits).ok_or(BadShare)?;
    let whole = natural(whole)?.checked_mul(of).ok_or(BadShare)?;
    let fraction = if fraction.is_empty() {
        0
    } else {
        natural(fraction)?
    };
    let parts = whole.checked_add(fraction).ok_or(BadShare)?;
    Ok((parts, of))
}

// === impl ShareSlot ===

impl Slot for ShareSlot<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        let text = match value.as_str() {
            Some(text) => Some(text.to_owned()),
            // A number prints as the shortest decimal that means it.
            None => number(value).map(|number| number.to_string()),
        };
        let share = text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            Wrong::value(
                value,
                "above 0 and at most 1, as a ratio (\"1/3\") or a number (0.25) of at most 9 \
                 decimals",
            )
        })?;
        *self.0 = Some(share);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.0.map(|share| Value::String(share.to_string()))
    }

    fn example(&self) -> String {
        "\"1/3\"".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_and_in_lowest_terms() {
        let share = |text: &str| {
            text.parse::<Share>()
                .map(|share| (share.parts(), share.of()))
        };
        assert_eq!(share("1/3"), Ok((1, 3)));
        assert_eq!(share("2/6"), Ok((1, 3)));
        assert_eq!(share("0.25"), Ok((1, 4)));
        assert_eq!(share("1"), Ok((1, 1)));
        assert_eq!(share("0.1"), Ok((1, 10)));
        for bad in [
            "0",
            "1.5",
            "4/3",
            "1/0",
            "-1",
            "",
            "a",
            "1/3/5",
            "0.00000000001",
            "1e-3",
        ] {
            assert_eq!(share(bad), Err(BadShare), "{bad}");
        }
    }
}
