//! One period, added up: cells, leases and counters as they stand, receipts as they sum.

mod calls;
mod seals;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use super::file::Moment;
use super::finding::{Findings, Kind, rows_of};
use super::report::PeriodSum;

use self::calls::Calls;

/// A lease's key within the period: incarnation, cell.
type LeaseKey = (i64, i64);

/// A counter's key within the period: incarnation, cell, origin.
type TallyKey = (i64, i64, usize);

/// The names of origins.
const ORIGINS: [&str; 2] = ["organic", "synthetic"];

/// A row of `cell`.
struct Cell {
    wanted: i64,
    allotment: i64,
    granted: i64,
}

/// A row of `lease`.
struct Lease {
    granted: i64,
    /// By origin.
    posted: [i64; 2],
}

/// A row of `tally`, or what receipts say that it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// By outcome.
    attempts: [i128; 7],
    first_chunk_us: i128,
    duration_us: i128,
    rev: i128,
}

/// A row of `inc_period`.
struct Progressed {
    next_off: i64,
    closed: bool,
}

/// The two sides of a period's books.
struct Books<'a> {
    moment: &'a Moment<'a>,
    period: i64,
    findings: &'a mut Findings,
    cells: BTreeMap<i64, Cell>,
    leases: BTreeMap<LeaseKey, Lease>,
    tallies: BTreeMap<TallyKey, Tally>,
    progressed: BTreeMap<i64, Progressed>,
    /// Units by origin that receipts prove.
    proven: BTreeMap<LeaseKey, [i128; 2]>,
    /// Attempts that receipts count.
    counted: BTreeMap<TallyKey, Tally>,
    sum: PeriodSum,
}

/// Adds a period up and compares its sides. `progress` is told of the receipts read so far.
pub(super) fn add_up(
    moment: &Moment<'_>,
    period: i64,
    findings: &mut Findings,
    progress: impl FnMut(u64),
) -> PeriodSum {
    let mut books = Books {
        moment,
        period,
        findings,
        cells: BTreeMap::new(),
        leases: BTreeMap::new(),
        tallies: BTreeMap::new(),
        progressed: BTreeMap::new(),
        proven: BTreeMap::new(),
        counted: BTreeMap::new(),
        sum: PeriodSum {
            period,
            ..PeriodSum::default()
        },
    };
    books.read_tables();
    if let Err(error) = Calls::default().read(&mut books, progress) {
        books.findings.unreadable("receipt", &error);
    }
    books.compare_cells();
    books.compare_leases();
    books.compare_tallies();
    books.compare_progress();
    books.compare_seals();
    books.sum_up();
    books.sum
}

// === impl Books ===

