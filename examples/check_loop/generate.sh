#!/usr/bin/env bash
# The loop signs as the consumer does, and runs in its environment (peers/consumer).
set -euo pipefail
exec "$(dirname "$0")/../consumer/generate.sh"
