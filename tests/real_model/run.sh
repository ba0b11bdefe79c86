#!/usr/bin/env bash
# A real language model, twice, behind two miners and a gateway, all as processes of their own
# and over real sockets. Prints a line per check; ends with 1 if one failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/real_model/install.sh
python=peers/real-model/venv/bin/python
model=peers/real-model/gemma.gguf
# shellcheck source=tests/suite.sh
source tests/suite.sh

read -r model_1 model_2 miner_1 miner_2 public peer admin < <(free_ports 7)

# --- start ---

open_gateway "$public" "$peer" "$admin" >"$run/gateway.toml"

start model_1 "$python" tests/real_model/serve_llm.py "$model" "$model_1" 2
model_1_pid=$started
start model_2 "$python" tests/real_model/serve_llm.py "$model" "$model_2" 2
model_2_pid=$started
start gateway "$taugate" gateway --config "$run/gateway.toml"
gateway_pid=$started
until_true "model server 1 is ready" 60 curl -sf "http://127.0.0.1:$model_1/health"
until_true "model server 2 is ready" 60 curl -sf "http://127.0.0.1:$model_2/health"
until_true "the gateway is ready" 30 grep -q ready "$run/gateway.log"
for number in 1 2; do
  server="model_$number" listen="miner_$number"
  start "miner_$number" "$taugate" miner --task tiny --key "$run/miner_$number.json" \
    --model "http://127.0.0.1:${!server}" --gateway "http://127.0.0.1:$peer" \
    --listen "127.0.0.1:${!listen}"
done

client() { checks "$python" tests/real_model/reflect_client.py "127.0.0.1:$public" "$run/told" "$@"; }
client wait tiny 2

# --- the shell's client ---

# ask NUMBER PROMPT : units must be those of the text that came, and of the prompt.
ask() {
  local number=$1 prompt=$2
  if ! "$taugate" ask --gateway "http://127.0.0.1:$public" --task tiny --max-tokens 48 --seed "$number" \
    "$prompt" >"$run/answer" 2>"$run/aside"; then
    say "FAIL ask $number: $(tail -n 1 "$run/aside")"
    return
  fi
  # The command ends the text with a line's end of its own.
  local text=$(($(LC_ALL=C.UTF-8 wc -m <"$run/answer") - 1))
  local asked
  asked=$(printf '%s' "$prompt" | LC_ALL=C.UTF-8 wc -m)
  local units=$(((text + 3) / 4 + (asked + 39) / 40))
  printf '%s\n' "$(grep -o '^[0-9]*' "$run/aside")" >>"$run/told"
  expect "ask $number: $text code points are $units units: $(cat "$run/aside")" \
    [ "$(cat "$run/aside")" = "$units units, recorded" ]
}
ask 1 "Say hello."
ask 2 "Zähle bis zehn, schön langsam."
ask 3 "海の詩を書いてください。"

# --- the example ---

# hello : the example's first call and its stream; each is a call in the books.
hello() {
  if ! examples/python/generate.sh >"$run/generate.log" 2>&1; then
    say "FAIL the example's stubs: $(tail -n 1 "$run/generate.log")"
    return
  fi
  if ! TAUGATE_GATEWAY="127.0.0.1:$public" peers/example-python/bin/python examples/python/hello.py \
    tiny "Say hello." >"$run/hello" 2>"$run/hello.err"; then
    say "FAIL the example: $(tail -n 1 "$run/hello.err")"
    return
  fi
  grep -oE '^[0-9]+ units, recorded' "$run/hello" | grep -oE '[0-9]+' >>"$run/told"
  expect "the example asks, streams and reads a receipt: $(grep '^receipt' "$run/hello")" \
    grep -qE '^[0-9]+ units, recorded: True$' "$run/hello"
}
hello
PYTHONPATH=proto checks peers/example-python/bin/python tests/real_model/readme_python.py \
  "127.0.0.1:$public" "$run/told"

# --- grpcurl, as README.md has it ---

PATH="$PWD/peers/bin:$PATH" checks "$python" tests/real_model/grpcurl.py "127.0.0.1:$public" "$run/told"

# --- the client by reflection ---

client chats tiny 8
client cancel tiny "http://127.0.0.1:$model_1" "http://127.0.0.1:$model_2"
client lose tiny "http://127.0.0.1:$model_1" "$model_1_pid" "http://127.0.0.1:$model_2" "$model_2_pid"

# --- the demo, with the server that is left behind one miner ---

# demo : its books are its own; the real model must be in them.
demo() {
  local left=$model_1
  curl -sf "http://127.0.0.1:$left/health" >"$run/health" || left=$model_2
  if ! "$taugate" demo --minutes 0.5 --speed 5 --model "http://127.0.0.1:$left" \
    --json "$run/demo.json" >"$run/demo" 2>&1; then
    say "FAIL the demo: $(tail -n 3 "$run/demo")"
    return
  fi
  local posted
  posted=$("$python" -c 'import json, sys
print(next(m["posted"] for m in json.load(open(sys.argv[1]))["miners"] if m["name"] == "real"))' \
    "$run/demo.json")
  expect "the demo puts the real model behind a miner, and its books close: $posted units" \
    [ "$posted" -gt 0 ]
}
demo

# --- the books ---

kill "$gateway_pid"
ended "$gateway_pid"
expect "the gateway drains and ends with 0: $code" [ "$code" = 0 ]
checks "$python" tests/real_model/books.py "$run/books.db" "$run/told"

verdict
