# The only task runner. `make help` prints what there is; CI calls `make test`.
#
# What a recipe installs or builds must not change what this file says: make reads it before the first recipe, so that a second
# run would build with another environment, and build anew what depends on it. Paths are quoted, since a home may have a blank.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Everything that can be reused between clones: test servers, the built RocksDB, bundles of the guests.
CACHE := $(HOME)/.cache/nexum
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# Guests get a folder of their own: their profile and target differ from the engine's.
GUEST_TARGET_DIR := $(CARGO_TARGET_DIR)/guests
export NEXUM_BUNDLES := $(CARGO_TARGET_DIR)/bundles
# Two makes may run at once. What is kept in the cache is put there by one at a time, and renamed to its place when it is whole.
LOCK_CACHE := mkdir -p "$(CACHE)"; exec 9> "$(CACHE)/lock"; flock 9

# One profile for clippy, tests and the binaries, so that nothing is built twice.
CARGO_FLAGS := --release --workspace
BENCH_FLAGS := --workspace --quiet
export NEXUM_BENCH ?= short

# RocksDB's C++ takes ten minutes on two cores. It is kept per version and used when it is there. A target folder that has built
# its own goes on with that one: a change of ROCKSDB_LIB_DIR builds anew everything above it.
ROCKSDB_VERSION := $(shell grep -A1 'name = "librocksdb-sys"' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
ROCKSDB_DIR := $(CACHE)/rocksdb-$(ROCKSDB_VERSION)
ROCKSDB_OWN := $(CARGO_TARGET_DIR)/rocksdb-$(ROCKSDB_VERSION).built-here
ifeq ($(shell [ -e "$(ROCKSDB_DIR)/librocksdb.a" ] && [ ! -e "$(ROCKSDB_OWN)" ] && echo kept),kept)
export ROCKSDB_LIB_DIR := $(ROCKSDB_DIR)
export ROCKSDB_STATIC := 1
endif

# bindgen needs libclang. The wheel is used whatever the system has, so that every machine builds with the same one; who sets
# LIBCLANG_PATH brings another. The paths are set before the wheel is there: the recipe that runs first installs it.
LIBCLANG_VERSION := 18.1.1
LIBCLANG_WHEEL := $(CACHE)/libclang-$(LIBCLANG_VERSION)
# A make that this one starts finds it set to that.
ifeq ($(or $(LIBCLANG_PATH),$(LIBCLANG_WHEEL)/clang/native),$(LIBCLANG_WHEEL)/clang/native)
LIBCLANG := $(LIBCLANG_WHEEL)/clang/native/libclang.so
export LIBCLANG_PATH := $(LIBCLANG_WHEEL)/clang/native
# The wheel holds the library without the compiler's own headers.
export BINDGEN_EXTRA_CLANG_ARGS := -I$(shell $${CXX:-c++} -print-file-name=include)
endif

# Anvil as the package of this platform has it. The package `@foundry-rs/anvil` is a wrapper around it, which wants a newer
# Node.js than Debian 12 has, runs a script when it is installed, and does not pass on signals.
ANVIL_VERSION := 1.7.1
ANVIL_PACKAGE := @foundry-rs/anvil-$(shell uname -sm | tr 'A-Z ' 'a-z-' | sed 's/x86_64/amd64/; s/aarch64/arm64/')
ANVIL_DIR := $(CACHE)/anvil-$(ANVIL_VERSION)
ifndef NEXUM_ANVIL
ANVIL := $(ANVIL_DIR)/node_modules/$(ANVIL_PACKAGE)/bin/anvil
export NEXUM_ANVIL := $(ANVIL)
endif

# What stands for AWS KMS in the tests: moto, from PyPI.
MOTO_REQUIREMENTS := $(CURDIR)/fixtures/moto/requirements.txt
MOTO := $(CACHE)/moto-$(shell sha256sum < "$(MOTO_REQUIREMENTS)" | cut -c 1-12)
export NEXUM_MOTO ?= $(MOTO)

# What makes components of Python and of JavaScript, each file of it held to its hash. For the long form alone.
LANGUAGES := $(CURDIR)/fixtures/languages
PYTHON_TOOLS = $(CACHE)/componentize-py-$(shell sha256sum < "$(LANGUAGES)/python/requirements.txt" | cut -c 1-12)
JAVASCRIPT_TOOLS = $(CACHE)/componentize-js-$(shell sha256sum < "$(LANGUAGES)/javascript/package-lock.json" | cut -c 1-12)

# The pinned one comes after what is on the machine.
NEXTEST_VERSION := 0.9.143
NEXTEST_DIR := $(CACHE)/cargo-nextest-$(NEXTEST_VERSION)
DENY_VERSION := 0.20.2
DENY_DIR := $(CACHE)/cargo-deny-$(DENY_VERSION)
MACHETE_VERSION := 0.9.2
MACHETE_DIR := $(CACHE)/cargo-machete-$(MACHETE_VERSION)
export PATH := $(PATH):$(NEXTEST_DIR)/bin:$(DENY_DIR)/bin:$(MACHETE_DIR)/bin

# For the compose stack's Dockerfile, held to its hash.
HADOLINT_DIR = $(CACHE)/hadolint-$(shell sha256sum < deploy/hadolint.txt | cut -c 1-12)
HADOLINT = $(HADOLINT_DIR)/bin/hadolint

.PHONY: help
help: ## print this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: build-deps
build-deps:
	@[ -z "$${LIBCLANG_PATH:-}" ] || [ -n "$(LIBCLANG)" ] || [ -f "$$LIBCLANG_PATH" ] || \
		[ -n "$$(find -L "$$LIBCLANG_PATH" -maxdepth 1 \( -name 'libclang*.so*' -o -name 'libclang.dylib' \) 2>/dev/null)" ] || { \
		echo "LIBCLANG_PATH: there is no libclang in $$LIBCLANG_PATH: set it to the folder that holds libclang.so, such as" \
			"/usr/lib/llvm-18/lib, or unset it, and make installs the one that it needs" >&2; exit 1; }
	@cxx=$${CXX:-c++}; for tool in cargo rustc cc $${cxx%% *} python3; do \
		command -v $$tool >/dev/null || { echo "this needs $$tool: README.md says what to install" >&2; exit 1; }; done
	@[ -d "$$(rustc --print target-libdir --target wasm32-wasip2)" ] || { \
		$(LOCK_CACHE); \
		[ -d "$$(rustc --print target-libdir --target wasm32-wasip2)" ] || rustup target add wasm32-wasip2; }
	@[ -z "$(LIBCLANG)" ] || [ -e "$(LIBCLANG)" ] || { \
		$(LOCK_CACHE); \
		if [ ! -e "$(LIBCLANG)" ]; then \
			echo "installing libclang $(LIBCLANG_VERSION) for bindgen"; \
			rm -rf "$(LIBCLANG_WHEEL)" "$(LIBCLANG_WHEEL).part"; \
			python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
				--target "$(LIBCLANG_WHEEL).part" libclang==$(LIBCLANG_VERSION); \
			mv "$(LIBCLANG_WHEEL).part" "$(LIBCLANG_WHEEL)"; \
		fi; }

.PHONY: test-deps
test-deps: build-deps anvil moto nextest ## install what the tests need besides Rust: Anvil, from npm, moto, from PyPI, and cargo-nextest

.PHONY: anvil
anvil:
	@[ -z "$(ANVIL)" ] || [ -x "$(ANVIL)" ] || { \
		$(LOCK_CACHE); \
		if [ ! -x "$(ANVIL)" ]; then \
			echo "installing anvil $(ANVIL_VERSION)"; \
			rm -rf "$(ANVIL_DIR)" "$(ANVIL_DIR).part"; mkdir -p "$(ANVIL_DIR).part" "$(CACHE)/bin"; \
			npm install --loglevel=error --no-fund --no-audit --no-update-notifier --ignore-scripts \
				--prefix "$(ANVIL_DIR).part" $(ANVIL_PACKAGE)@$(ANVIL_VERSION); \
			mv "$(ANVIL_DIR).part" "$(ANVIL_DIR)"; \
			ln -sfn "$(ANVIL)" "$(CACHE)/bin/anvil"; \
		fi; }

.PHONY: moto
moto:
	@[ "$(NEXUM_MOTO)" != "$(MOTO)" ] || [ -e "$(MOTO)" ] || { \
		$(LOCK_CACHE); \
		if [ ! -e "$(MOTO)" ]; then \
			echo "installing moto"; \
			rm -rf "$(MOTO).part"; \
			python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
				--target "$(MOTO).part" -r "$(MOTO_REQUIREMENTS)"; \
			mv "$(MOTO).part" "$(MOTO)"; \
			ln -sfn "$(MOTO)" "$(CACHE)/moto"; \
		fi; }

.PHONY: nextest
nextest:
	@command -v cargo-nextest >/dev/null || { \
		$(LOCK_CACHE); \
		if ! command -v cargo-nextest >/dev/null; then \
			echo "building cargo-nextest $(NEXTEST_VERSION), which takes some minutes"; \
			env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$(NEXTEST_DIR)" cargo-nextest@$(NEXTEST_VERSION); \
		fi; }

.PHONY: deny-deps
deny-deps:
	@command -v cargo-deny >/dev/null || { \
		$(LOCK_CACHE); \
		if ! command -v cargo-deny >/dev/null; then \
			echo "building cargo-deny $(DENY_VERSION), which takes some minutes"; \
			env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$(DENY_DIR)" cargo-deny@$(DENY_VERSION); \
		fi; }
	@command -v cargo-machete >/dev/null || { \
		$(LOCK_CACHE); \
		if ! command -v cargo-machete >/dev/null; then \
			echo "building cargo-machete $(MACHETE_VERSION), which takes some minutes"; \
			env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$(MACHETE_DIR)" cargo-machete@$(MACHETE_VERSION); \
		fi; }

.PHONY: build
build: build-deps ## build `nexum` and `nexumctl`
	@cargo build $(CARGO_FLAGS) --bins
	@[ -n "$${ROCKSDB_LIB_DIR:-}" ] || [ -e "$(ROCKSDB_OWN)" ] || { \
		built=$$(find "$(BIN)/build" -path '*librocksdb-sys-*' -name librocksdb.a -size +1M -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-); \
		[ -n "$$built" ] || exit 0; \
		$(LOCK_CACHE); \
		if [ ! -e "$(ROCKSDB_DIR)/librocksdb.a" ]; then \
			mkdir -p "$(ROCKSDB_DIR)"; \
			cp "$$built" "$(ROCKSDB_DIR)/librocksdb.a.part"; \
			mv "$(ROCKSDB_DIR)/librocksdb.a.part" "$(ROCKSDB_DIR)/librocksdb.a"; \
		fi; \
		touch "$(ROCKSDB_OWN)"; }

# What is shipped has no symbols. Beside each program lies a file with its line tables, which it names: with that file in the
# program's folder a backtrace says file and line, without it addresses alone. A client that has grown links what it must not.
DIST := $(CARGO_TARGET_DIR)/dist
CLIENT_BYTES_MAX := 6291456
.PHONY: dist
dist: build ## put what is shipped into target/dist: both programs, stripped, and their line tables in files beside them
	@rm -rf "$(DIST)" && mkdir -p "$(DIST)"
	@for program in nexum nexumctl; do \
		objcopy --only-keep-debug "$(BIN)/$$program" "$(DIST)/$$program.debug"; \
		objcopy --strip-all --add-gnu-debuglink="$(DIST)/$$program.debug" "$(BIN)/$$program" "$(DIST)/$$program"; \
		chmod 0644 "$(DIST)/$$program.debug"; \
		"$(DIST)/$$program" --version >/dev/null; \
	done
	@bytes=$$(stat --format=%s "$(DIST)/nexumctl"); [ "$$bytes" -le $(CLIENT_BYTES_MAX) ] || { \
		echo "nexumctl has $$bytes bytes, more than $(CLIENT_BYTES_MAX)" >&2; exit 1; }
	@ls -l "$(DIST)"

.PHONY: guests
guests: build ## build the libraries, the example modules and the test guests into bundles
	@for manifest in sdk/libraries/*/Cargo.toml fixtures/libraries/*/Cargo.toml fixtures/guests/*/Cargo.toml sdk/examples/*/Cargo.toml; do \
		package=$$(sed -n 's/^name = "\(.*\)"/\1/p' $$manifest | head -1); \
		CARGO_TARGET_DIR="$(GUEST_TARGET_DIR)" CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}/registry/src=/registry" \
			cargo build --quiet --locked --target wasm32-wasip2 --profile guest -p $$package; \
		dir=$$(dirname $$manifest); \
		libraries=$$(sed -n 's|^\[libraries\.\(.*\)\]|--library=$(NEXUM_BUNDLES)/\1|p' $$dir/nexum.toml); \
		"$(BIN)/nexum" module package $$dir --component "$(GUEST_TARGET_DIR)/wasm32-wasip2/guest/$${package//-/_}.wasm" \
			$$libraries --out "$(NEXUM_BUNDLES)/$$(basename $$dir)" >/dev/null; \
	done

.PHONY: languages-deps
languages-deps:
	@tools="$(PYTHON_TOOLS)"; [ -e "$$tools" ] || { \
		$(LOCK_CACHE); \
		if [ ! -e "$$tools" ]; then \
			echo "installing componentize-py"; \
			rm -rf "$$tools.part"; \
			python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
				--target "$$tools.part" -r "$(LANGUAGES)/python/requirements.txt"; \
			mv "$$tools.part" "$$tools"; \
		fi; }
	@tools="$(JAVASCRIPT_TOOLS)"; [ -e "$$tools" ] || { \
		$(LOCK_CACHE); \
		if [ ! -e "$$tools" ]; then \
			echo "installing componentize-js"; \
			rm -rf "$$tools.part"; mkdir -p "$$tools.part"; \
			cp "$(LANGUAGES)/javascript/package.json" "$(LANGUAGES)/javascript/package-lock.json" "$$tools.part"; \
			(cd "$$tools.part" && npm ci --loglevel=error --no-fund --no-audit --no-update-notifier --ignore-scripts); \
			mv "$$tools.part" "$$tools"; \
		fi; }

# In a folder of its own: componentize-py leaves files where it runs.
.PHONY: languages
languages: build languages-deps
	@work="$(CARGO_TARGET_DIR)/languages"; rm -rf "$$work"; mkdir -p "$$work"; cp "$(LANGUAGES)/python/app.py" "$$work"; \
	wit="$(CURDIR)/host-ifaces/wit"; \
	(cd "$$work" && PYTHONPATH="$(PYTHON_TOOLS)" python3 "$(PYTHON_TOOLS)/bin/componentize-py" -d "$$wit" -w event-module \
		componentize app -o python.wasm); \
	node "$(JAVASCRIPT_TOOLS)/node_modules/@bytecodealliance/componentize-js/src/cli.js" "$(LANGUAGES)/javascript/app.js" \
		-w "$$wit" -n event-module -o "$$work/javascript.wasm"; \
	for language in python javascript; do \
		"$(BIN)/nexum" module package "$(LANGUAGES)/$$language" --component "$$work/$$language.wasm" \
			--out "$(NEXUM_BUNDLES)/$$language" >/dev/null; \
	done

.PHONY: run
run: guests ## start the engine on the embedded mock chain with example modules, and look at it
	@BIN="$(BIN)" BUNDLES="$(NEXUM_BUNDLES)" deploy/demo.sh

.PHONY: fmt
fmt: ## format
	@cargo fmt --all

.PHONY: lint
lint: build-deps ## rustfmt and clippy, warnings denied
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	@cargo fmt --all --check
	@cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

.PHONY: check
check: test-deps lint guests ## what CI runs: lint, every test, the proofs in their short form
	@# Those with `_long_` in their names belong to the long form: `make prove-outage`.
	@cargo nextest run $(CARGO_FLAGS) --no-fail-fast -E 'not test(/_long_/)'
	@$(MAKE) --no-print-directory bench NEXUM_BENCH=smoke

.PHONY: test
test: check ## the same as `make check`

KILLS ?= 50
.PHONY: prove-exactly-once
prove-exactly-once: test-deps guests ## kill the engine, then the node, KILLS times each; the record must equal the chain
	@NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_exactly_once)'

.PHONY: prove-reorg
prove-reorg: test-deps guests ## reorgs of depth 1 to 20, while running, stopped and killed; the state must equal that of a fresh engine
	@NEXUM_REORGS=all NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_reorg)'

OUTAGE_SECONDS ?= 250
.PHONY: prove-outage
prove-outage: test-deps guests ## endpoints that stall, lag, lie, refuse, cut, each in every rank; then all down for OUTAGE_SECONDS
	@NEXUM_ENDPOINTS=all NEXUM_OUTAGE_SECONDS=$(OUTAGE_SECONDS) cargo nextest run $(CARGO_FLAGS) --no-fail-fast -E 'test(prove_outage)'

# What a fuzzer finds goes to the target folder; what is kept of it is put into fixtures/fuzz/corpus by hand, and runs with the tests.
FUZZ_SECONDS ?= 60
CARGO_FUZZ_VERSION := 0.13.1
.PHONY: fuzz
fuzz: build-deps ## fuzz every reader of what others wrote, from nodes' answers to records of the store, FUZZ_SECONDS each; needs a nightly Rust
	@command -v cargo-fuzz >/dev/null || env -u CARGO_TARGET_DIR cargo install --quiet --locked cargo-fuzz@$(CARGO_FUZZ_VERSION)
	@for name in header head logs envelope quantity receipts allow location retry-after manifest schedule component recording \
			key-file typed-data signer-answer engine-config order export record waku-page; do \
		mkdir -p "$(CARGO_TARGET_DIR)/fuzz-corpus/$$name"; \
		env -u CARGO_TARGET_DIR cargo +nightly fuzz run --fuzz-dir fixtures/fuzz $$name "$(CARGO_TARGET_DIR)/fuzz-corpus/$$name" \
			fixtures/fuzz/corpus/$$name -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=5 -verbosity=0; \
	done

# `make check` holds the lock file against deny.toml, and looks for dependencies that nothing names, without these two.
.PHONY: deny
deny: deny-deps ## hold every dependency against deny.toml: licences, sources, versions, advisories; and find unused ones
	@cargo deny --locked check bans licenses sources
	@if cargo deny fetch db >/dev/null 2>&1; then cargo deny --locked check advisories; \
		else echo "no advisory database can be fetched: advisories are not checked" >&2; fi
	@cargo machete

# The example of docs/ARCHITECTURE.md is in no other build: what is built with its feature is built besides everything else.
.PHONY: check-echo
check-echo: lint nextest ## build the worked example of docs/ARCHITECTURE.md and run it, with clippy over all that has it
	@cargo nextest run --release -p nexum-echo -p nexum-kernel --features echo -E 'test(echo)'
	@cargo clippy $(CARGO_FLAGS) --all-targets --features nexum-cli/echo -- -D warnings

# bee-js says what Swarm's addresses are. Its answers are kept; so this needs no network but when they are made anew.
SWARM := $(CURDIR)/fixtures/swarm
SWARM_TOOLS = $(CACHE)/bee-js-$(shell sha256sum < "$(SWARM)/package-lock.json" | cut -c 1-12)
.PHONY: swarm-deps
swarm-deps:
	@tools="$(SWARM_TOOLS)"; [ -e "$$tools" ] || { \
		$(LOCK_CACHE); \
		if [ ! -e "$$tools" ]; then \
			echo "installing bee-js"; \
			rm -rf "$$tools.part"; mkdir -p "$$tools.part"; \
			cp "$(SWARM)/package.json" "$(SWARM)/package-lock.json" "$$tools.part"; \
			(cd "$$tools.part" && npm ci --loglevel=error --no-fund --no-audit --no-update-notifier --ignore-scripts); \
			mv "$$tools.part" "$$tools"; \
		fi; }

.PHONY: swarm-vectors
swarm-vectors: swarm-deps ## write fixtures/swarm/vectors.json with bee-js; needs Node.js 20
	@cp "$(SWARM)/vectors.mjs" "$(SWARM_TOOLS)" && cd "$(SWARM_TOOLS)" && node vectors.mjs && cp vectors.json "$(SWARM)"

.PHONY: check-swarm
check-swarm: build-deps swarm-deps ## hold the stand-in for a Bee node against bee-js, which speaks with it as a client; needs Node.js 20
	@cargo build --release -p nexum-testkit-swarm
	@cp "$(SWARM)/client.mjs" "$(SWARM_TOOLS)"; url="$(CARGO_TARGET_DIR)/swarm-stand-in.url"; rm -f "$$url"; \
		"$(BIN)/swarm-stand-in" > "$$url" & node=$$!; trap 'kill $$node' EXIT; \
		until [ -s "$$url" ]; do sleep 0.1; done; \
		cd "$(SWARM_TOOLS)" && node client.mjs "$$(cat "$$url")" "$$(sed -n 's/^pub const BATCH.*"\(.*\)".*/\1/p' "$(CURDIR)/fixtures/testkit/swarm/src/lib.rs")"

.PHONY: check-deploy
check-deploy: hadolint ## check the alert rules and what they make of samples, the compose stack, the Dockerfile and the scripts; installs what is missing
	@command -v promtool >/dev/null || apt-get install -y --no-install-recommends prometheus >/dev/null
	@command -v docker-compose >/dev/null || apt-get install -y --no-install-recommends docker-compose python3-yaml >/dev/null
	@command -v shellcheck >/dev/null || apt-get install -y --no-install-recommends shellcheck >/dev/null
	@promtool check rules deploy/alerts.yaml
	@cd deploy && promtool test rules alerts.test.yaml
	@BIN="$(BIN)" BUNDLES="$(NEXUM_BUNDLES)" deploy/check-compose.sh
	@"$(HADOLINT)" deploy/Dockerfile && echo "hadolint has nothing to say of deploy/Dockerfile"
	@git ls-files -z '*.sh' | xargs -0 shellcheck && echo "shellcheck has nothing to say of the scripts"

.PHONY: hadolint
hadolint:
	@[ -e "$(HADOLINT)" ] || { \
		$(LOCK_CACHE); \
		if [ ! -e "$(HADOLINT)" ]; then \
			echo "installing hadolint"; \
			rm -rf "$(HADOLINT_DIR).part"; \
			python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
				--target "$(HADOLINT_DIR).part" -r deploy/hadolint.txt; \
			mv "$(HADOLINT_DIR).part" "$(HADOLINT_DIR)"; \
		fi; }

.PHONY: check-image
check-image: ## carry out deploy/Dockerfile without Docker, and start the stack's engine and Anvil from it; needs root
	@deploy/check-image.sh

SEEDS ?= 2000
.PHONY: sim
sim: guests ## simulate the engine: SEEDS=2000 worlds, or the trace of one with SEED=n; each must end as the chain says
	@cargo test $(CARGO_FLAGS) --quiet --test simulation -- $(if $(SEED),--seed $(SEED),$(if $(CASE),--case $(CASE),--seeds $(SEEDS)))

ROUNDS ?= 5
.PHONY: prove-isolation
prove-isolation: test-deps guests ## hostile neighbours beside fifty modules, together and one by one: what the fifty notice of them
	@NEXUM_ROUNDS=$(ROUNDS) NEXUM_NEIGHBOURS=$(NEIGHBOURS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_isolation)'

.PHONY: prove-languages
prove-languages: test-deps guests languages ## build a module in Python and one in JavaScript, and run both; needs Node.js 20
	@cargo nextest run $(CARGO_FLAGS) -E 'test(other_languages)'

STORE_FORMAT := v$(shell sed -n 's/.*const FORMAT_VERSION: u16 = \([0-9]*\);/\1/p' actors/store/src/open.rs)
.PHONY: golden
golden: test-deps guests ## write fixtures/state/vN with this version, once per store format; every version that reads the format must open it
	@NEXUM_GOLDEN=$(STORE_FORMAT) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(golden_write)'

.PHONY: prove-outbox
prove-outbox: test-deps guests ## kill the engine around sends KILLS times while the receiver fails; it must have exactly what was meant
	@NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_outbox)'

.PHONY: prove-transactions
prove-transactions: test-deps guests ## kill the engine KILLS times while the node loses answers, forgets, reorganises and is used by others; each transfer happens once
	@NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_transactions)'

