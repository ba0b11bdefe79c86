"""Starts the scrambled consumer and kills it at a random moment, so often:
`kills.py TIMES SEED [the consumer's arguments]`. Says how many of them had taken a batch."""

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path


def cursor(state):
    if not Path(state).exists():
        return b""
    db = sqlite3.connect(state, timeout=10)
    try:
        row = db.execute("SELECT cursor FROM place").fetchone()
    except sqlite3.OperationalError:
        # It was killed before it made its tables.
        row = None
    finally:
        db.close()
    return row[0] if row else b""


def main():
    times, seed, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    dice, state = random.Random(seed), arguments[arguments.index("--state") + 1]
    moved, before = 0, cursor(state)
    for number in range(times):
        script = Path(__file__).with_name("scrambled.py")
        started = subprocess.Popen([sys.executable, script, str(seed + number), *arguments])
        # Some die while they start, some between two batches, some in one.
        time.sleep(dice.uniform(0.1, 1.0))
        started.kill()
        started.wait()
        now = cursor(state)
        moved += now != before
        before = now
    print(moved)


main()
