#!/usr/bin/env bash
# What `make run` does once everything is built: an engine on the embedded mock chain, three example modules, and a look at
# them. Ctrl-C ends it.
set -euo pipefail

# What is set for another engine is not meant for this one.
for name in "${!NEXUM_@}"; do unset "$name"; done

# The first port from `$1` on that nobody listens on: the usual one may belong to another engine, or to anything else.
free_port() {
	local port=$1
	while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	echo "$port"
}
health=127.0.0.1:$(free_port 8080)
metrics=127.0.0.1:$(free_port 9090)

state=$(mktemp -d "${TMPDIR:-/tmp}/nexum-demo.XXXXXX")
socket=$state/admin.sock
trap 'rm -rf "$state"' EXIT
# In a session of its own, so that Ctrl-C reaches the engine once, through the trap.
NEXUM_OBSERVABILITY__HEALTH_LISTEN=$health NEXUM_OBSERVABILITY__METRICS_LISTEN=$metrics \
	setsid "$BIN/nexum" run --mock fixtures/chains/demo.toml --state-dir "$state" \
	--module "$BUNDLES/price-alert" --module "$BUNDLES/erc20-watch" --module "$BUNDLES/heartbeat" &
engine=$!
trap 'kill -TERM $engine 2>/dev/null || true; wait $engine || true; rm -rf "$state"' EXIT
trap 'exit 0' INT TERM HUP

healthy=no
for _ in $(seq 300); do
	kill -0 $engine 2>/dev/null || exit 1
	if "$BIN/nexumctl" --socket "$socket" health >/dev/null 2>&1; then healthy=yes; break; fi
	sleep 0.1
done
[ "$healthy" = yes ] || { echo "the engine is not healthy after 30 s" >&2; exit 1; }
sleep 3 # a few blocks, so that there is something to see

printf '\n$ nexumctl tree --socket %s\n' "$socket"
"$BIN/nexumctl" --socket "$socket" tree
printf '\n$ nexumctl health --socket %s\n' "$socket"
"$BIN/nexumctl" --socket "$socket" health
printf '\nThe engine runs until you press Ctrl-C. Health: http://%s/health  Metrics: http://%s/metrics\n\n' "$health" "$metrics"
wait $engine
