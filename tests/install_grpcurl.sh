#!/usr/bin/env bash
# Builds grpcurl into `peers/bin`, where the wider suites look for it.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=v1.9.3
if [ -x peers/bin/grpcurl ] && [ "$(cat peers/bin/grpcurl.version 2>/dev/null)" = "$VERSION" ]; then
  exit 0
fi
command -v go >/dev/null || { echo "grpcurl is built by Go, and Go is not here" >&2; exit 1; }
mkdir -p peers/bin
GOBIN="$PWD/peers/bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$VERSION"
echo "$VERSION" >peers/bin/grpcurl.version
