#!/usr/bin/env bash
# Traces in a real Jaeger: a call that failed over is one trace with every attempt. A gateway,
# a miner that breaks off and one that does not, all as processes of their own on loopback.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v go >/dev/null || { echo "Jaeger is built by Go, and Go is not here"; exit 77; }
tests/install_grpcurl.sh
tests/jaeger/install.sh
# shellcheck source=tests/suite.sh
source tests/suite.sh

read -r public peer admin otlp query query_grpc health < <(free_ports 7)

# --- start ---

cat >"$run/jaeger.yaml" <<YAML
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces: { receivers: [otlp], exporters: [jaeger_storage_exporter] }
  telemetry: { metrics: { level: none } }
extensions:
  healthcheckv2: { use_v2: true, http: { endpoint: "127.0.0.1:$health" } }
  jaeger_query:
    storage: { traces: memory }
    http: { endpoint: "127.0.0.1:$query" }
    grpc: { endpoint: "127.0.0.1:$query_grpc" }
  jaeger_storage:
    backends: { memory: { memory: { max_traces: 10000 } } }
receivers:
  otlp: { protocols: { grpc: { endpoint: "127.0.0.1:$otlp" } } }
exporters:
  jaeger_storage_exporter: { trace_storage: memory }
YAML
start jaeger peers/jaeger/jaeger --config "$run/jaeger.yaml"
until_true "Jaeger is ready" 60 curl -sf "http://127.0.0.1:$query/api/services"

open_gateway "$public" "$peer" "$admin" >"$run/gateway.toml"
OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:$otlp" OTEL_BSP_SCHEDULE_DELAY=200 \
  start gateway "$taugate" gateway --config "$run/gateway.toml"
gateway_pid=$started
until_true "the gateway is ready" 30 grep -q ready "$run/gateway.log"

# Much larger than the other, so that it is asked first.
start breaking "$taugate" miner --simulate --task tiny --key "$run/breaking.json" \
  --gateway "http://127.0.0.1:$peer" --listen 127.0.0.1:0 \
  --failure-rate 1 --units-per-hour 50000000
start steady "$taugate" miner --simulate --task tiny --key "$run/steady.json" \
  --gateway "http://127.0.0.1:$peer" --listen 127.0.0.1:0 --units-per-hour 1000000
two_miners() {
  PATH="$PWD/peers/bin:$PATH" grpcurl -plaintext "127.0.0.1:$public" \
    taugate.v1.InferenceService/ListTasks | grep -q '"miners": 2'
}
until_true "both miners are declared" 30 two_miners

# --- a call that fails over ---

# An answer of one token breaks off before it or after it; before it, the other miner answers.
PATH="$PWD/peers/bin:$PATH" checks python3 tests/jaeger/failover.py \
  "$taugate" "127.0.0.1:$public" "http://127.0.0.1:$query"

# --- the end ---

kill "$gateway_pid"
ended "$gateway_pid"
expect "the gateway drains and ends with 0: $code" [ "$code" = 0 ]
verdict
