#!/usr/bin/env bash
# Carries out `deploy/Dockerfile` without a Docker engine: the stages `build`, `anvil` and `engine`, each in a new Debian 12.
# Then starts Anvil and the engine, each in its system, as `deploy/compose/compose.yaml` starts them with `--env-file try.env`:
# as its user without rights, on files that it cannot change, with its volumes, secrets and limits. Waits until both are
# healthy, looks at the tree and the metrics, and stops them, which must end in order within the time that they are given.
#
# What this does not show is Docker itself, and what only Docker does: its seccomp profile, memory limits, published ports.
#
# Settings, from the environment:
#   IMAGE_DIST    a folder with `dist` and `bundles` as `make dist guests` leaves them: what `make` builds in the stage `build`
#                 is taken from there, and all else is done
#   IMAGE_DIR     where systems, logs and the caches of the build go; some 15 GB [~/.cache/nexum/image]
#   KEEP=1        leave the systems there
#   MIRROR        where Debian's packages come from [what this machine's apt uses for bookworm]
#
# Needs root, for debootstrap and chroot, and a machine with rustup: its toolchain is that of the image of Rust. How this
# machine reaches its registries (proxy, certificates, mirrors) is copied in, too.
# shellcheck disable=SC2154  # what image.py says is read from files
set -euo pipefail
cd "$(dirname "$0")/.."

program=check-image
dir=${IMAGE_DIR:-$HOME/.cache/nexum/image}
home=/root
# shellcheck source=deploy/debian.sh
. deploy/debian.sh
given=${IMAGE_DIST:+$(cd "$IMAGE_DIST" && pwd)}
[ -z "$given" ] || { [ -x "$given/dist/nexum" ] && [ -d "$given/bundles" ]; } || fail "$given has no \`dist\` and \`bundles\`"
{ command -v docker-compose && /usr/bin/python3 -c 'import yaml'; } >/dev/null 2>&1 ||
	{ say "installing docker-compose"; apt-get install -y --no-install-recommends docker-compose python3-yaml >/dev/null; }
image() { /usr/bin/python3 deploy/image.py "$@"; }

work=$(mktemp -d "$dir/work.XXXXXX")
roots+=("$work")

# --- What an image is built from --------------------------------------------------------------------------------------------

new_system
base=$root
# As Debian's image has it: what is installed need not outlast a power cut.
echo force-unsafe-io >"$base/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
# As the image of Rust has it, besides what Debian's has.
rust_packages=(ca-certificates gcc libc6-dev)
# A folder of its own for what is given, so that nothing of it gets into a later build.
caches=$dir/cache${given:+-given}
mkdir -p "$work/context"
git ls-files -z --cached --others --exclude-standard | image context .dockerignore >"$work/files"
tar --null --files-from="$work/files" --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$work/context" --no-same-owner

# --- The instructions of a stage, as image.py calls them --------------------------------------------------------------------

declare -A root_of=()

# The name of the user `$1`, who may be a number, and the home that Docker gives it.
user_of() {
	local entry
	entry=$(awk -F: -v user="$1" '$1 == user || $3 == user { print; exit }' "$root/etc/passwd")
	[ -n "$entry" ] || fail "$stage: there is no user $1"
	user=${entry%%:*}
	home=$(cut -d: -f6 <<<"$entry")
	uid=$(cut -d: -f3 <<<"$entry")
}

