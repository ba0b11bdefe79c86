#!/bin/sh
# Breaks one rule at a time and expects the tests to fail. Works on the tree it stands in,
# which must have no changes; what it broke, it mends.
set -eu
cd "$(dirname "$0")/../../../.."
git diff --quiet || { echo "the tree has changes" >&2; exit 2; }
alive=0
for patch in crates/ledger/tests/mutants/*.patch; do
    git apply "$patch"
    if ! cargo test -q -p taugate-ledger --lib --tests --no-run >/dev/null 2>&1; then
        echo "does not compile: $patch"
        alive=1
    elif TAUGATE_SCHEDULES="${TAUGATE_SCHEDULES:-1000}" \
        timeout 300 cargo test -q -p taugate-ledger --lib --tests >/dev/null 2>&1; then
        echo "alive: $patch"
        alive=1
    else
        echo "killed: $patch"
    fi
    git apply -R "$patch"
done
exit "$alive"
