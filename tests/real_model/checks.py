"""Counts and prints checks; every part of the run ends with `finish()`."""

import sys

failures = 0


def check(holds, what, found=""):
    """Prints what a check found."""
    global failures
    failures += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {what}" + (f": {found}" if found != "" else ""), flush=True)


def finish():
    """Ends the program: 1 when a check failed."""
    sys.exit(1 if failures else 0)
