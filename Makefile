# The verbs of this project. CI calls the same.
.PHONY: demo test bench lint docs

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
