# What the wider suites share: processes of their own, checks that are counted, free ports.
# To be sourced, from the root of the repository. TAUGATE names the program to test; without
# it the debug build is used, and built if missing.

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

# ended PID : waits for a process that was started; what it ended with is in $code.
ended() {
  code=0
  wait "$1" || code=$?
  # It is gone; its id may be somebody else's from here on.
  local index
  for index in "${!pids[@]}"; do
    if [ "${pids[index]}" = "$1" ]; then unset "pids[index]"; fi
  done
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

# free_ports COUNT : so many ports of loopback that nobody listens on.
free_ports() {
  python3 - "$1" <<'FREE'
import socket
import sys

held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
FREE
}

# open_gateway PUBLIC PEER ADMIN : the file of a gateway for development, with a store and
# ports of its own. Suites that are about something else count calls: it sends no checks, unless
# $planner says so.
open_gateway() {
  cat <<TOML
[listen]
public = "127.0.0.1:$1"
peer = "127.0.0.1:$2"
admin = "127.0.0.1:$3"
[keys]
required = false
[registry]
open_registration = true
open_tasks = true
[planner]
mode = "${planner:-off}"
[store]
path = "$run/books.db"
TOML
}

# verdict : counts the checks and ends, with 1 if one failed.
verdict() {
  local passed failed
  passed=$(grep -c '^ok' "$run/checks" || true)
  failed=$(grep -c '^FAIL' "$run/checks" || true)
  printf '%s passed, %s failed\n' "$passed" "$failed"
  [ "$failed" = 0 ] && failed_at_end=0
  exit "$failed_at_end"
}
