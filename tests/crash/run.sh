#!/usr/bin/env bash
# Kills the gateway under load at random and named moments and holds its books to what clients were told:
#   run.sh          50 kills
#   run.sh full     200, and then M9, which has to fail
#   run.sh COUNT
#   run.sh M9       only a gateway that acknowledges before its commit: it has to fail
# Code 1 when something that was acknowledged is lost, booked twice or minted.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export RUST_BACKTRACE=0

# program NAME DIRECTORY : the gateway with its failpoints, from the tree that is stood in,
# built in that directory; a copy of it is kept.
program() {
    cargo build --locked -q --bin taugate --features failpoints --target-dir "$2"
    cp "$2/debug/taugate" "$scratch/$1"
}

# kill_it PROGRAM COUNT
kill_it() {
    cd "$root"
    # This makes the program as it is anew, without failpoints.
    cargo test --locked -q --test crash --no-run
    TAUGATE_CRASH_PROGRAM="$scratch/$1" TAUGATE_CRASH_ROUNDS="$2" \
        cargo test --locked -q --test crash -- --nocapture >"$scratch/out" 2>&1
}

held() {
    code=0
    program taugate target
    kill_it taugate "$1" || code=1
    line=$(grep '^crash: ' "$scratch/out") || code=1
    if [ "$code" != 0 ]; then
        cat "$scratch/out" >&2
        exit 1
    fi
}

mutant() {
    mkdir "$scratch/tree"
    git ls-files -z --cached --others --exclude-standard |
        tar --null -T - -cf - | tar -xf - -C "$scratch/tree"
    cd "$scratch/tree"
    patch -s -p1 <"$root/tests/crash/M9_final_before_commit.patch"
    # Not beside the program as it is: cargo would take the one for the other.
    program M9 "$root/target/mutants"
    if kill_it M9 50; then
        echo "crash: M9 lives: FAILED"
        exit 1
    fi
    told=$(sed -n 's/^tg-[0-9a-f-]*: \(its receipt is lost\)$/\1/p' "$scratch/out" | head -n 1)
    if [ -z "$told" ]; then
        cat "$scratch/out" >&2
        echo "crash: M9 fails of something else: FAILED"
        exit 1
    fi
}

case "${1:-quick}" in
    quick) held 50 ;;
    full)
        held 200
        mutant
        line="$line; M9 killed"
        ;;
    M9)
        mutant
        line="crash: M9 killed: $told"
        ;;
    *) held "$1" ;;
esac
echo "$line"
