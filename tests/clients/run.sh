#!/bin/sh
# Drives the provider sandbox through PayPal's and Shippo's own clients. Needs python3 with venv, npm, and their registries once:
# what is installed stays in target/clients. Says what was shown, and fails with the first client that is not satisfied.
set -eu

cd "$(dirname "$0")/../.."
work="$PWD/target/clients"
mkdir -p "$work/node"

cargo build --locked --bin souk

[ -d "$work/venv" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/python/requirements.txt
cp tests/clients/node/package.json tests/clients/node/server_sdk.js "$work/node"
npm install --prefix "$work/node" --no-audit --no-fund --silent

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
books=$(mktemp -d "$work/books.XXXXXX")
export SANDBOX="http://127.0.0.1:$port" SANDBOX_DIR="$books"
export CLIENT_ID=souk CLIENT_SECRET=the-secret-of-the-clients WEBHOOK_ID=1JE4291016473214C

SOUK_SANDBOX__LISTEN="127.0.0.1:$port" SOUK_SANDBOX__DIR="$books" SOUK_PAYPAL__CLIENT_ID="$CLIENT_ID" \
    SOUK_PAYPAL__CLIENT_SECRET="$CLIENT_SECRET" SOUK_PAYPAL__WEBHOOK_ID="$WEBHOOK_ID" \
    ./target/debug/souk sandbox >"$books/log" 2>&1 &
sandbox=$!
trap 'kill "$sandbox" 2>/dev/null; wait "$sandbox" 2>/dev/null || true; rm -rf "$books"' EXIT

tries=0
until python3 -c 'import os, urllib.request as r; r.urlopen(os.environ["SANDBOX"] + "/_sandbox/health")' 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { cat "$books/log"; echo "the sandbox does not start"; exit 1; }
    sleep 0.2
done

echo "PyPI paypal-server-sdk 2.4.0"
"$work/venv/bin/python" tests/clients/python/server_sdk.py
echo "PyPI paypalrestsdk 1.13.3"
"$work/venv/bin/python" tests/clients/python/rest_sdk.py
echo "npm @paypal/paypal-server-sdk 2.5.0"
node "$work/node/server_sdk.js"
echo "PyPI shippo 3.9.0, npm shippo 2.18.0"
./tests/clients/shippo.sh "$SANDBOX"
echo "all are satisfied"
