//! How a section tells of its fields: once, for reading, writing and describing alike.
//!
//! A section names each field with its place ([`Slot`]) and a sentence. The reader puts
//! there what the file says, the writer prints what stands there. So that a key, its
//! default and its description cannot come apart, there is no second list of them.

use std::collections::BTreeMap;

use toml::Value;

use super::fault::Wrong;

/// What is done with the fields of a section.
pub(super) trait Fields {
    /// One field: its key, what it is for, and its place.
    fn field(&mut self, key: &'static str, about: &'static str, slot: &mut dyn Slot);
}

/// A place that a field's value is put into and taken from.
pub(super) trait Slot {
    /// Puts a value there.
    fn read(&mut self, value: &Value) -> Result<(), Wrong>;

    /// What stands there; `None`: nothing, which is a value of its own.
    fn write(&self) -> Option<Value>;

    /// What could stand there, as the file would say it, for a field that is empty at first.
    fn example(&self) -> String {
        String::new()
    }
}

/// A part of the configuration: one table of the file.
pub(super) trait Section {
    /// Names its fields, in the order in which they are printed.
    fn fields(&mut self, fields: &mut dyn Fields);
}

/// The values of a section by key, to compare with another's.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Values(pub(super) BTreeMap<&'static str, Option<Value>>);

// === impl Values ===

impl Values {
    /// What stands in a section.
    pub(super) fn of(section: &mut dyn Section) -> Self {
        let mut values = Self::default();
        section.fields(&mut values);
        values
    }
}

impl Fields for Values {
    fn field(&mut self, key: &'static str, _: &'static str, slot: &mut dyn Slot) {
        self.0.insert(key, slot.write());
    }
}
