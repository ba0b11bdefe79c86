#!/usr/bin/env bash
# Makes an environment with gRPC (peers/example-python, from the root) and Python stubs of the
# public API (stubs).
set -euo pipefail
cd "$(dirname "$0")"

protos=../../proto
venv=../../peers/example-python
if [ ! -x "$venv/bin/pip" ]; then
  python3 -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
  grpcio==1.85.1 grpcio-tools==1.85.1
rm -rf stubs
mkdir stubs
"$venv/bin/python" -m grpc_tools.protoc --proto_path="$protos" \
  --python_out=stubs --pyi_out=stubs --grpc_python_out=stubs \
  taugate/v1/payload.proto taugate/v1/inference.proto
