#!/usr/bin/env bash
# A real language model, twice, behind two miners and a gateway, all as processes of their own
# and over real sockets. Prints a line per check; ends with 1 if one failed.
#
# TAUGATE names the program to test; without it the debug build is used, and built if missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/real_model/install.sh
python=peers/real-model/venv/bin/python
model=peers/real-model/gemma.gguf
taugate=${TAUGATE:-target/debug/taugate}
if [ -z "${TAUGATE:-}" ]; then
  cargo build --quiet --locked --bin taugate
fi

run=$(mktemp -d)
pids=()
failed_at_end=1

finish() {
  # Only what was started here, each by its own id.
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || true
  done
  for pid in "${pids[@]}"; do
    wait "$pid" 2>/dev/null || true
  done
  if [ "$failed_at_end" = 0 ]; then
    rm -rf "$run"
  else
    printf 'logs are in %s\n' "$run"
  fi
}
trap finish EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND... : runs it in the background; its id is in $started.
start() {
  local name=$1
  shift
  "$@" >"$run/$name.log" 2>&1 &
  started=$!
  pids+=("$started")
}

say() { printf '%s\n' "$1" | tee -a "$run/checks"; }

# expect WHAT COMMAND... : a check that is a command.
expect() {
  local what=$1
  shift
  if "$@"; then say "ok   $what"; else say "FAIL $what"; fi
}

# checks COMMAND... : a program that prints its own lines of checks.
checks() {
  local code=0
  "$@" >"$run/part" 2>"$run/part.err" || code=$?
  tee -a "$run/checks" <"$run/part"
  if [ "$code" != 0 ] && ! grep -q '^FAIL' "$run/part"; then
    say "FAIL $(basename "$2") ${5:-} ended with $code: $(tail -n 1 "$run/part.err")"
  fi
}

# until_true WHAT SECONDS COMMAND... : waits for a condition.
until_true() {
  local what=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "FAIL $what"
      exit 1
    fi
    sleep 0.05
  done
  say "ok   $what"
}

read -r model_1 model_2 miner_1 miner_2 public peer admin < <("$python" - <<'FREE'
import socket

held = [socket.socket() for _ in range(7)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
FREE
)

# --- start ---

# As a development gateway, but with a store and ports of its own.
cat >"$run/gateway.toml" <<TOML
[listen]
public = "127.0.0.1:$public"
peer = "127.0.0.1:$peer"
admin = "127.0.0.1:$admin"
[keys]
required = false
[registry]
open_registration = true
open_tasks = true
[store]
path = "$run/books.db"
TOML

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

# --- the books ---

kill "$gateway_pid"
code=0
wait "$gateway_pid" || code=$?
# It is gone; its id may be somebody else's from here on.
for index in "${!pids[@]}"; do
  if [ "${pids[index]}" = "$gateway_pid" ]; then unset "pids[index]"; fi
done
expect "the gateway drains and ends with 0: $code" [ "$code" = 0 ]
checks "$python" tests/real_model/books.py "$run/books.db" "$run/told"

passed=$(grep -c '^ok' "$run/checks" || true)
failed=$(grep -c '^FAIL' "$run/checks" || true)
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ] && failed_at_end=0
exit "$failed_at_end"
