#!/usr/bin/env bash
# Installs wallets and signature libraries for Python into `peers`. Test tools only.
set -euo pipefail
cd "$(dirname "$0")/../.."

into=peers/wallets
# What is installed is known by this very script.
if cmp -s tests/wallets/install.sh "$into/installed-by"; then
  exit 0
fi
mkdir -p "$into"
[ -x "$into/venv/bin/pip" ] || python3 -m venv "$into/venv"
"$into/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
  bittensor-wallet==4.1.1 \
  substrate-interface==1.8.1 \
  py-sr25519-bindings==0.2.4 \
  PyNaCl==1.6.2 \
  grpcio==1.85.1 \
  grpcio-tools==1.85.1
cp tests/wallets/install.sh "$into/installed-by"
