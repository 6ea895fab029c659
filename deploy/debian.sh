# shellcheck shell=bash disable=SC2034,SC2154  # names of this file are used where it is read, and the other way round
# New Debian systems, made with debootstrap, in which commands run apart from this machine. For scripts that are root's.
#
# Whoever reads this file sets before: program, for messages; dir, where systems and logs go; home, of the user inside.
# MIRROR is where Debian's packages come from [what this machine's apt uses for bookworm].
# A script may set, for the commands that it runs next: mounts, read_only, gives_up, under.

fail() { echo "$program: $*" >&2; exit 1; }
say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

[ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and chroot"
suite=bookworm
mkdir -p "$dir/logs"
logs=$dir/logs
roots=()
# The commands that run apart, by their process ids.
declare -A running=()
# What is mounted for a command besides, one per line: a path of this machine or `tmpfs`, a path inside, `ro` or options.
mounts=
# Whether all else is read-only for it [no].
read_only=
# Which rights it gives up: options of setpriv.
gives_up=(--inh-caps=-all)
# What it is started by, for a network or limits of its own.
under=()

# What runs inside has a process namespace of its own, and all of it ends with that namespace's first process: this one.
first_of() {
	local first=
	read -r first _ <"/proc/$1/task/$1/children" || true
	echo "${first:-$1}"
}

clean() {
	local job
	for job in "${!running[@]}"; do
		kill -KILL "$(first_of "$job")" || true
		wait "$job" || true
	done 2>/dev/null
	for root in "${roots[@]}"; do
		if [ "${KEEP:-}" = 1 ]; then
			echo "the system is kept in $root"
		else
			rm -rf --one-file-system "$root" || echo "left behind: $root" >&2
		fi
	done
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

command -v rustup >/dev/null || fail "this machine has no rustup to copy the toolchain from"
toolchain=$(cd / && rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
command -v debootstrap >/dev/null || { say "installing debootstrap"; apt-get install -y --no-install-recommends debootstrap >/dev/null; }
if [ -z "${MIRROR:-}" ]; then
	# shellcheck disable=SC2016  # apt fills it in
	MIRROR=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -v suite=$suite '$2 == suite && $3 == "main" && !found { print $1; found = 1 }')
	[ -n "$MIRROR" ] || fail "this machine's apt knows no mirror of $suite: set MIRROR"
fi

# The variables by which a machine tells its tools how to reach the outside.
passed=()
while IFS= read -r name; do
	passed+=("$name=${!name}")
done < <(compgen -e | grep -xE '(https?|no|all|HTTPS?|NO|ALL)_(proxy|PROXY)|SSL_CERT_(FILE|DIR)|(.*_)?CA_(BUNDLE|CERTS)|GIT_SSL_CAINFO|PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|PROXY|DEFAULT_TIMEOUT)|(npm_config|NPM_CONFIG)_(registry|cafile|proxy|https_proxy)|CARGO_(HTTP|NET|SOURCE|REGISTR).*|RUSTUP_(DIST_SERVER|UPDATE_ROOT)')

# Opens the system for a command: mounts that nobody else sees, and no more of devices than programs expect.
# shellcheck disable=SC2016  # it is for the shell inside
enter='
set -euo pipefail
root=$1 user=$2 home=$3 script=$4 mounts=$5 read_only=$6 gives_up=$7
shift 7
mount --bind "$root" "$root"
while read -r source target options; do
	case $source in
	"") continue ;;
	tmpfs) mount -t tmpfs -o "$options" tmpfs "$root$target" ;;
	*) mount --bind "$source" "$root$target" ;;
	esac
	[ "$options" != ro ] || mount -o remount,bind,ro "$root$target"
done <<<"$mounts"
[ -z "$read_only" ] || mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -m 1777 "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
cd /
# Signals may be ignored when this was started in the background, and what is ignored stays so.
exec chroot "$root" /usr/bin/env -i --default-signal=INT --default-signal=TERM \
	HOME="$home" USER="$user" LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive \
	PATH="$home/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@" \
	setpriv --reuid="$user" --regid="$user" --init-groups $gives_up /bin/bash -c "$script"
'

# Starts a command with mounts and processes of its own, and its output in the log `$1`. Its process id is `started`.
begin() {
	local log=$1
	shift
	set -m # so that Ctrl-C reaches this script alone, which ends the rest
	"${under[@]}" unshare --mount --pid --fork --kill-child "$@" </dev/null >>"$logs/$log" 2>&1 &
	started=$!
	set +m
	running[$started]=1
}

# Waits for what was started, and returns its exit code.
finish() {
	local code=0
	wait "$1" || code=$?
	unset "running[$1]"
	return "$code"
}

# Runs a command so, and waits for it.
apart() {
	begin "$@"
	finish "$started"
}

# Starts the script `$3` inside as the user `$1`, with its output in the log `$2`.
begin_inside() {
	local user_home=$home
	[ "$1" != root ] || user_home=/root
	begin "$2" bash -c "$enter" enter "$root" "$1" "$user_home" "$3" "$mounts" "$read_only" "${gives_up[*]}" "${passed[@]}"
}

# Runs a script so, and waits for it.
inside() {
	# The script does not replace the first shell: that one reaps what nobody waits for.
	begin_inside "$1" "$2" "cd; $3"$'\nexit $?'
	finish "$started"
}

# The same for a step that must succeed.
must() {
	: >"$logs/$2"
	inside "$@" || {
		echo "--- the end of $logs/$2" >&2
		tail -n 60 "$logs/$2" >&2
		fail "$4 failed"
	}
}

# Makes a new system, and calls it `root`.
new_system() {
	root=$(mktemp -d "$dir/root.XXXXXX")
	roots+=("$root")
	chmod 755 "$root"
	say "debootstrap of $suite"
	: >"$logs/debootstrap.log"
	apart debootstrap.log debootstrap --variant=minbase $suite "$root" "$MIRROR" ||
		{ tail -n 20 "$logs/debootstrap.log" >&2; fail "debootstrap failed"; }

	cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
	apt-config dump | { grep -E '^Acquire::(http|https|ftp|Check-|Retries|ForceIPv)' || true; } >"$root/etc/apt/apt.conf.d/90machine"
	[ ! -d /etc/apt/auth.conf.d ] || cp -a /etc/apt/auth.conf.d/. "$root/etc/apt/auth.conf.d/"
}

# Tells the tools of a system how this machine reaches its registries: proxy, certificates, mirrors.
connect() {
	local setting file
	for setting in "${passed[@]}"; do
		file=${setting#*=}
		[ ! -f "$file" ] || install -D -m 644 "$file" "$root$file"
	done
	[ ! -f /etc/ssl/certs/ca-certificates.crt ] || install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
	for file in "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf" /etc/pip.conf; do
		[ ! -f "$file" ] || install -m 644 "$file" "$root/etc/pip.conf"
	done
	rm -f "$root/etc/npmrc"
	for file in "$(npm config get globalconfig 2>/dev/null || true)" "$HOME/.npmrc"; do
		[ ! -f "$file" ] || cat "$file" >>"$root/etc/npmrc"
	done
	[ ! -f "$cargo_home/config.toml" ] || install -D -m 644 "$cargo_home/config.toml" "$root/.cargo/config.toml"
}
