#!/usr/bin/env bash
# The example's check loop beside a gateway that leaves checks to it (periods of ten seconds,
# two simulated miners, clients for a part): killed and started again in mid-period. Then plain
# SQL over the store says who sent what, whether it was due, and what was found. Prints a line
# per check; ends with 1 if one failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

examples/check_loop/generate.sh
python=peers/consumer/bin/python
planner=external
# shellcheck source=tests/suite.sh
source tests/suite.sh

read -r public peer admin one two < <(free_ports 5)
open_gateway "$public" "$peer" "$admin" >"$run/gateway.toml"
sed -i 's/^mode = "external"$/&\ndraws = [[0.5, 0.2, 0.3], [0.5, 0.5, 0.7]]/' "$run/gateway.toml"
cat >>"$run/gateway.toml" <<'TOML'
[reports]
open = true
[period]
length_s = 10
[tasks.tiny]
check_units = 100
TOML
start gateway "$taugate" gateway --config "$run/gateway.toml"
gateway_pid=$started
until_true "the gateway is ready" 30 grep -q ready "$run/gateway.log"

# miner NAME PORT SEED : with other seeds, other answers.
miner() {
  start "miner_$1" "$taugate" miner --simulate --task tiny --tokens-per-s 600 --concurrency 16 \
    --units-per-hour 3000000 --key "$run/$1.json" --gateway "http://127.0.0.1:$peer" \
    --listen "127.0.0.1:$2" --seed "$3"
}
miner one "$one" 1
miner two "$two" 2

# judged : what is wrong with an answer is seen, and nothing where nothing is.
judged() {
  PYTHONPATH=examples/check_loop $python - <<'JUDGED'
from check_loop import fault

fine = "Begin with the keel, since all else hangs on it; then look at the planks, one by one."
known = set()
assert fault(fine, 50, known) is None
assert fault(fine, 50, known) == "the answer to another question"
assert fault("Yes.", 50, known) is None and fault("Yes.", 50, known) is None
assert fault(" \n", 50, known) == "empty"
assert fault("\x00\x01\x02abc" * 20, 500, known) == "garbled"
assert fault("la " * 50, 500, known) == "one thing again and again"
assert fault(fine[1:] * 3, 10, known) == "far longer than asked for"
JUDGED
}
expect "answers are judged" judged

loop=($python examples/check_loop/check_loop.py --gateway "127.0.0.1:$peer"
  --door "127.0.0.1:$public" --units 100)
# refused KEY WORDS : the loop ends by itself with these words.
refused() {
  TAUGATE_KEY=$1 timeout 30 "${loop[@]}" >"$run/refused" 2>&1 && return 1
  grep -q "$2" "$run/refused"
}
expect "without a key it says so" refused "" "TAUGATE_KEY must hold"
# key NAME OPTION... : makes a key.
key() { "$taugate" key create --config "$run/gateway.toml" "$@" 2>>"$run/keys.log"; }
TAUGATE_KEY=$(key checks --check)
export TAUGATE_KEY
plain=$(key plain)
# A running gateway knows a new key soon; until then it is told as none.
until_true "a key without the right is told" 60 refused "$plain" "may not send checks: .*not allowed"
start loop_1 "${loop[@]}"
loop_pid=$started

# Clients ask without the loop's key.
load() {
  env -u TAUGATE_KEY "$taugate" replay --gateway "http://127.0.0.1:$public" --task tiny \
    --minutes 4 --speed 6 --prompt-max 50 --concurrency 32 --deadline-s 20
}
start load load
load_pid=$started

# sent LEAST : so many checks were booked.
sent() {
  $python - "$run/books.db" "$1" <<'SENT'
import sqlite3, sys, time
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
here = int(time.time()) // 10 * 10
(count,) = db.execute("SELECT count(*) FROM receipt WHERE origin = 1 AND period = ?", (here,)).fetchone()
sys.exit(not (count >= int(sys.argv[2]) and 2 < time.time() - here < 6))
SENT
}
until_true "checks are sent" 30 sent 4
sleep 10
until_true "it is the middle of a period" 30 sent 4
kill -9 "$loop_pid"
killed_ms=$(date +%s%3N)
ended "$loop_pid"
start loop_2 "${loop[@]}"
loop_pid=$started
ended "$load_pid"
sleep 12
kill -INT "$loop_pid"
ended "$loop_pid"
expect "it ends with 0 when it is told to: $code" [ "$code" = 0 ]
expect "without complaints" [ "$(grep -c Traceback "$run/loop_2.log")" = 0 ]
printf '     %s\n' "$(tail -n 1 "$run/loop_2.log")"
kill "$gateway_pid"
ended "$gateway_pid"
expect "the gateway drains and ends with 0: $code" [ "$code" = 0 ]

# told NUMBER : the findings that a life of the loop last told of.
told() { grep -o '[0-9]* findings' "$run/loop_$1.log" | tail -n 1 | cut -d ' ' -f 1; }
public_id=$(cut -d _ -f 3 <<<"$TAUGATE_KEY")
checks $python tests/check_loop/books.py "$run/books.db" "$public_id" "$killed_ms" \
  $(($(told 1) + $(told 2)))
# The loop hears of clients' work about once a second, later on a busy machine.
checks $python tests/shrinkage/books.py "$run/books.db" 100 2500
adds_up() { "$taugate" audit "$run/books.db" >"$run/audit" 2>&1; }
expect "the audit finds nothing: $(adds_up || true; tail -n 1 "$run/audit")" adds_up
verdict
