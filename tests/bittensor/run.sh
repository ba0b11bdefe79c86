#!/usr/bin/env bash
# The example's way to and from the chain, with the real bittensor SDK and a stand-in for the
# chain: a metagraph comes to a gateway that runs, weights go out, and whatever fails is told.
set -euo pipefail
cd "$(dirname "$0")/../.."

examples/bittensor/install.sh
python=peers/bittensor/bin/python
# shellcheck source=tests/suite.sh
source tests/suite.sh

state="$run/chain.json"
file="$run/metagraph.json"

# chain NEURONS [FAILURES] : what the stand-in holds, and what its next calls fail with.
chain() { printf '{"neurons": %s, "failures": %s, "calls": []}' "$1" "${2:-[]}" >"$state"; }

# on_chain SCRIPT ARGUMENTS.. : runs a script of the example beside the stand-in; what it says is
# in $run/said, what it ended with in $code.
on_chain() {
  code=0
  $python tests/bittensor/fake_chain.py "$state" "examples/bittensor/$1" "${@:2}" \
    >"$run/said" 2>&1 || code=$?
}

# ended_so CODE TEXT : what the last script ended with, and said.
ended_so() { [ "$code" = "$1" ] && grep -qF "$2" "$run/said"; }

# --- the metagraph ---

read -r public peer admin miner < <(free_ports 4)
open_gateway "$public" "$peer" "$admin" | sed "s|^open_registration.*|metagraph = \"$file\"|" \
  >"$run/gateway.toml"
