"""Reads a store without the gateway and adds it up: `books.py STORE TOLD`.

TOLD holds a line per call with the units that its client was told.
"""

import sqlite3
import sys
from pathlib import Path

from checks import check, finish

store, told = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
books = sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)


def rows(query):
    """What a query finds."""
    return books.execute(query).fetchall()


# Receipts of one call are cumulative: its last one counts.
LAST = "SELECT period, inc, origin, units, max(off) FROM receipt GROUP BY period, inc, call"
receipts = rows(f"SELECT period, inc, sum(units * (origin = 0)), sum(units * (origin = 1)) FROM ({LAST}) "
                "GROUP BY period, inc HAVING sum(units) > 0 ORDER BY period, inc")
leases = rows("SELECT l.period, l.inc, sum(l.organic), sum(l.synthetic) FROM lease AS l "
              "JOIN subject AS s ON s.id = l.cell AND s.kind = 0 "
              "GROUP BY l.period, l.inc HAVING sum(l.organic + l.synthetic) > 0 ORDER BY l.period, l.inc")
check(receipts == leases and receipts != [],
      "sum of receipts = sum of lease counters (period, incarnation, organic, synthetic)",
      f"{receipts} = {leases}")

said = [int(line) for line in told.read_text(encoding="utf-8").split()]
kept = [units for (units,) in rows(f"SELECT units FROM ({LAST})")]
check(sorted(said) == sorted(kept), "every call that a client saw has one receipt, and no other is there",
      f"{len(said)} calls of {sum(said)} units, {len(kept)} receipts of {sum(kept)}")

over = rows("SELECT count(*) FROM lease WHERE organic + synthetic > granted")[0][0]
over += rows("SELECT count(*) FROM cell WHERE granted > allotment")[0][0]
check(over == 0, "no cell and no lease is overspent", over)
gaps = rows("SELECT period, inc, count(*), max(off) + 1 FROM receipt GROUP BY period, inc "
            "HAVING count(*) <> max(off) + 1")
check(gaps == [], "receipts have no gap", gaps)
sound = rows("PRAGMA integrity_check")[0][0]
check(sound == "ok", "the file is sound", sound)
finish()
