#!/usr/bin/env bash
# Holds the files of the compose stack to what Compose, Prometheus and, where it is built, the engine say of them. Starts
# nothing, and leaves the stack's secrets alone: it works on a copy of what the repository has.
#
# BIN is where `nexum` is, BUNDLES where the example modules are; without them the engine is not asked.
# shellcheck disable=SC2154  # what image.py says is read from a file
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "check-compose: $*" >&2; exit 1; }
# What is set for another stack is not meant for this one.
for name in "${!NEXUM_@}" "${!COMPOSE_@}" RPC_URL_FILE BEE_RPC_URL WAKU_CLUSTER; do unset "$name"; done

work=$(mktemp -d "${TMPDIR:-/tmp}/nexum-compose.XXXXXX")
trap 'rm -rf "$work"' EXIT
git ls-files -z deploy | tar --null --files-from=- -cf - | tar -xf - -C "$work"
stack=$work/deploy/compose
secrets=$stack/secrets
(umask 077 && echo wss://rpc.example.org/v2/KEY-OF-THE-NODE >"$secrets/rpc_url" && echo password >"$secrets/bee_password")

# The configuration of the engine as its container has it, but for the paths of the container.
ask_engine() {
	local entry source target
	if ! [ -x "${BIN:-}/nexum" ] || ! [ -d "${BUNDLES:-}" ]; then
		echo "nexum is not built: it is not asked about $1"
		return
	fi
	for entry in "${service_volumes[@]}"; do
		read -r source target _ <<<"$entry"
		[ "$target" = /etc/nexum/nexum-engine.toml ] || continue
		sed "s|/run/secrets/|$secrets/|; s|/usr/share/nexum/examples/|$BUNDLES/|" "$source" >"$work/engine.toml"
	done
	env -i PATH="$PATH" "${service_env[@]}" "$BIN/nexum" check-config --config "$work/engine.toml" >"$work/said" ||
		fail "the engine refuses the configuration of: $1"
	! grep -q KEY-OF-THE-NODE "$work/said" || fail "check-config tells the key of the node"
	echo "nexum check-config takes the configuration of: $1"
}

# Whether Compose takes it, and whether what it names is there.
check() {
	local service entry source
	docker-compose --project-directory "$stack" --file "$stack/compose.yaml" "$@" config >"$work/resolved.yaml" ||
		fail "docker-compose refuses: ${*:-the stack}"
	for service in bee nwaku prometheus anvil engine; do
		/usr/bin/python3 deploy/image.py service $service <"$work/resolved.yaml" >"$work/service"
		# shellcheck source=/dev/null
		. "$work/service"
		for entry in "${service_volumes[@]}"; do
			read -r source _ <<<"$entry"
			[[ $source != /* ]] || [ -e "$source" ] || fail "$service mounts $source, which is not there"
		done
		for entry in "${service_secrets[@]}"; do
			read -r _ source <<<"$entry"
			[ -e "$source" ] || fail "$service has the secret $source, which is not there"
		done
	done
	echo "docker-compose takes: ${*:-the stack as it is}"
}

check --profile swarm --profile waku
check --env-file "$stack/try.env"
ask_engine "the stack to try"
check
ask_engine "the stack"

sed "s|/etc/prometheus/alerts.yaml|$work/deploy/alerts.yaml|" "$stack/prometheus.yml" >"$work/prometheus.yml"
promtool check config "$work/prometheus.yml"
