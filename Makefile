# The verbs of this project. CI calls the same.
.PHONY: demo test test-rust test-python test-full conformance conformance-short programs bench lint docs miri fuzz

CARGO ?= cargo
PYTHON ?= python3
# Where the wheel is installed for tests, and what they need.
VENV ?= target/venv
# A real tree of text files that every Debian and Ubuntu machine has.
TREE ?= $(firstword $(wildcard /usr/share/doc /usr/lib/python3 /usr/share))

# The main job on real input, and then once more while a worker is killed.
demo:
	$(CARGO) build --release --quiet --package broody-examples --example wordfreq
	target/release/examples/wordfreq $(TREE)
	@echo
	@echo "Once more, and a worker is killed half-way:"
	target/release/examples/wordfreq --kill-worker --top 3 $(TREE)
	@echo
	@echo "A Python program, unchanged, under multiprocessing and under broody:"
	$(MAKE) --silent $(VENV)/installed
	$(VENV)/bin/python examples/python/compare.py examples/python/wordfreq.py
	@echo "The three classic zombie programs, under multiprocessing and under broody:"
	$(VENV)/bin/python examples/python/zombies.py
	$(VENV)/bin/python -m broody examples/python/zombies.py

test: test-rust test-python

test-rust:
	$(CARGO) test

# The wheel, in an environment of its own; again when one of its parts has changed.
$(VENV)/installed: pyproject.toml $(shell find python crates Cargo.lock -type f \
		-not -name '*.so' -not -name broody-supervisor -not -name '*.pyc')
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check pytest mypy joblib cloudpickle tqdm ipykernel jupyter_client .
	touch $@

test-python: $(VENV)/installed
	cd tests/python && ../../$(VENV)/bin/python -m pytest -q -p no:cacheprovider
	$(MAKE) conformance-short

# CPython's own test suites, unchanged, over broody: see tests/conformance. Ends well only if all is as KNOWN.toml says; runs all of it anyway.
# PYTHONS: further interpreters, as PYTHONS="python3.12 python3.13". JOBS: so many suites at the same time.
# TESTS: where the tests are that an interpreter comes without, and what the document says of them. Debian's, for 3.11:
#   apt-get download libpython3.11-testsuite && dpkg -x libpython3.11-testsuite*.deb FOLDER
#   make conformance TESTS='--tests 3.11=FOLDER/usr/lib/python3.11 --note "3.11=..."'
METHODS ?= fork spawn forkserver
PYTHONS ?=
JOBS ?= 2
TESTS ?=
CONFORMANCE = CONFORMANCE_INSTALLED=1 $(VENV)/bin/python tests/conformance/run.py $(addprefix --python ,$(VENV)/bin/python $(PYTHONS)) $(TESTS)
conformance: $(VENV)/installed
	rm -rf target/conformance
	$(CONFORMANCE) -j $(JOBS) --types processes,none,manager,threads --results target/conformance $(METHODS); status=$$?; \
		$(VENV)/bin/python tests/conformance/matrix.py target/conformance > target/conformance.md && cat target/conformance.md && exit $$status

# What `make test` runs of it: the two suites that ask most of broody, without the tests that go through managers and threads.
conformance-short: $(VENV)/installed
	$(CONFORMANCE) --suite multiprocessing --suite executor fork forkserver

# Programs that know nothing of broody, under the standard module and by `python -m broody`: see tests/programs. DOCUMENT=docs/programs.md writes that. TORCH=1 installs PyTorch.
GROUPS ?= documentation standard packages
TORCH ?=
DOCUMENT ?=
PROGRAMS_VENV ?= target/programs-venv
PROGRAMS_INSTALLED = $(PROGRAMS_VENV)/installed$(if $(TORCH),-torch)
PROGRAMS_PYTHON = $(if $(filter packages,$(GROUPS)),$(PROGRAMS_VENV),$(VENV))/bin/python
programs: $(VENV)/installed $(if $(filter packages,$(GROUPS)),$(PROGRAMS_INSTALLED))
	$(VENV)/bin/python tests/programs/run.py --jobs $(JOBS) $(if $(DOCUMENT),--document $(DOCUMENT)) \
		$(addprefix --python ,$(PROGRAMS_PYTHON) $(PYTHONS)) $(GROUPS)

$(PROGRAMS_INSTALLED):
	test -x $(PROGRAMS_VENV)/bin/python || $(PYTHON) -m venv $(PROGRAMS_VENV)
	$(PROGRAMS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check joblib numpy scikit-learn $(if $(TORCH),torch)
	touch $@

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
	$(MAKE) $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet numpy billiard joblib loky pebble mpire faster-fifo
	$(VENV)/bin/python benches/python/bench.py > target/benchmarks-python.md
	cp target/benchmarks-python.md docs/benchmarks-python.md

lint:
	$(CARGO) fmt --all --check
	$(MAKE) $(VENV)/installed
	$(VENV)/bin/python -m mypy
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --document-private-items

docs:
	$(CARGO) doc --workspace --no-deps --open