from() {
	root=$(mktemp -d "$dir/root.XXXXXX")
	roots+=("$root")
	root_of[$stage]=$root
	cp -a "$base/." "$root/"
	base_env=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
	: >"$logs/$stage.log"
	case $1 in
	debian:12.*-slim)
		local has
		has=$(cat "$root/etc/debian_version")
		[ "debian:$has-slim" = "$1" ] || say "$stage: this is Debian $has, and $1 is named"
		;;
	rust:*-slim-bookworm)
		local named=${1#rust:} has
		named=${named%-slim-bookworm}
		has=$(cd / && rustc --version | cut -d' ' -f2)
		[ "$named" = "$has" ] || fail "the image has Rust $named, and this machine $has"
		say "$stage: Rust $has"
		step root "apt-get -q update && apt-get -q install -y --no-install-recommends ${rust_packages[*]}"
		base_env=(RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo
			PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
		local name proxy into=$root/usr/local/rustup/toolchains
		name=$(basename "$toolchain")
		mkdir -p "$into/$name" "$root/usr/local/cargo/bin"
		tar -C "$toolchain" --exclude=./share/doc -cf - . | tar -C "$into/$name" -xf -
		cp -L "$(command -v rustup)" "$root/usr/local/cargo/bin/rustup"
		for proxy in cargo rustc rustdoc; do ln -s rustup "$root/usr/local/cargo/bin/$proxy"; done
		local env="env ${base_env[*]}"
		connect
		step root "$env rustup default $name && $env rustup target list --installed"
		# The image has Linux alone, and `make` installs the target. Where nothing can be had from Rust's server, that goes unseen.
		if [ -d "$into/$name/lib/rustlib/wasm32-wasip2" ]; then
			step root "$env rustup target remove wasm32-wasip2"
			if inside root "$stage.log" "timeout 300 $env rustup target add wasm32-wasip2"; then
				step root "$env rustup target remove wasm32-wasip2"
			else
				say "NOT SHOWN: that make installs the target wasm32-wasip2, since rustup can fetch nothing here; it is copied in"
				tar -C "$toolchain" --exclude=./share/doc -cf - . | tar -C "$into/$name" -xf -
			fi
		fi
		chmod -R a+w "$root/usr/local/rustup" "$root/usr/local/cargo"
		;;
	*) fail "$stage: this knows debian:12.N-slim and rust:VERSION-slim-bookworm, and not $1" ;;
	esac
}

# Runs the script `$2` as the user `$1`, and shows the log when it fails.
step() {
	inside "$1" "$stage.log" "$2" || { tail -n 40 "$logs/$stage.log" >&2; fail "$stage: a step failed; $logs/$stage.log has all of it"; }
}

