"""Whether checks shrank by what clients did, by SQL over a store alone:
`books.py STORE CHECK [SLACK_MS]`.

CHECK is the size of one check. Instants that the store does not keep are taken so that no
check is called wrong by mistake: a client's call counts as done half a second (or SLACK_MS,
for who hears of it later) after its attempt's end, and of a check in flight counts what it
brought, not what it held."""

import sqlite3
import struct
import sys

SLACK_MS = int(sys.argv[3]) if len(sys.argv) > 3 else 500


def runs(body):
    """The runs of a receipt's body behind its head of 18 bytes, each after its length."""
    at = 18
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at)
        yield body[at + 4 : at + 4 + length]
        at += 4 + length


def last_attempt(body):
    """(cell, outcome, duration in ms) of the last attempt; none without one."""
    attempts = list(runs(body))[3]
    if not attempts:
        return (None, None, 0)
    cell, outcome, _, _, duration = struct.unpack("<IBQQQ", attempts[-29:])
    return (cell, outcome, duration // 1000)


db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
check = int(sys.argv[2])
db.create_function("admitted_ms", 1, lambda body: struct.unpack_from("<q", body, 2)[0])
db.create_function("cell_of", 1, lambda body: last_attempt(body)[0])
db.create_function("outcome_of", 1, lambda body: last_attempt(body)[1])
db.create_function("took_ms", 1, lambda body: last_attempt(body)[2])
db.execute("PRAGMA temp_store = MEMORY")
db.execute(
    """CREATE TEMP TABLE done AS
    SELECT period, cell_of(body) AS cell, origin, units, admitted_ms(body) AS admitted,
        admitted_ms(body) + took_ms(body) AS ended, outcome_of(body) AS outcome
    FROM receipt WHERE finish <> 0"""
)
db.execute("CREATE INDEX temp.done_cell ON done (period, cell, origin)")
db.execute(
    """CREATE TEMP TABLE target AS
    SELECT p.period, p.cell, c.allotment * p.part / 1000000 AS target
    FROM plan p JOIN cell c USING (period, cell)"""
)
# Without the period in which miners came, and the one in which the gateway stopped.
db.execute(
    """CREATE TEMP TABLE whole AS SELECT DISTINCT period FROM plan
    WHERE period > (SELECT min(period) FROM plan) AND period < (SELECT max(period) FROM plan)"""
)


def one(query, *values):
    return db.execute(query, values).fetchone()


def say(holds, what):
    print("ok  " if holds else "FAIL", what)
    return holds


checks, organic = one("SELECT sum(origin = 1), sum(origin = 0) FROM done")
periods, cells = one("SELECT count(*), (SELECT count(*) FROM target) FROM whole")
fine = say(
    checks > 20 and organic > 50 and periods >= 3,
    f"{checks} checks and {organic} clients' calls in {periods} whole periods, {cells} draws",
)

beyond = one(
    """SELECT count(*), coalesce(max(spent - bound), 0) FROM (
        SELECT (SELECT coalesce(sum(units), 0) FROM done b
                WHERE (b.period, b.cell) = (s.period, s.cell) AND b.origin = 1
                AND b.admitted < s.admitted) AS spent,
            max(t.target - (SELECT coalesce(sum(units), 0) FROM done o
                WHERE (o.period, o.cell) = (s.period, s.cell) AND o.origin = 0
                AND o.ended + ?1 < s.admitted),
            ?2 * NOT EXISTS (SELECT 1 FROM done g
                WHERE (g.period, g.cell) = (s.period, s.cell) AND g.origin = 1
                AND g.outcome = 0 AND g.ended + ?1 < s.admitted)) AS bound
        FROM done s JOIN target t USING (period, cell) WHERE s.origin = 1)
    WHERE spent > bound""",
    SLACK_MS,
    check,
)
fine &= say(beyond[0] == 0, f"each was due when it was admitted: {beyond[0]} were not, by up to {beyond[1]}")

short = db.execute(
    """SELECT t.period, t.cell, target, coalesce(sum(units), 0) AS shown
    FROM target t LEFT JOIN done d USING (period, cell)
    WHERE t.period IN (SELECT period FROM whole)
    GROUP BY t.period, t.cell HAVING shown < target"""
).fetchall()
fine &= say(not short, f"each miner showed its target by its period's end: {short or 'all of them'}")

drawn, by_clients, by_checks = one(
    """SELECT sum(target), sum(min(organic, target)), sum(synthetic) FROM (
        SELECT t.target,
            coalesce(sum(CASE d.origin WHEN 0 THEN units END), 0) AS organic,
            coalesce(sum(CASE d.origin WHEN 1 THEN units END), 0) AS synthetic
        FROM target t LEFT JOIN done d USING (period, cell)
        WHERE t.period IN (SELECT period FROM whole) GROUP BY t.period, t.cell)"""
)
fine &= say(
    0 < by_checks < drawn,
    f"of {drawn} units that were drawn clients did {by_clients}; checks came to {by_checks}",
)
sys.exit(0 if fine else 1)
