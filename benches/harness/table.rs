//! A small harness: samples taken in turn, told as median and spread.
//!
//! Machines are shared and drift. What is compared is measured in turn within one run, and
//! the ratio is taken pair by pair.

use std::io::Write as _;

/// Samples of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

// === impl Samples ===

impl Samples {
    /// One more.
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The middle one; NaN where there is none.
    #[must_use]
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// These over others, pair by pair.
    #[must_use]
    pub(crate) fn over(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(a, b)| a / b).collect())
    }

    /// `median (least to most)`.
    #[must_use]
    pub(crate) fn told(&self, digits: usize) -> String {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(least), Some(most)) => {
                let median = self.median();
                format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
            }
            _ => "-".to_owned(),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// Prints a table: the first row is its head. The first column is set left, the others right.
pub(crate) fn print(title: &str, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = format!("\n{title}\n");
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text.push_str(&if at == 0 {
                format!("{cell:width$}")
            } else {
                format!("  {cell:>width$}")
            });
        }
        text.push('\n');
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .expect("standard output");
}

/// A row of a table.
#[must_use]
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}