run() {
	local workdir=$2 script=$3 target owner kept
	user_of "$1"
	shift 3
	connect
	mounts=
	for mount in "$@"; do
		read -r target owner <<<"$mount"
		kept=$caches/${target//\//_}
		mkdir -p "$root$target" "$kept"
		chown "$owner" "$kept"
		mounts+="$kept $target rw"$'\n'
	done
	if [ -n "$given" ] && [[ $script == *"make dist guests"* ]]; then
		# In the place of make, and nothing else of the step: what it leaves in its target folder.
		mkdir -p "$root/given" "$root/usr/local/sbin"
		# shellcheck disable=SC2016  # it is for the shell inside
		printf '#!/bin/sh\ncp -r /given/dist /given/bundles "$CARGO_TARGET_DIR"\n' >"$root/usr/local/sbin/make"
		chmod 755 "$root/usr/local/sbin/make"
		mounts+="$given /given ro"$'\n'
		say "$stage: NOT SHOWN: make dist guests; what it leaves is taken from $given"
	fi
	say "$stage: $(tr -s '[:space:]' ' ' <<<"$script" | cut -c 1-100)"
	step "$user" "cd $(printf %q "$workdir") && env $(printf '%q ' "${base_env[@]}" "${image_env[@]}") /bin/sh -c $(printf %q "$script")"
	mounts=
}

# A folder gives what is in it. What is copied belongs to root, or to whom `$2` names.
copy() {
	local from=$work/context source owner=$2 target=$root$3 part=$root/.copy
	[ -z "$1" ] || from=${root_of[$1]:-}
	[ -n "$from" ] || fail "$stage: COPY from $1, which is none of the stages before it"
	shift 3
	rm -rf "$part"
	mkdir "$part"
	for source in "$@"; do
		[ -e "$from/$source" ] || fail "$stage: COPY $source: it is not in what the image is built from"
		if [ -d "$from/$source" ]; then
			cp -a "$from/$source/." "$part/"
		elif [[ $target == */ ]]; then
			cp -a "$from/$source" "$part/"
		else
			cp -a "$from/$source" "$part/$(basename "$target")"
		fi
	done
	[[ $target == */ ]] || [ -d "$from/$1" ] || target=$(dirname "$target")
	step root "chown -R $owner /.copy"
	mkdir -p "$target"
	# Without the folder itself: one that was there stays whose it is.
	tar -C "$part" --no-recursion -cf - --null --files-from=<(cd "$part" && find . -mindepth 1 -print0) | tar -C "$target" -xpf -
	rm -rf "$part"
}

# Root's, whoever the user is: builders differ in it, and nothing may depend on more.
workdir() { mkdir -p "$root$1"; }

# --- Containers -------------------------------------------------------------------------------------------------------------

# Sets what the stage and the service of the same name come to.
read_settings() {
	stage=$1
	root=${root_of[$1]}
	# shellcheck source=/dev/null
	. "$work/$1.image"
	# shellcheck source=/dev/null
	. "$work/$1.service"
	user_of "${service_user:-$image_user}"
	environment=("HOME=$home" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "HOSTNAME=$1" "${image_env[@]}" "${service_env[@]}")
}

# The words of a command in a container, for a shell.
line_of() {
	printf 'cd %q && exec env -i ' "$image_workdir"
	printf '%q ' "${environment[@]}" "$@"
}

# Prepares what the service `$1` gets, as `mounts`, `under`, `read_only` and `gives_up`.
prepare() {
	local entry source target mode name
	read_settings "$1"
	mounts=
	under=("${network[@]}")
	for entry in "${service_limits[@]}"; do
		if prlimit "$entry" true 2>/dev/null; then under+=(prlimit "$entry"); else say "$1: NOT SHOWN: $entry, which this machine does not allow"; fi
	done
	read_only=$service_read_only
	gives_up=(--inh-caps=-all "${service_gives_up[@]}")
	for entry in "${service_tmpfs[@]}"; do
		read -r target mode <<<"$entry"
		mkdir -p "$root$target"
		mounts+="tmpfs $target $mode"$'\n'
	done
	for entry in "${service_volumes[@]}"; do
		read -r source target mode <<<"$entry"
		if [[ $source != /* ]]; then
			# A new volume begins as what the image has there.
			name=$source
			source=$work/volumes/$name
			mkdir -p "$root$target" "$work/volumes"
			[ -d "$source" ] || cp -a "$root$target" "$source"
		elif [ -d "$source" ]; then
			mkdir -p "$root$target"
		else
			mkdir -p "$(dirname "$root$target")"
			[ -e "$root$target" ] || : >"$root$target"
		fi
		mounts+="$source $target $mode"$'\n'
	done
	for entry in "${service_secrets[@]}"; do
		read -r name source <<<"$entry"
		mkdir -p "$root/run/secrets" "$work/secrets"
		install -m 400 -o "$uid" "$source" "$work/secrets/$name"
		: >"$root/run/secrets/$name"
		mounts+="$work/secrets/$name /run/secrets/$name ro"$'\n'
	done
	for name in "${image_volumes[@]}"; do
		[[ $mounts == *" $name "* ]] || fail "$1: the image has a volume at $name, and the stack none"
	done
	# All share one network here. `localhost` is first: it is what the address is called.
	printf '127.0.0.1 localhost\n127.0.0.1 anvil engine\n' >"$root/etc/hosts"
}

declare -A container=()

start() {
	prepare "$1"
	local words=("${image_entrypoint[@]}")
	if [ -n "${service_cmd+set}" ]; then words+=("${service_cmd[@]}"); else words+=("${image_cmd[@]}"); fi
	say "$1: ${words[*]}"
	: >"$logs/$1.run.log"
	begin_inside "$user" "$1.run.log" "$(line_of "${words[@]}")"
	container[$1]=$started
}

# Runs a command in the container of the service `$1`, as `docker compose exec` does.
within() {
	local service=$1
	shift
	read_settings "$service"
	local flags=(--reuid="$user" --regid="$user" --init-groups --inh-caps=-all "${service_gives_up[@]}")
	nsenter --target "$(first_of "${container[$service]}")" --mount --pid --net --root --wd \
		/usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin setpriv "${flags[@]}" /bin/bash -c "$(line_of "$@")" </dev/null
}

gone() { ! kill -0 "$1" 2>/dev/null; }

wait_until_healthy() {
	local until
	read_settings "$1"
	[ ${#health[@]} -gt 0 ] || fail "$1 has no health check"
	until=$((SECONDS + health_within))
	local began=$SECONDS command=("${health[@]}") timeout=$health_timeout
	until within "$1" timeout "$timeout" "${command[@]}" >"$logs/$1.health.log" 2>&1; do
		! gone "${container[$1]}" || { tail -n 40 "$logs/$1.run.log" >&2; fail "$1 ended by itself"; }
		[ $SECONDS -lt $until ] || { tail -n 40 "$logs/$1.run.log" "$logs/$1.health.log" >&2; fail "$1 is not healthy after $health_within s"; }
		sleep 0.5
	done
	say "$1 is healthy after $((SECONDS - began)) s"
}

# SIGTERM, and the time that the stack gives. The exit code must be 0.
stop() {
	local id=${container[$1]} code=0 until began=$SECONDS
	read_settings "$1"
	until=$((SECONDS + service_grace))
	kill -TERM "$(first_of "$id")"
	until gone "$id"; do
		[ $SECONDS -lt $until ] || fail "$1 runs on $service_grace s after SIGTERM"
		sleep 0.1
	done
	finish "$id" || code=$?
	unset "container[$1]"
	[ $code = 0 ] || { tail -n 40 "$logs/$1.run.log" >&2; fail "$1 ended with $code after SIGTERM"; }
	say "$1 ended with 0 after $((SECONDS - began)) s, of the $service_grace s that it has"
}

# --- All of it --------------------------------------------------------------------------------------------------------------

for stage in build anvil engine; do
	image steps deploy/Dockerfile $stage >"$work/$stage.steps" || fail "deploy/Dockerfile cannot be read"
	image image deploy/Dockerfile $stage >"$work/$stage.image"
	# shellcheck source=/dev/null
	. "$work/$stage.steps"
	mounts=
done

# A network of their own, so that no port is taken and nothing reaches them or is reached.
begin network.log unshare --net sleep infinity
holder=$started
until net=/proc/$(first_of $holder)/ns/net; [ "$(readlink "$net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
network=(nsenter "--net=$net")
# SIOCSIFFLAGS: up and running
"${network[@]}" python3 -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))'

docker-compose --project-directory deploy/compose --file deploy/compose/compose.yaml --env-file deploy/compose/try.env \
	config >"$work/compose.yaml"
for service in anvil engine; do
	image service $service <"$work/compose.yaml" >"$work/$service.service"
	start $service
done
for service in anvil engine; do wait_until_healthy $service; done

tree_has() { within engine nexumctl tree >"$logs/tree.log" 2>&1 && grep -Eq "$1" "$logs/tree.log"; }
until=$((SECONDS + 60))
until tree_has '31337 +try head [1-9]' && tree_has 'erc20-watch .* RUN .* cursor 31337:' && tree_has 'heartbeat .* RUN .* cursor cron:'; do
	[ $SECONDS -lt $until ] || { cat "$logs/tree.log" >&2; fail "the modules of the stack do not follow the chain"; }
	sleep 0.5
done
say "nexumctl tree"
cat "$logs/tree.log"

# What is at the address `$1` of the stack's network, by the names that it has there.
fetch() {
	# shellcheck disable=SC2016  # it is for the shell inside
	within engine timeout 10 bash -c 'exec 3<>"/dev/tcp/${0/://}"; printf "GET $1 HTTP/1.0\r\n\r\n" >&3; cat <&3' "$@"
}
target=$(sed -n 's/.*targets: \["\(.*\)"\].*/\1/p' deploy/compose/prometheus.yml)
fetch "$target" /metrics >"$logs/metrics.log" || fail "$target serves no metrics"
series=$(grep -c '^nexum_' "$logs/metrics.log") || fail "$target serves no metrics of nexum"
say "$target, where Prometheus looks, serves $series series"
fetch 127.0.0.1:8080 /ready | grep -q '^HTTP/1.[01] 200' || fail "the engine is not ready at its published port"

within engine nexumctl state backup --to /var/lib/nexum/backup >"$logs/backup.log" 2>&1 || { cat "$logs/backup.log" >&2; fail "no backup could be made"; }
volume=$work/volumes/state
[ -z "$(find "$volume" ! -uid "$(awk '/^Uid:/ { print $2 }' "/proc/$(first_of "${container[engine]}")/status")")" ] ||
	fail "what is in the volume is not all of the engine's user"
stop engine

say "engine: again, on the volume that it left"
start engine
wait_until_healthy engine
tree_has '2 loaded' || { cat "$logs/tree.log" >&2; fail "the modules are not there again"; }
stop engine
stop anvil

say "the engine's own configuration of the stack, with a secret that its user alone may read"
echo wss://rpc.example.org/v2/KEY-OF-THE-NODE >"$work/rpc_url"
RPC_URL_FILE=$work/rpc_url docker-compose --project-directory deploy/compose --file deploy/compose/compose.yaml config |
	image service engine >"$work/engine.service"
prepare engine
: >"$logs/config.log"
begin_inside "$user" config.log "$(line_of nexum check-config --config /etc/nexum/nexum-engine.toml)"
finish "$started" || { cat "$logs/config.log" >&2; fail "deploy/compose/nexum-engine.toml is refused"; }
! grep -q KEY-OF-THE-NODE "$logs/config.log" || fail "check-config tells the secret"

kill -KILL "$(first_of "$holder")"
finish "$holder" || true
[ ${#running[@]} = 0 ] || fail "left running: ${!running[*]}"
say "the image is as it should be"
