#!/usr/bin/env bash
# The demo and the status on a terminal: tables that live, a network that stays up until Ctrl-C
# with calls to try, and nothing that outlives it.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v python3 >/dev/null || { echo "a terminal is made by Python, and Python is not here"; exit 77; }
# shellcheck source=tests/suite.sh
source tests/suite.sh

mkdir "$run/scratch"
PATH="$PWD/peers/bin:$PATH" checks python3 tests/terminal/terminal.py "$taugate" "$run/scratch"
verdict
