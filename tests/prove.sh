#!/usr/bin/env bash
# Runs all proofs of the books and says one line each: what was tried, the worst seen, held or broken:
#   prove.sh          about ten minutes on two cores beside the builds, benches included
#   prove.sh quick    about four
# Code 1 when a promise is broken, or when a proof was not run.
set -uo pipefail
cd "$(dirname "$0")/.."

case "${1:-full}" in
    quick | full) size=${1:-full} ;;
    *)
        echo "prove.sh [quick]" >&2
        exit 2
        ;;
esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
broken=0

# by_size QUICK FULL : whichever is asked for.
by_size() { if [ "$size" = quick ]; then echo "$1"; else echo "$2"; fi; }

# tell NAME WORD SECONDS WHAT
tell() {
    printf '%-18s %-8s %4d s  %s\n' "$1" "$2" "$3" "$4"
    [ "$2" = held ] || broken=1
}

# prove NAME SAYS COMMAND... : runs a proof; SAYS makes its line of what it printed.
prove() {
    local name=$1 says=$2 began=$SECONDS code=0 word what
    shift 2
    timeout 1800 "$@" >"$scratch/out" 2>"$scratch/err" || code=$?
    what=$("$says" "$scratch/out")
    case $code in
        0) word=held ;;
        127) word="NOT RUN" ;;
        *) word=BROKEN ;;
    esac
    # Whoever says nothing proved nothing.
    if [ "$word" = held ] && [ -z "$what" ]; then word="NOT RUN"; fi
    tell "$name" "$word" $((SECONDS - began)) "$what"
    if [ "$word" != held ]; then tail -n 40 "$scratch/out" "$scratch/err" >&2; fi
}

# here FUNCTION SAYS : the same of a function of this file; a limit on its time would need a
# shell of its own.
here() {
    local began=$SECONDS code=0 word=held
    "$1" >"$scratch/out" 2>"$scratch/err" || code=$?
    [ "$code" = 0 ] || word=BROKEN
    [ "$code" != 127 ] || word="NOT RUN"
    tell "$1" "$word" $((SECONDS - began)) "$("$2" "$scratch/out")"
    if [ "$word" != held ]; then tail -n 40 "$scratch/out" "$scratch/err" >&2; fi
}

last_line() { tail -n 1 "$1"; }

# One line for all mutants; run.sh fails when one lives or is missing.
mutants_told() {
    local killed
    killed=$(grep -c ': killed by ' "$1")
    echo "$killed rules broken one at a time, each told; not killed or missing: $(grep -c FAILED "$1")"
}

# A million schedules are promised within a minute; building them is not counted.
schedules() {
    crates/ledger/tests/schedules/run.sh 2 >/dev/null || return
    local began=$SECONDS
    crates/ledger/tests/schedules/run.sh "$size" >"$scratch/schedules" || return
    local took=$((SECONDS - began))
    if [ "$size" = full ] && [ "$took" -ge 60 ]; then
        echo "$(cat "$scratch/schedules"), but in $took s where less than 60 are promised"
        return 1
    fi
    echo "$(cat "$scratch/schedules"), in $took s"
}

# What a harness of tests counted; nothing when no test has such a name.
tests_told() {
    awk '/^test result:/ { passed += $4; failed += $6 }
         END { if (passed + failed) print passed " tests held, " failed + 0 " broken" }' "$1"
}

turns_told() { sed -n 's/.*turns: //p' "$1"; }

benches_told() {
    local not_held
    not_held=$(grep '^promise: .*: NOT HELD$' "$1" | sed 's/^promise: //; s/: NOT HELD$//' | paste -sd ';')
    echo "$(grep -c '^promise: .*: held$' "$1") ratios held; not held: ${not_held:-none}"
}

# The benches print what they promise; they do not fail by it, this does.
benches() {
    cargo bench --locked >"$scratch/benches" 2>"$scratch/benches.err" || { cat "$scratch/benches.err" >&2; return 1; }
    grep '^promise: ' "$scratch/benches" || return 127
    ! grep -q '^promise: .*: NOT HELD$' "$scratch/benches"
}

# What the tests of routing hold, and then the four policies at half load, a line each; ours
# is the last.
routing() {
    cargo test --locked --quiet --test routing >"$scratch/routing.tests" 2>&1 || {
        cat "$scratch/routing.tests" >&2
        return 1
    }
    cargo run --release --locked --quiet --example routing_simulation -- 0.5 >"$scratch/routing" || return
    tests_told "$scratch/routing.tests"
    cat "$scratch/routing"
    awk 'END { exit !($3 >= 0.97 && $6 <= 0.2) }' "$scratch/routing"
}

routing_told() {
    awk 'NR == 1 { all = $0; sep = "; " } NR > 3 { all = all sep $1 " Jain " $3 ", first tries failed " $6 " %"; sep = "; " } END { print all }' "$1"
}

prove patches last_line tests/patches.sh
here schedules last_line
prove mutants mutants_told crates/ledger/tests/mutants/run.sh
prove loom last_line crates/ledger/tests/loom/run.sh
prove "plain numbers" tests_told cargo test --locked --quiet -p taugate-ledger --test whole --test books
prove sqlite last_line tests/sqlite_schedules/run.sh "$size"
prove engines tests_told cargo test --locked --quiet --test engine
prove crash last_line tests/crash/run.sh "$size"
prove disk tests_told cargo test --locked --quiet --test store -- disk:: faults:: opening:: processes::
prove audit tests_told cargo test --locked --quiet --test store audit::
prove cancels tests_told env TAUGATE_CHAOS_CALLS="$(by_size 2000 10000)" \
    cargo test --locked --quiet --test it -- n30_ panics::
prove "turn of the period" turns_told env TAUGATE_TURNS="$(by_size 3 20)" TAUGATE_TURNS_EVERY_US=1000 \
    cargo test --locked --quiet --test it -- --nocapture turns::
if [ "$size" = quick ]; then
    prove routing tests_told cargo test --locked --quiet --test routing
else
    here routing routing_told
    here benches benches_told
fi
exit "$broken"
