#!/bin/sh
# Tries the ledger's schedules of faults over SQLite and says in one line what was seen:
#   run.sh          2,000
#   run.sh full     20,000
#   run.sh COUNT
# Code 1 when a promise does not hold, or SQLite and the reference engine differ.
set -eu
cd "$(dirname "$0")/../.."
case "${1:-quick}" in
    quick) count=2000 ;;
    full) count=20000 ;;
    *) count=$1 ;;
esac
out=$(mktemp)
trap 'rm -f "$out"' EXIT
cargo test --locked -q --test sqlite_schedules --no-run
code=0
TAUGATE_SCHEDULES="$count" cargo test --locked -q --test sqlite_schedules >"$out" 2>&1 || code=1
grep '^sqlite schedules: ' "$out" || code=1
[ "$code" = 0 ] || cat "$out" >&2
exit "$code"