MESSAGES ?= 100000
.PHONY: prove-messages
prove-messages: test-deps guests ## kill the engine and the Waku node KILLS times among messages that come late and twice; MESSAGES of history; each is handled once
	@NEXUM_KILLS=$(KILLS) NEXUM_MESSAGES=$(MESSAGES) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_messages)'

.PHONY: mutants
mutants: test-deps guests ## break the engine on purpose, one promise at a time (ONLY=text chooses some); a test must notice each
	@python3 fixtures/mutants/mutants.py --only "$(ONLY)"

BENCH_LINES := $(CARGO_TARGET_DIR)/bench-lines.jsonl
.PHONY: bench
bench: test-deps guests ## measure everything beside its floor; writes target/bench.json and docs/reference/performance.md
	@cargo bench $(BENCH_FLAGS) --bench delivery > "$(BENCH_LINES)"
	@NEXUM_BENCH_LINES="$(BENCH_LINES)" cargo bench $(BENCH_FLAGS) --bench performance

.PHONY: check-fresh
check-fresh: ## `make run` and `make test` as a newcomer has them: a new Debian, a user without rights, no cache; needs root
	@deploy/check-fresh.sh

# One after the other: they measure, and each wants the machine for itself.
.PHONY: check-long
check-long: ## what every release runs: all that takes longer than CI may; hours, and needs root
	@$(MAKE) --no-print-directory check-fresh
	@$(MAKE) --no-print-directory dist
	@$(MAKE) --no-print-directory check-deploy
	@$(MAKE) --no-print-directory check-image
	@$(MAKE) --no-print-directory check-echo
	@$(MAKE) --no-print-directory check-swarm
	@$(MAKE) --no-print-directory deny
	@$(MAKE) --no-print-directory sim
	@$(MAKE) --no-print-directory prove-exactly-once
	@$(MAKE) --no-print-directory prove-reorg
	@$(MAKE) --no-print-directory prove-outage
	@$(MAKE) --no-print-directory prove-outbox
	@$(MAKE) --no-print-directory prove-transactions
	@$(MAKE) --no-print-directory prove-messages
	@$(MAKE) --no-print-directory prove-isolation
	@$(MAKE) --no-print-directory prove-languages
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory mutants
