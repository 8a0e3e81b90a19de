# `make demo` and `make test` need Rust, a C++ compiler and make, and bring the rest themselves.

# Outside the clone, so that a fresh clone does not compile RocksDB again. One directory and one profile for all
# targets, so that it is compiled once.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/quorate/target

CARGO ?= cargo
QUORATE = $(CARGO_TARGET_DIR)/debug/quorate

# What is handed to the subcommand: make demo ARGS='--messages 5000', make demo FILE=chat.ndjson
ARGS ?=
FILE ?=
# Seeds that make sim simulates: SEEDS fresh ones, or the SEED given.
SEEDS ?= 100
SEED ?=
# The simulation is compiled with a flag of its own, and so beside everything else.
SIM = RUSTFLAGS='--cfg tokio_unstable' CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)/simulation' \
  $(CARGO) run --quiet --locked --profile sim -p quorate-sim --
KNOWN_SEEDS = tests/sim/seeds.txt
# How long make fuzz fuzzes each target, which TARGET, and an INPUT to run it on once.
FUZZ_SECONDS ?= 10
TARGET ?=
INPUT ?=
# Whether make counts writes the counts that it measured.
UPDATE ?=
# How often nodes are killed and restarted by make kills.
KILLS ?= 100
# At which steps make crash-steps kills: all of them, or the one that a failure prints.
CRASH_STEPS ?= all

.DEFAULT_GOAL := help
.PHONY: help setup build release demo dev test planted crash-steps sim fuzz kills jepsen bench bench-peers counts
.PHONY: times lint fmt clean

help: ## Lists what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nThe first build compiles RocksDB: about 10 minutes on two cores, once.\n'
	@printf 'Build output: %s\n' '$(CARGO_TARGET_DIR)'

setup: ## Installs libclang if it is missing
	@.ci/setup

build: setup ## Builds the binary
	@$(CARGO) build --locked --workspace --bins
	@printf 'Built %s\n' '$(QUORATE)'

demo: build ## Three nodes, real chat, a killed leader, and the count of what was lost (FILE=chat.ndjson for yours)
	@'$(QUORATE)' demo $(if $(FILE),--file '$(FILE)') $(ARGS)

dev: build ## Leaves a three-node cluster running and says what to type next
	@'$(QUORATE)' dev $(ARGS)

test: setup ## Runs every test, and simulates for two minutes
	$(CARGO) test --locked --workspace $(ARGS)
	$(SIM) --known $(KNOWN_SEEDS) --seeds 1000 --within 110

sim: setup ## Simulates whole clusters: SEEDS=1000 fresh seeds, or SEED=42 (ARGS='--trace info' shows its log)
	@$(SIM) $(if $(SEED),--seed $(SEED),--known $(KNOWN_SEEDS) --seeds $(SEEDS)) $(ARGS)

fuzz: setup ## Fuzzes what decodes, guided by coverage: FUZZ_SECONDS=10 for each target, or TARGET=records
	@FUZZ_SECONDS='$(FUZZ_SECONDS)' TARGET='$(TARGET)' INPUT='$(INPUT)' CARGO='$(CARGO)' fuzz/run

# A build of its own, because no other may have the faults in it.
planted: setup ## Shows that planted faults do harm and are found, and that no crash point does any
	$(CARGO) test --locked --features failpoints --test planted --test crash_steps $(ARGS)

kills: setup ## Kills and restarts nodes under load, 100 times unless KILLS says otherwise: nothing may be lost
	KILLS='$(KILLS)' $(CARGO) test --locked --test cluster kills:: -- --nocapture

crash-steps: setup ## Kills the storage at each of its steps on the disk, where make test takes a sample: nothing may be lost
	CRASH_STEPS='$(CRASH_STEPS)' $(CARGO) test --locked --test crash_steps -- --nocapture $(ARGS)

# The planted build first: both leave their program at one place, and the plain one is to stay there.
jepsen: setup ## Breaks clusters and judges by what clients saw, positive controls included (ARGS='--only planted' for some)
	$(CARGO) build --locked -p quorate --features failpoints --bin quorate
	@cp -f '$(QUORATE)' '$(QUORATE)-planted'
	$(CARGO) build --locked --workspace --bins
	@'$(CARGO_TARGET_DIR)/debug/quorate-jepsen' matrix ci --binary '$(QUORATE)' \
	  --planted-binary '$(QUORATE)-planted' $(ARGS)

# For a release build, which takes RocksDB from the development build: it is compiled at the same level there, and Cargo
# says where it lies.
WITH_ROCKSDB = out="$${ROCKSDB_LIB_DIR:-$$($(CARGO) build --quiet --locked --workspace --bins --message-format=json | \
  sed -n 's/.*"package_id":"[^"]*librocksdb-sys[^"]*".*"out_dir":"\([^"]*\)".*/\1/p')}"; \
  test -n "$$out" || { echo 'RocksDB was not found in the development build' >&2; exit 1; }; \
  ROCKSDB_LIB_DIR="$$out" ROCKSDB_STATIC=1

SHIPPED = $(CARGO_TARGET_DIR)/shipped

release: build ## Builds the program as it is shipped: twice, and the second time by what the first did under load
	@$(WITH_ROCKSDB) CARGO='$(CARGO)' .ci/release '$(SHIPPED)'

bench: release ## Measures README's figures and writes benches/RESULTS.md (ARGS=word for some of them, without writing)
	@QUORATE='$(SHIPPED)/quorate' $(CARGO) bench --locked --profile dev --bench figures -- $(ARGS)

bench-peers: release ## Measures NATS, etcd, RabbitMQ, Kafka and Quorate into benches/PEERS.md (ARGS='-only etcd' only shows)
	@command -v go > /dev/null || { echo 'the drivers are in Go: install it (1.26 or newer)' >&2; exit 1; }
	@go build -C benches/peers -o '$(CARGO_TARGET_DIR)/bench-peers' .
	@cd benches/peers && '$(CARGO_TARGET_DIR)/bench-peers' -quorate '$(SHIPPED)/quorate' \
	  -data '$(CARGO_TARGET_DIR)' $(or $(ARGS),-page ../PEERS.md)

# The development profile, so that what we depend on is compiled already, with our own code optimised. It is compiled in
# one unit, as for a release: in sixteen, parts took more than twice the instructions, and some per cent more or fewer
# after a change elsewhere.
PARTS = CARGO_INCREMENTAL=0 $(CARGO) bench --locked --workspace --profile dev --config profile.dev.opt-level=3 \
  --config profile.dev.package.quorate.codegen-units=1 --config profile.dev.package.quorate-parts.codegen-units=1

counts: setup ## Compares the instructions of the hot parts with benches/parts/counts.txt (UPDATE=1 writes it anew)
	@.ci/setup valgrind
	@$(PARTS) --bench counts -- $(if $(UPDATE),--update)

times: setup ## Times the hot parts (ARGS=word for some of them)
	@$(PARTS) --bench times -- $(ARGS)

lint: setup ## Formatting and lints, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## Formats the source
	$(CARGO) fmt --all

clean: ## Removes the product's own build output, and keeps RocksDB
	$(CARGO) clean -p quorate -p quorate-client
