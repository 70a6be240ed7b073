#!/bin/sh
# Runs Shippo's own clients against a sandbox that is up; run.sh starts one. They come from PyPI and npm, so no test
# depends on them.
# Usage: tests/clients/shippo.sh [http://127.0.0.1:8081]
set -eu
base="${1:-http://127.0.0.1:8081}/shippo"
key="${SHIPPO_KEY:-shippo_test_souk}"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/python"
"$work/python/bin/pip" install --quiet shippo==3.9.0
"$work/python/bin/python" "$here/shippo_python.py" "$base" "$key"

cp "$here/shippo_node.mjs" "$work/"
(cd "$work" && npm install --silent --no-save shippo@2.18.0)
(cd "$work" && node shippo_node.mjs "$base" "$key")
