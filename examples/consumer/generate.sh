#!/usr/bin/env bash
# Makes an environment with gRPC and sr25519 (peers/consumer, from the root), and in it Python
# stubs of what validators read.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=peers/consumer
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
  grpcio==1.85.1 grpcio-tools==1.85.1 py-sr25519-bindings==0.2.4
rm -rf "$venv/stubs"
mkdir "$venv/stubs"
"$venv/bin/python" -m grpc_tools.protoc --proto_path=proto \
  --python_out="$venv/stubs" --grpc_python_out="$venv/stubs" \
  taugate/v1/payload.proto taugate/v1/inference.proto taugate/v1/capacity.proto \
  taugate/v1/consumption.proto