# A gateway without a hotkey file has this one.
own=5E4Q1DdzBknBRrbuiXAsBz94Vgct5L5k5G4SY4fwRzPsLWD5
other=5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY
validators="{\"hotkey\": \"$own\", \"uid\": 0, \"rao\": 1500000000001, \"validator\": true},
  {\"hotkey\": \"$other\", \"uid\": 7, \"rao\": 4500000000003, \"validator\": true}"

chain "[$validators]"
on_chain metagraph.py --netuid 19 --out "$file"
expect "a metagraph is written: $(cat "$run/said")" ended_so 0 "2 hotkeys of block 4242"
looked() { "$taugate" gateway --check --config "$run/gateway.toml" >"$run/effective"; }
expect "the gateway's look finds nothing wrong with it" looked
on_chain metagraph.py --netuid 19 --out "$run/metagraph.csv"
expect "and as CSV" grep -q "^$other,7,4500.000000003,true\$" "$run/metagraph.csv"

before=$(sha256sum "$file")
chain "[$validators]" '["connection"]'
on_chain metagraph.py --netuid 19 --out "$file"
expect "a chain that is away is told: $(cat "$run/said")" ended_so 1 "is left as it was"
on_chain metagraph.py --netuid 20 --out "$file"
expect "so is a subnet that is not there" ended_so 1 "there is no subnet 20"
chain "[]"
on_chain metagraph.py --netuid 19 --out "$file"
expect "and one that lists nobody" ended_so 1 "lists nobody"
expect "the file is as it was" [ "$before" = "$(sha256sum "$file")" ]
expect "and nothing is left beside it" [ "$(find "$run" -name 'metagraph.json*' | wc -l)" = 1 ]

# status KEY : of the first cell, or of all where there is no cell.
status() {
  "$taugate" status --admin "127.0.0.1:$admin" --json | $python -c '
import json, sys
told = json.load(sys.stdin)
print(({**told, **told["cells"][0]} if told["cells"] else told).get(sys.argv[1]))' "$1"
}
start gateway "$taugate" gateway --config "$run/gateway.toml"
until_true "the gateway is ready" 30 grep -q ready "$run/gateway.log"
start miner "$taugate" miner --simulate --task tiny --units-per-hour 1000000 \
  --key "$run/miner.json" --gateway "http://127.0.0.1:$peer" --listen "127.0.0.1:$miner"
until_true "the miner has a hotkey" 30 test -s "$run/miner.json"
until_true "a miner that is not in it is refused" 30 grep -qi "not registered" "$run/miner.log"
hotkey=$($python -c 'import json, sys; print(json.load(open(sys.argv[1]))["ss58Address"])' "$run/miner.json")
chain "[$validators, {\"hotkey\": \"$hotkey\", \"uid\": 42, \"rao\": 0, \"validator\": false}]"
on_chain metagraph.py --netuid 19 --out "$file"
has() { [ "$(status "$1")" = "$2" ]; }
until_true "once it is, its uid is known" 60 has uid 42
expect "the share is the validator's part of all stake: $(status share)" \
  has share 1/4
expect "and so the allotment, to the unit: $(status allotment)" has allotment 250000

# --- the weights ---

weights="$run/weights.json"
printf '[{"uid": 42, "hotkey": "%s", "weight": 0.75}, {"uid": 9, "hotkey": "%s", "weight": 0.25}]' \
  "$hotkey" "$other" >"$weights"
set_weights() { on_chain weights.py --netuid 19 --wallet mine --hotkey hot --file "$weights" --pause-s 0.01 "$@"; }

# call EXPRESSION : of what the stand-in was last asked to set.
call() {
  $python -c 'import json, sys; c = json.load(open(sys.argv[1]))["calls"]; sys.exit(not eval(sys.argv[2]))' \
    "$state" "$1"
}

chain "[]"
set_weights --dry-run
expect "a dry run says what would be set" ended_so 0 "would set 2 weights on subnet 19"
expect "and sets nothing" call 'c == []'
set_weights
expect "weights are set: $(cat "$run/said")" ended_so 0 "set 2 weights on subnet 19 of finney, in 4242-1"
expect "as they were given, by that wallet" call \
  'len(c) == 1 and dict(zip(c[0]["uids"], c[0]["weights"])) == {42: 0.75, 9: 0.25} and (c[0]["wallet"], c[0]["hotkey"], c[0]["network"]) == ("mine", "hot", "finney")'
chain "[]" '["connection", "connection"]'
set_weights
expect "what may pass is tried again" ended_so 0 "try 2: the stand-in is away"
expect "and then set once" call 'len(c) == 1'
chain "[]" '["connection", "connection", "connection"]'
set_weights --tries 2
expect "but not for ever" ended_so 1 "the stand-in is away"
chain "[]" '["SettingWeightsTooFast"]'
set_weights
expect "what does not pass is told at once: $(tail -n 1 "$run/said" | cut -c 1-120)" \
  ended_so 1 "the stand-in refuses: SettingWeightsTooFast"
chain "[]" '["HotKeyNotRegisteredInSubNet"]'
set_weights
expect "so is a hotkey that is not registered" ended_so 1 "HotKeyNotRegisteredInSubNet"
expect "and nothing was set" call 'c == []'
chain "[]"

# Of the gateway itself, which judged nobody yet.
asked() { "$taugate" ask --gateway "http://127.0.0.1:$public" --task tiny hello; }
until_true "the miner answers" 30 asked
scored() {
  "$taugate" weights --format json --admin "127.0.0.1:$admin" >"$weights" && grep -q '"uid": 42' "$weights"
}
until_true "the gateway weighs it" 30 scored
set_weights
expect "before anyone is judged there is nothing to set" ended_so 2 "no miner was judged yet"
sed -i 's/"weight": 0.0/"weight": 1.0/' "$weights"
set_weights
expect "what the gateway says once it judged is taken: $(cat "$run/said")" \
  ended_so 0 "set 1 weights on subnet 19"
expect "to its uid" call '(c[-1]["uids"], c[-1]["weights"]) == ([42], [1.0])'

chain "[]"

# refused JSON TEXT : a file that is none of ours.
refused() {
  printf '%s' "$1" >"$weights"
  set_weights
  ended_so 2 "$2" && call 'c == []'
}
row() { printf '{"uid": %s, "hotkey": "%s", "weight": %s}' "$1" "$other" "$2"; }
expect "no JSON is refused" refused "nothing" "no JSON"
expect "an empty list is" refused "[]" "no list of weights"
expect "a sum that is not 1 is" refused "[$(row 1 0.5)]" "sum to 0.5, not to 1"
expect "a negative weight is" refused "[$(row 1 2), $(row 2 -1)]" "must be 0 or more"
expect "a uid twice is" refused "[$(row 1 0.5), $(row 1 0.5)]" "uid 1 stands there twice"
expect "no uid at all is" refused "[$(row null 1)]" "no weight has a uid"
printf '[%s, %s]' "$(row 1 0.5)" "$(row null 0.5)" >"$weights"
set_weights
expect "one without a uid is left out, and said so" ended_so 0 "left out, for it has no uid: $other"

verdict
