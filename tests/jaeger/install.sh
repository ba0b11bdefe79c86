#!/usr/bin/env bash
# Builds Jaeger into `peers/jaeger`; some minutes, the first time. Its module cannot be
# installed by name because it replaces others: it is built inside a copy of itself.
set -euo pipefail
cd "$(dirname "$0")/../.."

VERSION=v1.76.0
into=peers/jaeger
if [ -x "$into/jaeger" ] && [ "$(cat "$into/version" 2>/dev/null)" = "$VERSION" ]; then
  exit 0
fi
mkdir -p "$into"
module=$(cd "$into" && go mod download -json "github.com/jaegertracing/jaeger@$VERSION" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
rm -rf "$into/source"
cp -r "$module" "$into/source"
chmod -R u+w "$into/source"
(cd "$into/source" && go build -trimpath -o ../jaeger ./cmd/jaeger)
rm -rf "$into/source"
echo "$VERSION" >"$into/version"