impl Books<'_> {
    /// Notes a finding with the rows of a table that meet a condition.
    fn find<const N: usize>(
        &mut self,
        kind: Kind,
        says: String,
        (table, condition): (&str, &str),
        keys: [i64; N],
    ) {
        let conn = self.moment.conn();
        let says = format!("period {}: {says}", self.period);
        self.findings.add(kind, says, || {
            let mut all = vec![self.period];
            all.extend(keys);
            rows_of(
                conn,
                table,
                &format!("period = ?1 AND {condition}"),
                rusqlite::params_from_iter(all),
            )
        });
    }

    fn find_lease(&mut self, kind: Kind, says: String, (inc, cell): LeaseKey) {
        let at = ("lease", "inc = ?2 AND cell = ?3");
        self.find(kind, says, at, [inc, cell]);
    }

    /// A cell as it is told.
    fn cell_text(&self, cell: i64) -> String {
        match self.moment.subject(cell) {
            Some(subject) if subject.kind == 0 => format!("cell {cell} ({})", subject.task),
            Some(subject) if subject.kind == 1 => {
                format!("cell {cell} (ceiling of {})", subject.task)
            }
            Some(_) => format!("cell {cell} (a client's)"),
            None => format!("cell {cell}"),
        }
    }

    /// Leases against what cells granted, and that against its bounds.
    fn compare_cells(&mut self) {
        let mut leased: BTreeMap<i64, i128> = BTreeMap::new();
        for ((_, cell), lease) in &self.leases {
            *leased.entry(*cell).or_default() += i128::from(lease.granted);
        }
        for (cell, row) in std::mem::take(&mut self.cells) {
            let by_leases = leased.remove(&cell).unwrap_or(0);
            let text = self.cell_text(cell);
            if by_leases != i128::from(row.granted) {
                let says = format!("{text} granted {}, its leases {by_leases}", row.granted);
                self.find(Kind::Grant, says.clone(), ("cell", "cell = ?2"), [cell]);
            }
            if row.granted < 0 || row.granted > row.allotment {
                let says = format!("{text} granted {} of {}", row.granted, row.allotment);
                self.find(Kind::Bound, says, ("cell", "cell = ?2"), [cell]);
            }
            if row.wanted < 0 || row.wanted > row.allotment {
                let says = format!("{text} wants {} of {}", row.wanted, row.allotment);
                self.find(Kind::Bound, says, ("cell", "cell = ?2"), [cell]);
            }
            if self.moment.subject(cell).is_none() {
                let says = format!("{text} is about nothing");
                self.find(Kind::Orphan, says, ("cell", "cell = ?2"), [cell]);
            }
            self.sum.cells += 1;
            self.sum.allotment += i128::from(row.allotment);
            self.sum.granted += i128::from(row.granted);
        }
        for (cell, by_leases) in leased {
            let says = format!("{by_leases} units of cell {cell} are leased, which is not there");
            self.find(Kind::Orphan, says, ("lease", "cell = ?2"), [cell]);
        }
    }

    /// Receipts against the units of leases, and these against what was granted.
    fn compare_leases(&mut self) {
        let keys: BTreeSet<LeaseKey> = self
            .leases
            .keys()
            .chain(self.proven.keys())
            .copied()
            .collect();
        for key in keys {
            let proven = self.proven.get(&key).copied().unwrap_or_default();
            let text = format!("incarnation {}, {}", key.0, self.cell_text(key.1));
            let Some(lease) = self.leases.get(&key) else {
                let says = format!("{text}: receipts of {proven:?} units, but no lease");
                self.find(Kind::Orphan, says, ("receipt", "inc = ?2"), [key.0]);
                continue;
            };
            let (granted, posted) = (lease.granted, lease.posted);
            for (origin, name) in ORIGINS.into_iter().enumerate() {
                if i128::from(posted[origin]) != proven[origin] {
                    let says = format!(
                        "{text}: {} {name} units, its receipts say {}",
                        posted[origin], proven[origin]
                    );
                    self.find_lease(Kind::Counter, says, key);
                }
            }
            let all = posted.map(i128::from).into_iter().sum::<i128>();
            if posted.into_iter().any(|units| units < 0) || all > i128::from(granted) {
                let says = format!("{text}: {all} units posted of {granted} granted");
                self.find_lease(Kind::Bound, says, key);
            }
            if self.moment.is_live(key.0).is_none() {
                let says = format!("{text}: a lease of an incarnation that never was");
                self.find_lease(Kind::Orphan, says, key);
            }
        }
    }

    /// Attempts of receipts against the counters by outcome.
    fn compare_tallies(&mut self) {
        let keys: BTreeSet<TallyKey> = self
            .tallies
            .keys()
            .chain(self.counted.keys())
            .copied()
            .collect();
        for key in keys {
            let stored = self.tallies.get(&key).cloned().unwrap_or_default();
            let counted = self.counted.get(&key).cloned().unwrap_or_default();
            if stored.is_borne_out_by(&counted) {
                continue;
            }
            let (inc, cell, origin) = key;
            let says = format!(
                "incarnation {inc}, {}, {}: counters say {stored}, receipts {counted}",
                self.cell_text(cell),
                ORIGINS.get(origin).copied().unwrap_or("no origin"),
            );
            let origin = i64::try_from(origin).unwrap_or(i64::MAX);
            let at = ("tally", "inc = ?2 AND cell = ?3 AND origin = ?4");
            self.find(Kind::Tally, says, at, [inc, cell, origin]);
        }
    }

    /// How far incarnations are: each known, and closed where it ended.
    fn compare_progress(&mut self) {
        let incs: BTreeSet<i64> = self
            .leases
            .keys()
            .map(|(inc, _)| *inc)
            .chain(self.progressed.keys().copied())
            .collect();
        for inc in incs {
            let closed = self.progressed.get(&inc).is_some_and(|at| at.closed);
            let says = match self.moment.is_live(inc) {
                None => format!("incarnation {inc} never was"),
                Some(false) if !closed => format!("incarnation {inc} ended with the period open"),
                Some(_) => continue,
            };
            self.find(Kind::Orphan, says, ("inc_period", "inc = ?2"), [inc]);
        }
    }

    fn sum_up(&mut self) {
        let newest = self.moment.newest();
        self.sum.leases = self.leases.len();
        for ((inc, _), lease) in &self.leases {
            let posted = lease.posted.map(i128::from);
            let unspent = i128::from(lease.granted) - posted.into_iter().sum::<i128>();
            let closed = self.progressed.get(inc).is_some_and(|at| at.closed);
            self.sum.organic += posted[0];
            self.sum.synthetic += posted[1];
            // Of an incarnation that died nobody can say what it delivered and did not book.
            if !closed && Some(*inc) != newest {
                self.sum.in_doubt += unspent;
            }
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Whether receipts say the same. One append raises the revision by one, of however many
    /// receipts it is, so that only its bounds are known.
    fn is_borne_out_by(&self, counted: &Self) -> bool {
        let least = i128::from(counted.rev > 0);
        let rev = self.rev;
        (least..=counted.rev).contains(&rev)
            && *self
                == Self {
                    rev,
                    ..counted.clone()
                }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in super::receipt::OUTCOMES.iter().zip(self.attempts) {
            if count != 0 {
                write!(f, "{name} {count} ")?;
            }
        }
        write!(
            f,
            "first chunk {} us, duration {} us, revision {}",
            self.first_chunk_us, self.duration_us, self.rev
        )
    }
}
