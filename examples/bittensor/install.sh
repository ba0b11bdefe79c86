#!/usr/bin/env bash
# Makes an environment with the bittensor SDK (peers/bittensor, from the root).
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=peers/bittensor
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import bittensor; assert bittensor.__version__ == "11.3.0"' 2>/dev/null ||
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: bittensor==11.3.0
