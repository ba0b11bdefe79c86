//! What an audit says, for people and for programs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::finding::Finding;

/// A period's sums. Amounts are units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeriodSum {
    /// Its start, Unix seconds.
    pub period: i64,
    /// Cells.
    pub cells: usize,
    /// Leases.
    pub leases: usize,
    /// Receipts, parts included.
    pub receipts: u64,
    /// Calls that have a receipt.
    pub calls: usize,
    /// What all cells may be spent to.
    pub allotment: i128,
    /// What was granted of it.
    pub granted: i128,
    /// Posted for organic work, over all cells that were charged.
    pub organic: i128,
    /// Posted for synthetic work.
    pub synthetic: i128,
    /// Granted to incarnations that died, and not proven.
    pub in_doubt: i128,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// The store's id, hexadecimal.
    pub store_id: String,
    /// Starts of gateways on this store.
    pub incarnations: usize,
    /// Old periods whose rows are being dropped: what is left of them is not audited.
    pub dropping: usize,
    /// The periods that were added up, oldest first.
    pub periods: Vec<PeriodSum>,
    /// What does not add up.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
}

fn lossy<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

// === impl Report ===

impl Report {
    /// Whether everything adds up.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// All receipts that were read.
    #[must_use]
    pub fn receipts(&self) -> u64 {
        self.periods.iter().map(|sum| sum.receipts).sum()
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\nstore {}, {} starts, {} receipts in {} periods",
            self.file.display(),
            self.store_id,
            self.incarnations,
            self.receipts(),
            self.periods.len(),
        )?;
        for sum in &self.periods {
            writeln!(f, "{sum}")?;
        }
        if self.dropping > 0 {
            writeln!(
                f,
                "{} old periods are being dropped and were not added up",
                self.dropping
            )?;
        }
        for finding in &self.findings {
            writeln!(f, "\n{}: {}", finding.kind.name(), finding.says)?;
            for row in &finding.rows {
                writeln!(f, "    {row}")?;
            }
        }
        let all = u64::try_from(self.findings.len())
            .unwrap_or(u64::MAX)
            .saturating_add(self.more_findings);
        match all {
            0 => write!(f, "everything adds up"),
            1 => write!(f, "\n1 thing does not add up"),
            all if self.more_findings > 0 => write!(
                f,
                "\n{all} things do not add up; the first {} are shown",
                self.findings.len()
            ),
            all => write!(f, "\n{all} things do not add up"),
        }
    }
}

impl fmt::Display for PeriodSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "period {}: {} cells, {} leases, {} calls in {} receipts; \
             {} units granted of {}, {} posted organic, {} synthetic, {} in doubt",
            self.period,
            self.cells,
            self.leases,
            self.calls,
            self.receipts,
            self.granted,
            self.allotment,
            self.organic,
            self.synthetic,
            self.in_doubt,
        )
    }
}
