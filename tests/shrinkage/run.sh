#!/usr/bin/env bash
# Checks shrink by what clients do, with the real processes: a gateway with periods of ten
# seconds, simulated miners and recorded traffic. Then plain SQL over the store says whether
# each check was due when it was admitted, and whether each miner showed its target by each
# period's end. Prints a line per check; ends with 1 if one failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

planner="built-in"
# shellcheck source=tests/suite.sh
source tests/suite.sh

read -r public peer admin one two three < <(free_ports 6)
open_gateway "$public" "$peer" "$admin" >"$run/gateway.toml"
# A quarter of each allotment, so that there is much to shrink.
sed -i 's/^mode = "built-in"$/&\ndraws = [[0.5, 0.1, 0.2], [0.5, 0.3, 0.4]]/' "$run/gateway.toml"
cat >>"$run/gateway.toml" <<'TOML'
[period]
length_s = 10
[tasks.tiny]
check_units = 100
TOML
start gateway "$taugate" gateway --config "$run/gateway.toml"
gateway_pid=$started
until_true "the gateway is ready" 30 grep -q ready "$run/gateway.log"

# miner NAME PORT : 14,400 units a period where nobody shares.
miner() {
  start "miner_$1" "$taugate" miner --simulate --task tiny --tokens-per-s 600 --concurrency 16 \
    --units-per-hour 3000000 --key "$run/$1.json" --gateway "http://127.0.0.1:$peer" \
    --listen "127.0.0.1:$2"
}
miner one "$one"
miner two "$two"
miner three "$three"

# Clients come for a while, stay away, and come again.
load() {
  "$taugate" replay --gateway "http://127.0.0.1:$public" --task tiny --minutes 8 --speed 12 \
    --prompt-max 50 --concurrency 32 --deadline-s 20
}
start load load
load_pid=$started
ended "$load_pid"
sleep 12
kill "$gateway_pid"
ended "$gateway_pid"
expect "the gateway drains and ends with 0: $code" [ "$code" = 0 ]
checks python3 tests/shrinkage/books.py "$run/books.db" 100
verdict
