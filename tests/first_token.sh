#!/usr/bin/env bash
# How long from a clean clone to the first streamed token of the demo: tests/first_token.sh
#
# Clones this repository's HEAD into a scratch folder, runs the README's first command there
# with an empty target folder, and stops the clock at the first text of an answer. Crates come
# from cargo's cache where they are there already.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
demo=
finish() {
  [ -z "$demo" ] || kill "$demo" 2>/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT

began=$(date +%s)
git clone --quiet . "$scratch/taugate"
cd "$scratch/taugate"
cargo build --locked --quiet
built=$(date +%s)
./target/debug/taugate demo >"$scratch/out" 2>&1 &
demo=$!
deadline=$((built + 30))
# The line after the question is the answer.
until sed -n '/^> /{n;p;}' "$scratch/out" | grep -q .; do
  [ "$(date +%s)" -lt "$deadline" ] || { echo "no token came"; cat "$scratch/out"; exit 1; }
  sleep 0.1
done
now=$(date +%s)
echo "build $((built - began)) s, then first token after $((now - built)) s: $((now - began)) s in all"
