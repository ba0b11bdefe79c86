"""What the store has, by plain SQL: `books.py STORE` prints units by leases, by receipts, and
how many calls there are, as JSON."""

import json
import sqlite3
import sys

db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)


def one(query):
    return db.execute(query).fetchone()[0]


last = "SELECT max(off), units FROM receipt GROUP BY period, inc, call"
print(
    json.dumps(
        {
            "units": one(
                "SELECT coalesce(sum(organic + synthetic), 0) FROM lease "
                "JOIN subject ON subject.id = lease.cell AND subject.kind = 0"
            ),
            "receipt_units": one(f"SELECT coalesce(sum(units), 0) FROM ({last})"),
            "receipts": one(f"SELECT count(*) FROM ({last})"),
            "incarnations": one("SELECT count(DISTINCT inc) FROM receipt"),
        }
    )
)
