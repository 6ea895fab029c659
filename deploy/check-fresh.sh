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

program=check-fresh
goal=${1:-all}
dir=${FRESH_DIR:-$HOME/.cache/nexum/fresh}
home=${FRESH_HOME:-/home/new comer}
# shellcheck source=deploy/debian.sh
. deploy/debian.sh
[[ $goal == all || $goal == prepare ]] || fail "\`$goal\` is neither \`prepare\` nor \`all\`"
# The packages of "You need", and no package that these only recommend.
packages=(g++ make git python3-pip nodejs npm procps)

if [ -n "$(git status --porcelain)" ]; then
	if [ "${FRESH_WORKTREE:-}" = 1 ]; then
		say "what is checked: the work tree, with what is not committed"
	else
		say "what is checked: $(git log -1 --format='%h %s'), WITHOUT what is not committed here; FRESH_WORKTREE=1 takes it in"
	fi
else
	say "what is checked: $(git log -1 --format='%h %s')"
fi

# --- The system -------------------------------------------------------------------------------------------------------------

new_system
say "installing ${packages[*]}"
must root packages.log "apt-get -q update && apt-get -q install -y --no-install-recommends ${packages[*]}" "installing packages"
connect

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
