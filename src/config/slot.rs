//! Places for the kinds of values that fields have.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::units::Units;
use toml::Value;

use super::fault::Wrong;
use super::field::Slot;

/// A whole number.
pub(super) struct Whole<'a, T>(pub(super) &'a mut T, pub(super) RangeInclusive<u64>);

/// A whole number, or none.
pub(super) struct MaybeWhole<'a, T>(
    pub(super) &'a mut Option<T>,
    pub(super) RangeInclusive<u64>,
    pub(super) &'static str,
);

/// A duration in whole seconds.
pub(super) struct Seconds<'a>(pub(super) &'a mut Duration, pub(super) RangeInclusive<u64>);

/// A duration in whole milliseconds.
pub(super) struct Millis<'a>(pub(super) &'a mut Duration, pub(super) RangeInclusive<u64>);

/// A number that need not be whole.
pub(super) struct Decimal<'a>(pub(super) &'a mut f64, pub(super) RangeInclusive<f64>);

/// A number that need not be whole, or none.
pub(super) struct MaybeDecimal<'a>(
    pub(super) &'a mut Option<f64>,
    pub(super) RangeInclusive<f64>,
    pub(super) &'static str,
);

/// Yes, no, or neither.
pub(super) struct MaybeFlag<'a>(pub(super) &'a mut Option<bool>);

/// Yes or no.
pub(super) struct Flag<'a>(pub(super) &'a mut bool);

/// A text of bounded length that is not empty.
pub(super) struct Text<'a>(pub(super) &'a mut Arc<str>);

/// Texts.
pub(super) struct Texts<'a>(pub(super) &'a mut Vec<String>, pub(super) usize);

/// One of a few words.
pub(super) struct Word<'a, T: 'static>(
    pub(super) &'a mut T,
    pub(super) &'static [(&'static str, T)],
);

/// One of a few words, or none.
pub(super) struct MaybeWord<'a, T: 'static>(
    pub(super) &'a mut Option<T>,
    pub(super) &'static [(&'static str, T)],
    pub(super) &'static str,
);

/// An address to listen on.
pub(super) struct Address<'a>(pub(super) &'a mut SocketAddr);

/// A file.
pub(super) struct File<'a>(pub(super) &'a mut PathBuf);

/// A file, or none.
pub(super) struct MaybeFile<'a>(pub(super) &'a mut Option<PathBuf>, pub(super) &'static str);

/// Numbers that a [`Whole`] holds.
pub(super) trait Number: Copy {
    /// The number, where it fits.
    fn from_u64(number: u64) -> Option<Self>;
    /// The number as the file holds it.
    fn to_u64(self) -> u64;
}

/// The longest text of a field, bytes: names, not stories.
const TEXT_BYTES_MAX: usize = 256;

// === impl Whole ===

impl<T: Number> Slot for Whole<'_, T> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = whole(value, &self.1, "")?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(integer(self.0.to_u64()))
    }
}

impl<T: Number> Slot for MaybeWhole<'_, T> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = Some(whole(value, &self.1, "")?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.0.map(|number| integer(number.to_u64()))
    }

    fn example(&self) -> String {
        self.2.to_owned()
    }
}

// === impl Seconds ===

impl Slot for Seconds<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = Duration::from_secs(whole(value, &self.1, " (seconds)")?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(integer(self.0.as_secs()))
    }
}

// === impl Millis ===

impl Slot for Millis<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = Duration::from_millis(whole(value, &self.1, " (milliseconds)")?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        Some(integer(millis))
    }
}

// === impl Decimal ===

impl Slot for Decimal<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = decimal(value, &self.1)?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Float(*self.0))
    }
}

impl Slot for MaybeDecimal<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = Some(decimal(value, &self.1)?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.0.map(Value::Float)
    }

    fn example(&self) -> String {
        self.2.to_owned()
    }
}

// === impl Flag ===

impl Slot for Flag<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = value
            .as_bool()
            .ok_or_else(|| Wrong::value(value, "true or false"))?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Boolean(*self.0))
    }
}

// === impl MaybeFlag ===

impl Slot for MaybeFlag<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        let flag = value.as_bool();
        *self.0 = Some(flag.ok_or_else(|| Wrong::value(value, "true or false"))?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.0.map(Value::Boolean)
    }

    fn example(&self) -> String {
        "false".to_owned()
    }
}

// === impl Text ===

impl Slot for Text<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = text(value)?.into();
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.0.to_string()))
    }
}

// === impl Texts ===

