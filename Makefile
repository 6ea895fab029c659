# The only task runner. `make help` prints what there is; CI calls `make test`.

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
export NEXUM_ANVIL ?= $(CACHE)/bin/anvil

# One profile for clippy, tests and the binaries, so that nothing is built twice.
CARGO_FLAGS := --release --workspace
BENCH_FLAGS := --workspace --quiet
export NEXUM_BENCH ?= short

# RocksDB's C++ takes ten minutes on two cores. It is kept per version and used when it is there.
ROCKSDB_VERSION := $(shell grep -A1 'name = "librocksdb-sys"' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
ROCKSDB_DIR := $(CACHE)/rocksdb-$(ROCKSDB_VERSION)
ifneq ($(wildcard $(ROCKSDB_DIR)/librocksdb.a),)
export ROCKSDB_LIB_DIR := $(ROCKSDB_DIR)
export ROCKSDB_STATIC := 1
endif

# bindgen needs libclang; the PyPI wheel serves where the system has none.
LIBCLANG_WHEEL := $(CACHE)/libclang
ifneq ($(wildcard $(LIBCLANG_WHEEL)/clang/native/libclang.so),)
export LIBCLANG_PATH := $(LIBCLANG_WHEEL)/clang/native
export BINDGEN_EXTRA_CLANG_ARGS := -I$(shell gcc -print-file-name=include)
endif

.PHONY: help
help: ## print this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: build-deps
build-deps:
	@rustup target list --installed 2>/dev/null | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2
	@if ! ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 && [ ! -e $(LIBCLANG_WHEEL)/clang/native/libclang.so ]; then \
		echo "installing libclang for bindgen"; \
		python3 -m pip install --quiet --target $(LIBCLANG_WHEEL) libclang; \
		exec $(MAKE) build-deps; fi

.PHONY: test-deps
test-deps: build-deps ## install what the tests need besides Rust: Anvil, from npm
	@# The node itself, not the npm wrapper: a signal to the wrapper does not reach it.
	@[ -x $(NEXUM_ANVIL) ] || { mkdir -p $(CACHE)/npm $(CACHE)/bin && \
		npm install --silent --no-fund --no-audit --prefix $(CACHE)/npm @foundry-rs/anvil@1.7.1 && \
		ln -sf $(CACHE)/npm/node_modules/@foundry-rs/anvil-*/bin/anvil $(NEXUM_ANVIL); }
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest

.PHONY: build
build: build-deps ## build `nexum` and `nexumctl`
	@cargo build $(CARGO_FLAGS) --bins
	@if [ ! -e $(ROCKSDB_DIR)/librocksdb.a ]; then \
		built=$$(find $(BIN)/build -path '*librocksdb-sys-*' -name librocksdb.a -size +1M | head -1); \
		if [ -n "$$built" ]; then mkdir -p $(ROCKSDB_DIR); cp "$$built" $(ROCKSDB_DIR)/librocksdb.a.tmp; mv $(ROCKSDB_DIR)/librocksdb.a.tmp $(ROCKSDB_DIR)/librocksdb.a; fi; fi

GUESTS := $(notdir $(wildcard fixtures/guests/*)) $(notdir $(wildcard sdk/examples/*))

.PHONY: guests
guests: build ## build the example modules and the test guests into bundles
	@for manifest in fixtures/guests/*/Cargo.toml sdk/examples/*/Cargo.toml; do \
		package=$$(sed -n 's/^name = "\(.*\)"/\1/p' $$manifest | head -1); \
		CARGO_TARGET_DIR=$(GUEST_TARGET_DIR) CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="--remap-path-prefix=$(HOME)/.cargo/registry/src=/registry" \
			cargo build --quiet --locked --target wasm32-wasip2 --profile guest -p $$package; \
		dir=$$(dirname $$manifest); \
		$(BIN)/nexum module package $$dir --component $(GUEST_TARGET_DIR)/wasm32-wasip2/guest/$${package//-/_}.wasm \
			--out $(NEXUM_BUNDLES)/$$(basename $$dir) >/dev/null; \
	done

.PHONY: run
run: guests ## start the engine on the embedded mock chain with example modules, and look at it
	@BIN=$(BIN) BUNDLES=$(NEXUM_BUNDLES) deploy/demo.sh

.PHONY: fmt
fmt: ## format
	@cargo fmt --all

.PHONY: lint
lint: build-deps ## rustfmt and clippy, warnings denied
	@cargo fmt --all --check
	@cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

.PHONY: check
check: test-deps lint guests ## what CI runs: lint, every test, the proofs in their short form
	@cargo nextest run $(CARGO_FLAGS) --no-fail-fast
	@$(MAKE) --no-print-directory bench NEXUM_BENCH=smoke

.PHONY: test
test: check ## the same as `make check`

KILLS ?= 50
.PHONY: prove-exactly-once
prove-exactly-once: test-deps guests ## kill the engine, then the node, KILLS times each; the record must equal the chain
	@NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_exactly_once)'

.PHONY: prove-reorg
prove-reorg: test-deps guests ## reorgs of depth 1 to 20, while running, stopped and killed; the state must equal a fresh replay
	@NEXUM_REORGS=all NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_reorg)'

OUTAGE_SECONDS ?= 250
.PHONY: prove-outage
prove-outage: test-deps guests ## endpoints that stall, lag, lie, refuse, cut; then all down for OUTAGE_SECONDS; nothing lost or doubled
	@NEXUM_OUTAGE_SECONDS=$(OUTAGE_SECONDS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_outage)'

.PHONY: check-deploy
check-deploy: ## check the alert rules and what they make of samples; installs promtool when it is missing
	@command -v promtool >/dev/null || apt-get install -y --no-install-recommends prometheus >/dev/null
	@promtool check rules deploy/alerts.yaml
	@cd deploy && promtool test rules alerts.test.yaml

SEEDS ?= 2000
.PHONY: sim
sim: guests ## simulate the engine: SEEDS=2000 worlds, or the trace of one with SEED=n; each must end as the chain says
	@cargo test $(CARGO_FLAGS) --quiet --test simulation -- $(if $(SEED),--seed $(SEED),$(if $(CASE),--case $(CASE),--seeds $(SEEDS)))

ROUNDS ?= 5
.PHONY: prove-isolation
prove-isolation: test-deps guests ## hostile neighbours beside fifty modules: every event once; the others' p99 with and without them
	@NEXUM_ROUNDS=$(ROUNDS) NEXUM_NEIGHBOURS=$(NEIGHBOURS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_isolation)'

STORE_FORMAT := v$(shell sed -n 's/.*const FORMAT_VERSION: u16 = \([0-9]*\);/\1/p' actors/store/src/open.rs)
.PHONY: golden
golden: test-deps guests ## write fixtures/state/vN with this version, once per store format; every later version must open it
	@NEXUM_GOLDEN=$(STORE_FORMAT) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(golden_write)'

.PHONY: prove-outbox
prove-outbox: test-deps guests ## kill the engine around sends KILLS times while the receiver fails; it must have exactly what was meant
	@NEXUM_KILLS=$(KILLS) cargo nextest run $(CARGO_FLAGS) --no-capture -E 'test(prove_outbox)'

BENCH_LINES := $(CARGO_TARGET_DIR)/bench-lines.jsonl
.PHONY: bench
bench: test-deps guests ## measure everything beside its floor; writes target/bench.json and docs/reference/performance.md
	@cargo bench $(BENCH_FLAGS) --bench delivery > $(BENCH_LINES)
	@NEXUM_BENCH_LINES=$(BENCH_LINES) cargo bench $(BENCH_FLAGS) --bench performance
