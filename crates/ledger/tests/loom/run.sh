#!/bin/sh
# Tries every interleaving of what two threads do to a cell, its table and the journal, and
# says in one line what was seen.
set -eu
cd "$(dirname "$0")/../../../.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="${TAUGATE_LOOM_DIR:-target/loom}"
export CARGO_PROFILE_TEST_OPT_LEVEL=3 RUST_BACKTRACE=0
cargo test --locked -q -p taugate-ledger --test loom --no-run
code=0
timeout 300 cargo test --locked -q -p taugate-ledger --test loom >"$out" 2>&1 || code=1
tried=$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 held, \2 broken/p' "$out")
echo "loom: models of a cell's transitions: ${tried:-not run}"
[ -n "$tried" ] || code=1
[ "$code" = 0 ] || cat "$out" >&2
exit "$code"
