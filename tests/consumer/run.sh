#!/usr/bin/env bash
# The example's consumer beside a real gateway under load: killed a hundred times, over a line
# that doubles and reorders, while the gateway itself is killed once. Its totals must be the
# store's in the end, to the unit. Prints a line per check; ends with 1 if one failed.
#   run.sh          100 kills
#   run.sh COUNT
set -euo pipefail
cd "$(dirname "$0")/../.."

kills=${1:-100}
examples/consumer/generate.sh
python=peers/consumer/bin/python
# shellcheck source=tests/suite.sh
source tests/suite.sh

read -r public peer admin miner < <(free_ports 4)
open_gateway "$public" "$peer" "$admin" >"$run/gateway.toml"
printf '[reports]\nopen = true\n[period]\nlength_s = 10\n' >>"$run/gateway.toml"

# gateway NUMBER : starts it and waits until it is ready.
gateway() {
  start "gateway_$1" "$taugate" gateway --config "$run/gateway.toml"
  gateway_pid=$started
  until_true "gateway $1 is ready" 30 grep -q ready "$run/gateway_$1.log"
}

gateway 1
start miner "$taugate" miner --simulate --task tiny --tokens-per-s 400 --concurrency 64 \
  --units-per-hour 50000000 --key "$run/miner.json" --gateway "http://127.0.0.1:$peer" \
  --listen "127.0.0.1:$miner"

# load : recorded traffic, again and again, until it is told to stop.
load() {
  until [ -e "$run/enough" ]; do
    "$taugate" replay --gateway "http://127.0.0.1:$public" --task tiny --minutes 2 --speed 30 \
      --prompt-max 50 --concurrency 32 --deadline-s 20 || sleep 0.5
  done
}
start load load
load_pid=$started

state="$run/consumption.db"
consumer=(--gateway "127.0.0.1:$peer" --state "$state" --seals "$run/seals" --receipts)
$python tests/consumer/kills.py $((kills / 2)) 1 "${consumer[@]}" >"$run/moved_1" 2>"$run/kills_1.log"
say "ok   killed $((kills / 2)) times, $(cat "$run/moved_1") of them had taken a batch"

kill -9 "$gateway_pid"
ended "$gateway_pid"
gateway 2
$python tests/consumer/kills.py $((kills - kills / 2)) 1000 "${consumer[@]}" >"$run/moved_2" 2>"$run/kills_2.log"
say "ok   killed $((kills - kills / 2)) times more, $(cat "$run/moved_2") of them had taken a batch"
expect "many of them took one" [ $(($(cat "$run/moved_1") + $(cat "$run/moved_2"))) -gt $((kills / 4)) ]

touch "$run/enough"
ended "$load_pid"

# value FILE NAME
value() { $python -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }

# agreed : one more batch, and the consumer has what the store has, all of it sealed.
agreed() {
  $python examples/consumer/consumer.py "${consumer[@]}" --once >"$run/totals" 2>>"$run/once.log" &&
    $python tests/consumer/books.py "$run/books.db" >"$run/books" &&
    [ "$(value "$run/totals" sealed_units)" = "$(value "$run/books" units)" ] &&
    [ "$(value "$run/totals" receipts)" = "$(value "$run/books" receipts)" ]
}
until_true "every period is sealed and told" 90 agreed
printf '     consumer %s\n     store    %s\n' "$(cat "$run/totals")" "$(cat "$run/books")"
units=$(value "$run/books" units)
expect "something was booked, by two starts of the gateway" \
  [ "$units" -gt 0 -a "$(value "$run/books" incarnations)" = 2 ]
expect "the consumer's totals are the store's" [ "$(value "$run/totals" units)" = "$units" ]
expect "so are the sums of its receipts" [ "$(value "$run/totals" receipt_units)" = "$units" ]
expect "so are the sums of the store's receipts" [ "$(value "$run/books" receipt_units)" = "$units" ]
expect "so are the seals" [ "$(value "$run/totals" sealed_units)" = "$units" ]

# seals : each is checked without the gateway; a flipped byte is told.
seals() {
  local seal
  for seal in "$run"/seals/*.seal; do
    "$taugate" key verify-seal "$seal" >"$run/seal" || return 1
  done
  grep -q '^holds$' "$run/seal"
}
kill "$gateway_pid"
ended "$gateway_pid"
expect "the gateway drains and ends with 0: $code" [ "$code" = 0 ]
expect "$(find "$run/seals" -name '*.seal' | wc -l) seals hold by themselves" seals
first=$(find "$run/seals" -name '*.seal' | head -n 1)
$python - "$first" "$run/forged.seal" <<'FORGE'
import sys

seal = bytearray(open(sys.argv[1], "rb").read())
seal[len(seal) // 3] ^= 1
open(sys.argv[2], "wb").write(seal)
FORGE
forged() { ! "$taugate" key verify-seal "$run/forged.seal" >"$run/forged" 2>&1; }
expect "a forged one does not: $(forged || true; tail -n 1 "$run/forged")" forged

verdict