impl Slot for Texts<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        let list = value
            .as_array()
            .ok_or_else(|| Wrong::value(value, "a list of texts"))?;
        if list.len() > self.1 {
            return Err(Wrong::TooMany {
                found: list.len(),
                most: self.1,
            });
        }
        *self.0 = list
            .iter()
            .map(|entry| text(entry).map(str::to_owned))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Array(
            self.0.iter().cloned().map(Value::String).collect(),
        ))
    }
}

// === impl Word ===

impl<T: Copy + PartialEq> Slot for Word<'_, T> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = word(value, self.1)?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        written(*self.0, self.1)
    }
}

impl<T: Copy + PartialEq> Slot for MaybeWord<'_, T> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = Some(word(value, self.1)?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.0.and_then(|meant| written(meant, self.1))
    }

    fn example(&self) -> String {
        self.2.to_owned()
    }
}

// === impl Address ===

impl Slot for Address<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = value
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                Wrong::value(value, "an address and a port, such as \"127.0.0.1:50051\"")
            })?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.0.to_string()))
    }
}

// === impl File ===

impl Slot for File<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = file(value)?;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.0.to_string_lossy().into_owned()))
    }
}

impl Slot for MaybeFile<'_> {
    fn read(&mut self, value: &Value) -> Result<(), Wrong> {
        *self.0 = Some(file(value)?);
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.0
            .as_ref()
            .map(|path| Value::String(path.to_string_lossy().into_owned()))
    }

    fn example(&self) -> String {
        quoted(self.1)
    }
}

// === impl Number ===

impl Number for u32 {
    fn from_u64(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
    fn to_u64(self) -> u64 {
        self.into()
    }
}

impl Number for u64 {
    fn from_u64(number: u64) -> Option<Self> {
        Some(number)
    }
    fn to_u64(self) -> u64 {
        self
    }
}

impl Number for usize {
    fn from_u64(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
    fn to_u64(self) -> u64 {
        u64::try_from(self).unwrap_or(u64::MAX)
    }
}

impl Number for Units {
    fn from_u64(number: u64) -> Option<Self> {
        Some(Self::new(number))
    }
    fn to_u64(self) -> u64 {
        self.get()
    }
}

// The pieces.

fn whole<T: Number>(value: &Value, range: &RangeInclusive<u64>, unit: &str) -> Result<T, Wrong> {
    value
        .as_integer()
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| range.contains(number))
        .and_then(T::from_u64)
        .ok_or_else(|| Wrong::value(value, whole_right(range, unit)))
}

fn whole_right(range: &RangeInclusive<u64>, unit: &str) -> String {
    let (least, most) = (range.start(), range.end());
    if *most >= Units::MAX.get() {
        format!("a whole number from {least} up{unit}")
    } else {
        format!("a whole number from {least} to {most}{unit}")
    }
}

fn integer(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn decimal(value: &Value, range: &RangeInclusive<f64>) -> Result<f64, Wrong> {
    number(value)
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            Wrong::value(
                value,
                format!("a number from {} to {}", range.start(), range.end()),
            )
        })
}

/// What one of a few words means.
fn word<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, Wrong> {
    let found = value
        .as_str()
        .and_then(|found| words.iter().find(|(word, _)| *word == found));
    found.map(|(_, meant)| *meant).ok_or_else(|| {
        let words: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
        Wrong::value(value, format!("one of {}", words.join(", ")))
    })
}

/// The word for what is meant.
fn written<T: PartialEq>(meant: T, words: &[(&str, T)]) -> Option<Value> {
    let found = words.iter().find(|(_, one)| *one == meant);
    found.map(|(word, _)| Value::String((*word).to_owned()))
}

/// A number of either kind that TOML has.
#[expect(
    clippy::cast_precision_loss,
    reason = "fields that are no whole numbers are small"
)]
pub(super) fn number(value: &Value) -> Option<f64> {
    value
        .as_float()
        .or_else(|| value.as_integer().map(|whole| whole as f64))
}

fn text(value: &Value) -> Result<&str, Wrong> {
    value
        .as_str()
        .filter(|text| !text.trim().is_empty() && text.len() <= TEXT_BYTES_MAX)
        .filter(|text| !text.chars().any(char::is_control))
        .ok_or_else(|| {
            Wrong::value(
                value,
                format!("a text of 1 to {TEXT_BYTES_MAX} bytes on one line"),
            )
        })
}

fn file(value: &Value) -> Result<PathBuf, Wrong> {
    value
        .as_str()
        .filter(|text| !text.is_empty() && !text.contains('\0'))
        .map(PathBuf::from)
        .ok_or_else(|| Wrong::value(value, "the path of a file"))
}

fn quoted(word: impl Display) -> String {
    format!("\"{word}\"")
}
