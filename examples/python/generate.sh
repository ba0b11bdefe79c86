#!/usr/bin/env bash
# Writes the stubs of the API beside this file, into taugate/v1.
set -euo pipefail
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. \
  taugate/v1/payload.proto taugate/v1/inference.proto
