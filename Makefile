# The verbs of this project. CI calls the same.
.PHONY: demo test test-full bench lint docs miri fuzz

CARGO ?= cargo
# A real tree of text files that every Debian and Ubuntu machine has.
TREE ?= $(firstword $(wildcard /usr/share/doc /usr/lib/python3 /usr/share))

# The main job on real input, and then once more while a worker is killed.
demo:
	$(CARGO) build --release --quiet --package broody-examples --example wordfreq
	target/release/examples/wordfreq $(TREE)
	@echo
	@echo "Once more, and a worker is killed half-way:"
	target/release/examples/wordfreq --kill-worker --top 3 $(TREE)

test:
	$(CARGO) test

# Kills after every instruction, and ten minutes of chaos.
test-full:
	$(CARGO) test
	BROODY_STEPS=all BROODY_CHAOS_SECONDS=600 BROODY_POOL_TASKS=20000 \
		$(CARGO) test --release --package broody-tests --test step --test chaos --test pools

# The protocols and parsers that need no kernel.
miri:
	PROPTEST_CASES=8 MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --package broody-shm --lib -- \
		queue:: owner::tests lease::tests arena::layout robust::lock

fuzz:
	$(CARGO) +nightly fuzz run frame -- -max_total_time=60

# Figures beside those of the peers; several minutes.
bench:
	$(CARGO) build --release --package broody-bench
	target/release/broody-bench > target/benchmarks.md
	cp target/benchmarks.md docs/benchmarks.md

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --document-private-items

docs:
	$(CARGO) doc --workspace --no-deps --open
