#!/bin/sh
# Tries many schedules in an optimised build and says in one line what was seen:
#   run.sh          200,000
#   run.sh full     1,000,000
#   run.sh COUNT
# Code 1 when a promise does not hold.
set -eu
cd "$(dirname "$0")/../../../.."
case "${1:-quick}" in
    quick) count=200000 ;;
    full) count=1000000 ;;
    *) count=$1 ;;
esac
out=$(mktemp)
trap 'rm -f "$out"' EXIT
export CARGO_PROFILE_TEST_OPT_LEVEL=3 CARGO_TARGET_DIR="${TAUGATE_PROOF_DIR:-target/proof}"
cargo test --locked -q -p taugate-ledger --test schedules --no-run
code=0
TAUGATE_SCHEDULES="$count" cargo test --locked -q -p taugate-ledger --test schedules \
    no_schedule_of_faults_breaks_a_promise >"$out" 2>&1 || code=1
grep '^schedules: ' "$out" || code=1
[ "$code" = 0 ] || cat "$out" >&2
exit "$code"
