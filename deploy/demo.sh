#!/usr/bin/env bash
# What `make run` does once everything is built: an engine on the embedded mock chain, three example modules, and a look at
# them. Ctrl-C ends it.
set -euo pipefail

state=$(mktemp -d "${TMPDIR:-/tmp}/nexum-demo.XXXXXX")
# In a session of its own, so that Ctrl-C reaches the engine once, through the trap.
setsid "$BIN/nexum" run --mock fixtures/chains/demo.toml --state-dir "$state" \
	--module "$BUNDLES/price-alert" --module "$BUNDLES/erc20-watch" --module "$BUNDLES/heartbeat" &
engine=$!
trap 'kill -TERM $engine 2>/dev/null || true; wait $engine || true; rm -rf "$state"' EXIT
trap 'exit 0' INT TERM

for _ in $(seq 100); do
	curl --silent --fail --max-time 1 http://127.0.0.1:8080/ready >/dev/null 2>&1 && break
	kill -0 $engine 2>/dev/null || exit 1
	sleep 0.1
done
sleep 3 # a few blocks, so that there is something to see

printf '\n$ nexumctl tree --socket %s\n' "$state/admin.sock"
"$BIN/nexumctl" --socket "$state/admin.sock" tree
printf '\n$ curl http://127.0.0.1:8080/health\n'
curl --silent --max-time 2 http://127.0.0.1:8080/health
printf '\n\nThe engine runs until you press Ctrl-C. Metrics: http://127.0.0.1:9090/metrics\n\n'
wait $engine
