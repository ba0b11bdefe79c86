#!/usr/bin/env bash
# Every patch that breaks a rule still applies to the tree as it is; nothing is changed.
# Code 1, and a line for each that does not.
set -u
cd "$(dirname "$0")/.."
applied=0 lost=0
for patch in crates/ledger/tests/mutants/*.patch tests/crash/*.patch; do
    if patch --dry-run -s -p1 <"$patch" >/dev/null; then
        applied=$((applied + 1))
    else
        echo "$patch does not apply: FAILED"
        lost=$((lost + 1))
    fi
done
echo "patches: $applied apply, $lost do not"
[ "$lost" = 0 ] && [ "$applied" -gt 0 ]
