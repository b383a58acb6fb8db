# Two commands for a new user:
#	make bench	set everything up and measure this machine
#	make test	set everything up and pass the tests
# Both install the Debian packages that are missing when run as root, and name them
# otherwise; the Python side lives in .venv, by version and hash as requirements.lock has it, rebuilt
# when its inputs change.  pip resolves nothing (--no-deps): an extra that somebody asks for, as
# coverage[toml], would be looked up anew, and its next release stop the set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB_KERNEL := 6.1
INPUTS := pyproject.toml requirements.lock setup.py kvmharness/kvm/core.c kvmharness/kvm/core_build.py \
	$(wildcard guests/* kvmharness/lab/*.[ch])

.PHONY: explain bench test test-builds check lint packages overhead reproduce one-patch mutants nested timeline soak \
	deb lock lab-time clean

bench: $(VENV)/built
	$(BIN)/kvmharness run -o run.json

# What needs the machine to itself runs alone.  Where there is no usable /dev/kvm the KVM tests run
# inside a kernel booted in the lab.  The floor of the coverage is in pyproject.toml.
test: $(VENV)/built lint
	$(BIN)/pytest -n auto -m "not (kvm or lab)" --cov --cov-report=
	$(BIN)/pytest -m "(kvm or lab) and not slow" --cov --cov-append --cov-report=term:skip-covered
	@$(BIN)/kvmharness doctor >/dev/null || $(BIN)/pytest --lab $(LAB_KERNEL)

# Kernels built from source, booted and bisected, and the Debian package in a clean system: too long
# for each commit, so no part of `test`.
test-builds: $(VENV)/built
	$(BIN)/pytest -m "lab and slow"

# Before each commit: what needs no KVM, no lab and no browser, and simulates nothing for long.
check: $(VENV)/built lint
	$(BIN)/pytest -q -n auto -m "not (kvm or lab or browser or slow)"

lint: $(VENV)/built
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy

# What the harness costs over bare C, on this machine: bench/overhead.py.
overhead: $(VENV)/built
	$(BIN)/python bench/overhead.py

# The published figures of CR0.WP toggles beside those of Debian's kernels in the lab.
reproduce: $(VENV)/built
	$(BIN)/python bench/reproduce.py

# The cure alone: two builds of one kernel's KVM that differ by one line.
one-patch: $(VENV)/built
	$(BIN)/python bench/one_patch.py

# The proof that explain is exact, which goes on where it was stopped, and what docs/explain.md
# speaks of: half an hour.
explain: $(VENV)/built
	$(BIN)/python bench/explain_exact.py
	$(BIN)/python bench/explain_examples.py

# KVMs with one planted change each, and whether the tool says the truth of them.
mutants: $(VENV)/built
	$(BIN)/python bench/mutants.py

# Two levels: what an L2's toggle costs L0, kernel by kernel.
nested: $(VENV)/built
	$(BIN)/python bench/nested.py

# How long a lab takes, and where the time goes.
lab-time: $(VENV)/built
	$(BIN)/python bench/lab_time.py

# Debian's kernels, the oldest and the newest of each series, on both vendors: two hours of CPU time.
# It may be interrupted, and grows by what is new.
timeline: $(VENV)/built
	$(BIN)/kvmharness timeline --debian --machine tcg-svm,bochs-vmx -o timeline
	$(BIN)/kvmharness report --timeline timeline -o docs/timeline.html

# What docs/reliability.md has the figures of: 20 minutes; they are in soak.txt then.
soak: $(VENV)/built
	rm -f soak.txt
	KVMHARNESS_SOAK=$(CURDIR)/soak.txt $(BIN)/pytest -q tests/reliability tests/guest/test_hostile.py \
		tests/measure/test_selftest.py
	cat soak.txt

# A package for the Debian that this is, in dist/.
deb:
	./scripts/deb.sh

# Pin what set-up installs, by hash, anew: after a change of the dependencies in pyproject.toml.
lock: $(VENV)/built
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip-tools>=7'
	CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet --upgrade --generate-hashes \
		--allow-unsafe --strip-extras --extra test --no-annotate --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml

packages:
	@./scripts/packages.sh

$(VENV)/built: $(INPUTS) | packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/pip check --quiet
	touch $@

clean:
	rm -rf $(VENV) build kvmharness/blobs kvmharness/kvm/_core.*.so kvmharness/lab/trace-plugin.so
