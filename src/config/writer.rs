//! Prints configurations: the effective one, and the commented file to start from.

use std::fmt::Write as _;

use toml::Value;

use crate::task::TaskKind;

use super::field::{Fields, Section, Slot, Values};
use super::tasks::{TaskSection, kinds, task_of};
use super::{Config, Heading};

/// Comments are no wider than this, characters.
const WIDTH: usize = 88;

/// What stands at the top of the commented file.
const PREAMBLE: &str = "\
# The configuration of a taugate gateway.
#
# Lines such as `#length_s = 3600` show a key with its default; take the # away to change it.
# Lines without # differ from the default: they make this file work at once, on this machine
# only. `taugate gateway --check` prints what is in effect, or what is wrong.
#
# Names end in their unit: _s seconds, _ms milliseconds, _bytes bytes.
";

/// The id of the task in the commented file.
pub(super) const EXAMPLE_TASK: &str = "llama-3-8b";

struct Effective(String);

struct Template {
    text: String,
    defaults: Values,
    kinds: Vec<(&'static str, Values)>,
}

/// The configuration in effect, as a file that means the same.
pub(super) fn effective(config: &Config) -> String {
    let mut config = config.clone();
    let mut effective = Effective(String::new());
    for (heading, section) in config.sections() {
        effective.head(heading.name);
        section.fields(&mut effective);
    }
    for task in config.tasks.iter() {
        effective.head(&task_header(&task.id));
        TaskSection(&mut (**task).clone()).fields(&mut effective);
    }
    effective.0
}

/// The commented file, `config` as it differs from the defaults.
pub(super) fn template(config: &Config) -> String {
    let mut config = config.clone();
    let mut defaults = Config::default();
    let mut text = PREAMBLE.to_owned();
    comment(&mut text, &reloading(&config.sections()));
    for ((heading, section), (_, default)) in config.sections().into_iter().zip(defaults.sections())
    {
        text.push('\n');
        comment(&mut text, heading.about);
        writeln!(text, "[{}]", heading.name).unwrap_or_default();
        let mut template = Template {
            text,
            defaults: Values::of(default),
            kinds: Vec::new(),
        };
        section.fields(&mut template);
        text = template.text;
    }
    example_task(text)
}

/// Which sections need no restart, and what of them does.
fn reloading(sections: &[(Heading, &mut dyn Section)]) -> String {
    let (mut taken, mut kept) = (Vec::new(), Vec::new());
    for (heading, _) in sections {
        let but = heading.but.iter();
        let but = but.map(|field| format!("{}.{field}", heading.name));
        if heading.reloads {
            taken.push(heading.name.to_owned());
            kept.extend(but);
        } else {
            taken.extend(but);
        }
    }
    format!(
        "When this file changes, {} and all tasks are taken over at once; the rest, {} \
         included, needs a restart.",
        taken.join(", "),
        kept.join(", ")
    )
}

fn example_task(mut text: String) -> String {
    text.push('\n');
    comment(&mut text, Heading::TASKS.about);
    writeln!(text, "#[{}]", task_header(EXAMPLE_TASK)).unwrap_or_default();
    let values = |kind| Values::of(&mut TaskSection(&mut task_of(EXAMPLE_TASK.into(), kind)));
    let mut template = Template {
        text,
        defaults: values(TaskKind::Chat),
        kinds: kinds().map(|(word, kind)| (word, values(kind))).collect(),
    };
    let mut task = task_of(EXAMPLE_TASK.into(), TaskKind::Chat);
    TaskSection(&mut task).fields(&mut template);
    template.text
}

/// `tasks.<id>`, quoted where TOML needs it.
fn task_header(id: &str) -> String {
    let bare = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare {
        format!("tasks.{id}")
    } else {
        format!("tasks.{}", Value::String(id.to_owned()))
    }
}

fn comment(text: &mut String, about: &str) {
    let mut line = String::from("#");
    for word in about.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

// === impl Effective ===

impl Effective {
    fn head(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        writeln!(self.0, "[{name}]").unwrap_or_default();
    }
}

impl Fields for Effective {
    fn field(&mut self, key: &'static str, _: &'static str, slot: &mut dyn Slot) {
        match slot.write() {
            Some(value) => writeln!(self.0, "{key} = {value}"),
            None => writeln!(self.0, "# {key} is not set"),
        }
        .unwrap_or_default();
    }
}

// === impl Template ===

impl Template {
    /// What the key is by default for the kinds of task that differ.
    fn other_kinds(&self, key: &str, value: &Value) -> Option<String> {
        let others: Vec<String> = self
            .kinds
            .iter()
            .filter(|_| key != "kind")
            .filter_map(|(kind, values)| {
                let other = values.0.get(key)?.as_ref()?;
                (other != value).then(|| format!("{kind} {other}"))
            })
            .collect();
        (!others.is_empty()).then(|| format!("For other kinds: {}.", others.join(", ")))
    }
}

impl Fields for Template {
    fn field(&mut self, key: &'static str, about: &'static str, slot: &mut dyn Slot) {
        comment(&mut self.text, about);
        let value = slot.write();
        let default = self.defaults.0.get(key).cloned().flatten();
        match value {
            None => comment(
                &mut self.text,
                &format!("For example: {key} = {}", slot.example()),
            ),
            Some(value) if Some(&value) == default.as_ref() => {
                if let Some(others) = self.other_kinds(key, &value) {
                    comment(&mut self.text, &others);
                }
                writeln!(self.text, "#{key} = {value}").unwrap_or_default();
            }
            Some(value) => {
                if let Some(default) = default {
                    comment(&mut self.text, &format!("The default is {default}."));
                }
                writeln!(self.text, "{key} = {value}").unwrap_or_default();
            }
        }
    }
}
