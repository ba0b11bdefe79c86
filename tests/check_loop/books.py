"""Who sent the checks and who judged them, by SQL over a store alone:
`books.py STORE KEY KILLED_MS SUBMITTED`: the public id of the loop's key, when the loop was
killed, and how many findings both its lives handed in at least."""

import sqlite3
import struct
import sys

db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
key, killed_ms, submitted = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def client(body):
    """The first run of a receipt's body, behind its head of 18 bytes."""
    (length,) = struct.unpack_from("<I", body, 18)
    return body[22 : 22 + length].decode()


db.create_function("client", 1, client)
db.create_function("admitted_ms", 1, lambda body: struct.unpack_from("<q", body, 2)[0])
fine = True


def say(holds, what):
    global fine
    fine &= bool(holds)
    print("ok  " if holds else "FAIL", what)


def one(query, *values):
    return db.execute(query, values).fetchone()


synthetic, others = one(
    "SELECT count(*), sum(client(body) <> ?) FROM receipt WHERE origin = 1 AND finish <> 0", key
)
say(synthetic and not others, f"all of {synthetic} checks came by the loop's key, {others} did not")
(wrong,) = one("SELECT count(*) FROM receipt WHERE origin = 0 AND client(body) = ?", key)
say(not wrong, "and nothing else did")

(period,) = one(
    "SELECT max(period) FROM receipt WHERE origin = 1 AND admitted_ms(body) < ?", killed_ms
)
before, after = one(
    """SELECT sum(admitted_ms(body) < ?1), sum(admitted_ms(body) >= ?1)
    FROM receipt WHERE origin = 1 AND finish <> 0 AND period = ?2""",
    killed_ms,
    period,
)
say(before and after, f"the period of the kill has {before} checks before it and {after} after")

whole, judged, strange = one(
    """SELECT count(*), count(f.call), sum(f.call IS NOT NULL AND r.origin <> 1) FROM receipt r
    LEFT JOIN finding f ON (f.period, f.inc, f.call) = (r.period, r.inc, r.call)
        AND f.checker = 'check_loop'
    WHERE r.finish <> 0 AND (r.origin = 1 OR f.call IS NOT NULL)"""
)
say(
    judged >= submitted > 0 and not strange,
    f"{judged} findings stand for {whole} checks; {submitted} were told as kept",
)
say(judged >= 0.8 * whole, "nearly each check was judged")
(low,) = one("SELECT count(*) FROM finding WHERE checker = 'check_loop' AND quality < 1000000")
say(low <= 0.05 * judged, f"{low} found fault with miners that are fine")
sys.exit(0 if fine else 1)
