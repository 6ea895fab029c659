#!/usr/bin/env bash
# Does what README.md says, as a newcomer does it: a new Debian 12 that holds what "You need" names and nothing else, a user
# without rights, an empty home with a blank in its name, no cache. There it clones the repository, runs `make run` until the
# engine is ready, ends it as Ctrl-C does, builds again, which must build nothing, and runs `make test`. Prints what each took.
#
#   deploy/check-fresh.sh            all of it
#   deploy/check-fresh.sh prepare    only the system, the clone, and whether its tools and registries can be reached
#
# Settings, from the environment:
#   FRESH_WORKTREE=1   take the work tree as it is; otherwise what HEAD has
#   FRESH_DIR          where the system and the logs go; some 15 GB [~/.cache/nexum/fresh]
#   KEEP=1             leave the system there
#   MIRROR             where Debian's packages come from [what this machine's apt uses for bookworm]
#   FRESH_HOME         the newcomer's home, inside [/home/new comer]
#
# Needs root, for debootstrap and chroot, and a machine with rustup: its toolchain is copied in, as rustup's installer would
# fetch it. How this machine reaches its registries (proxy, certificates, mirrors) is copied in, too.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "check-fresh: $*" >&2; exit 1; }
say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

goal=${1:-all}
[[ $goal == all || $goal == prepare ]] || fail "\`$goal\` is neither \`prepare\` nor \`all\`"
[ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and chroot: sudo make check-fresh"
suite=bookworm
dir=${FRESH_DIR:-$HOME/.cache/nexum/fresh}
home=${FRESH_HOME:-/home/new comer}
# The packages of "You need", and no package that these only recommend.
packages=(g++ make git python3-pip nodejs npm procps)
mkdir -p "$dir/logs"
root=$(mktemp -d "$dir/root.XXXXXX")
chmod 755 "$root"
logs=$dir/logs
job=

clean() {
	if [ -n "$job" ]; then
		# What runs inside has a process namespace of its own, and all of it ends with that namespace's first process.
		local first=
		read -r first _ <"/proc/$job/task/$job/children" || true
		kill -KILL "${first:-$job}" || true
		wait "$job" || true
	fi 2>/dev/null
	if [ "${KEEP:-}" = 1 ]; then
		echo "the system is kept in $root"
	else
		rm -rf --one-file-system "$root" || echo "left behind: $root" >&2
	fi
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- What this machine has --------------------------------------------------------------------------------------------------

if [ -n "$(git status --porcelain)" ]; then
	if [ "${FRESH_WORKTREE:-}" = 1 ]; then
		say "what is checked: the work tree, with what is not committed"
	else
		say "what is checked: $(git log -1 --format='%h %s'), WITHOUT what is not committed here; FRESH_WORKTREE=1 takes it in"
	fi
else
	say "what is checked: $(git log -1 --format='%h %s')"
fi

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

# --- The system -------------------------------------------------------------------------------------------------------------

# Opens the system for a command: mounts that nobody else sees, and no more of devices than programs expect.
# shellcheck disable=SC2016  # it is for the shell inside
enter='
set -euo pipefail
root=$1 user=$2 home=$3 script=$4
shift 4
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
	setpriv --reuid="$user" --regid="$user" --init-groups --inh-caps=-all /bin/bash -c "$script"
'

# Runs a command with mounts and processes of its own, and its output in the log `$1`.
apart() {
	local code=0 log=$1
	shift
	set -m # so that Ctrl-C reaches this script alone, which ends the rest
	unshare --mount --pid --fork --kill-child "$@" </dev/null >>"$logs/$log" 2>&1 &
	job=$!
	set +m
	wait "$job" || code=$?
	job=
	return "$code"
}

# Runs the script `$3` inside as the user `$1`, with its output in the log `$2`.
inside() {
	local user_home=$home
	[ "$1" != root ] || user_home=/root
	# The script does not replace the first shell: that one reaps what nobody waits for.
	apart "$2" bash -c "$enter" enter "$root" "$1" "$user_home" "cd; $3"$'\nexit $?' "${passed[@]}"
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

say "debootstrap of $suite"
: >"$logs/debootstrap.log"
apart debootstrap.log debootstrap --variant=minbase $suite "$root" "$MIRROR" ||
	{ tail -n 20 "$logs/debootstrap.log" >&2; fail "debootstrap failed"; }

cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
apt-config dump | { grep -E '^Acquire::(http|https|ftp|Check-|Retries|ForceIPv)' || true; } >"$root/etc/apt/apt.conf.d/90machine"
[ ! -d /etc/apt/auth.conf.d ] || cp -a /etc/apt/auth.conf.d/. "$root/etc/apt/auth.conf.d/"

say "installing ${packages[*]}"
must root packages.log "apt-get -q update && apt-get -q install -y --no-install-recommends ${packages[*]}" "installing packages"

for setting in "${passed[@]}"; do
	file=${setting#*=}
	[ ! -f "$file" ] || install -D -m 644 "$file" "$root$file"
done
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
for file in "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf" /etc/pip.conf; do
	[ ! -f "$file" ] || install -m 644 "$file" "$root/etc/pip.conf"
done
for file in "$(npm config get globalconfig 2>/dev/null || true)" "$HOME/.npmrc"; do
	[ ! -f "$file" ] || cat "$file" >>"$root/etc/npmrc"
done
[ ! -f "$cargo_home/config.toml" ] || install -D -m 644 "$cargo_home/config.toml" "$root/.cargo/config.toml"

say "the user, with $(basename "$toolchain") and rustup"
inside root user.log "useradd --create-home --home-dir '$home' --shell /bin/bash newcomer" || fail "see $logs/user.log"
name=$(basename "$toolchain")
copy_toolchain() {
	mkdir -p "$root$home/.rustup/toolchains/$name"
	tar -C "$toolchain" --exclude=./share/doc -cf - . | tar -C "$root$home/.rustup/toolchains/$name" -xf -
	inside root user.log "chown -R newcomer: '$home/.rustup' '$home/.cargo'"
}
mkdir -p "$root$home/.cargo/bin"
cp -L "$(command -v rustup)" "$root$home/.cargo/bin/rustup"
for proxy in cargo cargo-clippy cargo-fmt clippy-driver rustc rustdoc rustfmt; do ln -s rustup "$root$home/.cargo/bin/$proxy"; done
copy_toolchain
# The target may be there or not: what comes after wants it away.
inside newcomer user.log "rustup default $name && cargo --version &&
	{ ! rustup target list --installed | grep -qx wasm32-wasip2 || rustup target remove wasm32-wasip2; }" || fail "see $logs/user.log"
# `make` installs the target. Where nothing can be had from Rust's own server, the machine's is taken, and that step goes unseen.
if inside newcomer user.log 'timeout 300 rustup target add wasm32-wasip2'; then
	inside newcomer user.log 'rustup target remove wasm32-wasip2'
else
	[ -d "$toolchain/lib/rustlib/wasm32-wasip2" ] || fail "rustup can fetch nothing here, and this machine has no target wasm32-wasip2 to copy in"
	say "NOT SHOWN: that make installs the target wasm32-wasip2, since rustup can fetch nothing here; it is copied in"
	copy_toolchain
fi

say "the clone"
# A bare copy that belongs to the user: git refuses a repository of somebody else.
git clone --quiet --bare --no-hardlinks . "$root/srv/nexum.git"
if [ "${FRESH_WORKTREE:-}" = 1 ]; then
	# Written to the copy alone; the index and the objects here are left as they are.
	(
		export GIT_DIR=$root/srv/nexum.git GIT_WORK_TREE=$PWD GIT_INDEX_FILE=$root/srv/index
		export GIT_AUTHOR_NAME=check-fresh GIT_AUTHOR_EMAIL=check-fresh GIT_COMMITTER_NAME=check-fresh GIT_COMMITTER_EMAIL=check-fresh
		git read-tree HEAD
		git add --all
		git update-ref HEAD "$(git commit-tree "$(git write-tree)" -p HEAD -m 'The work tree')"
	)
fi
inside root user.log 'chown -R newcomer: /srv/nexum.git'
must newcomer clone.log 'git clone --quiet /srv/nexum.git nexum && cd nexum && git log -1 --stat --format=%s | tail -n 5' "git clone"

if [ "$goal" = prepare ]; then
	say "what the tools reach"
	must newcomer tools.log 'set -euxo pipefail
		id; ls -A; env | cut -d= -f1 | sort | tr "\n" " "
		cargo --version; c++ --version; make --version | head -1; python3 --version; node --version; npm --version
		cd nexum; cargo fetch --quiet --locked
		make build-deps anvil & make build-deps anvil; wait $!
		find ~/.cache/nexum -maxdepth 1; make build-deps anvil
		~/.cache/nexum/bin/anvil --version' "trying the tools"
	cat "$logs/tools.log"
	say "prepared"
	exit 0
fi

# --- What README.md says ----------------------------------------------------------------------------------------------------

# `make run` until the engine is ready, a look at it, and Ctrl-C.
# shellcheck disable=SC2016  # it is for the shell inside
run='
cd nexum
set -m
SECONDS=0
: >/tmp/run.log # what follows may be sooner than make
make run >/tmp/run.log 2>&1 &
make=$!
tail -f /tmp/run.log --pid=$make & # to the log outside
ready=no
while kill -0 $make 2>/dev/null && [ $SECONDS -lt 5400 ]; do
	url=$(sed -n "s|.*Health: \(http://.*\)/health .*|\1|p" /tmp/run.log)
	if [ -n "$url" ] && python3 -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)" "$url/ready"; then
		ready=yes
		break
	fi
	sleep 1
done
echo "check-fresh: ready: $ready, after $SECONDS s"
kill -INT -- -$make
wait $make
code=$?
echo "check-fresh: make run ended with $code"
failed=0
[ $ready = yes ] || failed=1
# make ends by the signal itself, 130, whatever the recipe made of it; a recipe that failed is told as an error.
[ $code = 0 ] || [ $code = 130 ] || failed=1
! grep -q "Error [0-9]" /tmp/run.log || failed=1
grep -q "3 loaded" /tmp/run.log || failed=1
# tail ends with make, and the engine ended before demo.sh did: only this shell may be left.
for _ in 1 2 3 4 5; do
	sleep 1
	left=$(for entry in /proc/[0-9]*; do
		id=${entry#/proc/}
		[ $id = 1 ] || [ $id = $BASHPID ] || tr "\0" " " <$entry/cmdline 2>/dev/null
	done)
	[ -n "$left" ] || break
done
[ -z "$left" ] || { echo "check-fresh: left running: $left"; failed=1; }
[ -z "$(ls -d /tmp/nexum-demo.* 2>/dev/null)" ] || { echo "check-fresh: left behind: $(ls -d /tmp/nexum-demo.*)"; failed=1; }
exit $failed
'

minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

say "make run; its output goes to $logs/run.log"
SECONDS=0
must newcomer run.log "$run" "make run"
run_took=$(sed -n 's/^check-fresh: ready: yes, after \([0-9]*\) s$/\1/p' "$logs/run.log")
say "make run was ready after $(minutes "$run_took"), and ended at Ctrl-C"

must newcomer again.log 'cd nexum && make build' "make build, the second time"
! grep -q Compiling "$logs/again.log" || { cat "$logs/again.log" >&2; fail "a second make builds again what the first one built"; }
say "a second make builds nothing"

say "make test; its output goes to $logs/test.log"
SECONDS=0
must newcomer test.log 'cd nexum && timeout 7200 make test' "make test"
test_took=$SECONDS

echo
echo "in a new Debian 12, on $(nproc) cores:"
echo "  make run    ready after $(minutes "$run_took")"
echo "  make test   passed after $(minutes "$test_took"), in the clone that make run had built"
