//! The side of the books that stands in tables: cells, leases, counters.

use rusqlite::Row;

use super::{Books, Cell, Lease, Progressed, Tally};
use crate::audit::crc;
use crate::audit::finding::Kind;

// === impl Books ===

impl Books<'_> {
    /// Reads the period's rows but for its receipts.
    pub(super) fn read_tables(&mut self) {
        let read = [
            ("cell", self.read_cells()),
            ("lease", self.read_leases()),
            ("tally", self.read_tallies()),
            ("inc_period", self.read_progress()),
        ];
        for (table, result) in read {
            if let Err(error) = result {
                self.findings.unreadable(table, &error);
            }
        }
    }

    fn read_cells(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT period, cell, wanted, allotment, granted, crc FROM cell
                   WHERE period = ?1";
        for [period, cell, wanted, allotment, granted, crc] in self.rows(sql)? {
            if crc::of_numbers(&[period, cell, wanted, allotment, granted]) != crc {
                let says = format!("{} has a wrong checksum", self.cell_text(cell));
                self.find(Kind::Checksum, says, ("cell", "cell = ?2"), [cell]);
            }
            let row = Cell {
                wanted,
                allotment,
                granted,
            };
            self.cells.insert(cell, row);
        }
        Ok(())
    }

    fn read_leases(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT period, inc, cell, seq, granted, organic, synthetic, crc FROM lease
                   WHERE period = ?1";
        for row in self.rows::<8>(sql)? {
            let [period, inc, cell, seq, granted, organic, synthetic, crc] = row;
            if crc::of_numbers(&[period, inc, cell, seq, granted, organic, synthetic]) != crc {
                let text = self.cell_text(cell);
                let says = format!("incarnation {inc}'s lease of {text} has a wrong checksum");
                self.find_lease(Kind::Checksum, says, (inc, cell));
            }
            let posted = [organic, synthetic];
            self.leases.insert((inc, cell), Lease { granted, posted });
        }
        Ok(())
    }

    fn read_tallies(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT inc, cell, origin, good, busy, refused, cancelled, lost, stalled,
                       protocol, first_chunk_us, duration_us, rev
                   FROM tally WHERE period = ?1";
        for row in self.rows::<13>(sql)? {
            let [inc, cell, origin, rest @ ..] = row;
            let mut tally = Tally::default();
            let [attempts @ .., first_chunk_us, duration_us, rev] = rest.map(i128::from);
            tally.attempts = attempts;
            (tally.first_chunk_us, tally.duration_us) = (first_chunk_us, duration_us);
            tally.rev = rev;
            // An origin that there is not stands beside the two: no receipt has it.
            let origin = usize::try_from(origin).unwrap_or(usize::MAX);
            self.tallies.insert((inc, cell, origin), tally);
        }
        Ok(())
    }

    fn read_progress(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT inc, next_off, closed FROM inc_period WHERE period = ?1";
        for [inc, next_off, closed] in self.rows(sql)? {
            let closed = closed != 0;
            self.progressed.insert(inc, Progressed { next_off, closed });
        }
        Ok(())
    }

    /// Rows of whole numbers of the period.
    fn rows<const N: usize>(&self, sql: &str) -> rusqlite::Result<Vec<[i64; N]>> {
        self.moment
            .conn()
            .prepare_cached(sql)?
            .query_map([self.period], numbers)?
            .collect()
    }
}

fn numbers<const N: usize>(row: &Row<'_>) -> rusqlite::Result<[i64; N]> {
    let mut numbers = [0; N];
    for (column, number) in numbers.iter_mut().enumerate() {
        *number = row.get(column)?;
    }
    Ok(numbers)
}
