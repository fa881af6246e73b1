# Everything is set up here: an environment of its own in .venv, made anew
# when pyproject.toml changes.
#
#   make demo        reduce a small simulated night with bps
#   make test        ruff, mypy, the tests but for the slow ones, the documentation: five minutes
#   make test-all    all tests, also those on a cluster where one is up (make cluster): an hour
#   make on-cluster  those on the cluster, but for most of the faults
#   make faults      bring about each fault on the real engines (as root; half an hour)
#   make compat      install and run with the releases of BPS and Parsl that people have
#   make benchmark   compare with the released plugin: empty jobs, real quanta
#   make benchmark-slurm   the same quanta on Slurm, such as that of make cluster
#   make benchmark-memory  jobs in a node's memory (as root), memory of the workers
#   make doc         build the documentation into doc/_build
#   make cluster     start a Slurm cluster on this machine (root; Debian, Ubuntu)
#   make cluster-down  end it
#
# The environment has the newest Python that is found here, of those that were
# tried; PYTHON names another one, and VENV another directory.

PYTHON ?= $(shell .ci/newest-python)
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PEER := $(CURDIR)/.venv-peer
export PATH := $(BIN):$(PATH)

# What takes longer than this hangs.
PYTEST := timeout -k 30 3600 pytest -p no:cacheprovider --dist worksteal

.PHONY: demo test test-all lint types unit slow doc faults other-faults on-cluster compat compat-short
.PHONY: benchmark benchmark-slurm benchmark-memory benchmark-growth cluster cluster-down clean

demo: $(VENV)/demo.installed
	PYTHON=python3 examples/ccd_night/demo.sh  # That of the environment, whichever made it.

test: lint types unit doc
	@echo "Left out: slow tests, those on a cluster, and most of the faults. All of them: make test-all"

test-all: lint types unit slow on-cluster other-faults doc

lint: $(VENV)/test.installed
	ruff check .
	ruff format --check .

types: $(VENV)/test.installed
	mypy python tests benchmarks examples/ccd_night/python

unit: $(VENV)/test.installed
	$(PYTEST) -n 2 -m 'not slow' --ignore tests/cluster --ignore tests/faults tests
	$(PYTEST) -n 2 -m 'quick and not slow and not on_cluster' tests/faults

slow: $(VENV)/test.installed
	$(PYTEST) -n 2 -m slow --ignore tests/cluster --ignore tests/faults tests
	$(PYTEST) -n 2 -m 'quick and slow and not on_cluster' tests/faults

# MARKS chooses among them, such as MARKS=work_queue.
MARKS := not nothing
on-cluster: $(VENV)/test.installed
	$(PYTEST) -n 3 -m '($(MARKS)) and (not fault or quick and on_cluster)' tests/cluster tests/faults

other-faults: $(VENV)/test.installed
	$(PYTEST) -n 4 -m 'not quick' tests/faults

# The table in the documentation: make faults TABLE=doc/faults.csv
faults: $(VENV)/test.installed
	$(PYTEST) -n 4 $(if $(TABLE),--faults-table $(TABLE)) tests/faults

doc: $(VENV)/test.installed
	sphinx-build -W --keep-going -q -b html doc doc/_build/html

# An environment for each row of its table; ROWS names some of them.
compat: $(VENV)/test.installed
	python tests/compat/matrix.py $(ROWS)

compat-short: $(VENV)/test.installed
	python tests/compat/matrix.py --short

benchmark: $(VENV)/demo.installed $(PEER)/installed
	python benchmarks/compare.py --peer $(PEER)/bin/python
	python benchmarks/quanta.py --peer $(PEER)/bin/python

benchmark-slurm: $(VENV)/demo.installed $(PEER)/installed
	if [ -e .cluster/env.sh ]; then . .cluster/env.sh; fi; \
	    python benchmarks/quanta.py --site slurm --peer $(PEER)/bin/python

benchmark-memory: $(VENV)/demo.installed $(PEER)/installed
	python benchmarks/memory.py --peer $(PEER)/bin/python
	python benchmarks/workers.py --peer $(PEER)/bin/python

# What the driver and the reports do with 100,000 jobs, 300 runs and 500 nodes.
benchmark-growth: $(VENV)/test.installed
	python benchmarks/growth.py

cluster: $(VENV)/test.installed
	PYTHON=$(BIN)/python tests/cluster/up.sh

cluster-down:
	tests/cluster/down.sh

$(VENV)/%.installed: pyproject.toml
	@test -x $(BIN)/python || { python='$(PYTHON)'; test -n "$$python" || exit 1; \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or later is needed; name it with: make PYTHON=python3.11"; exit 1; }; \
	    echo "$$python -m venv $(VENV)"; $$python -m venv $(VENV); }
	pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# The release that people have, with the newest Parsl that it works with.
$(PEER)/installed:
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/pip install --quiet --disable-pip-version-check \
	    lsst-ctrl-bps-parsl==30.2026.300 parsl==2025.12.1
	touch $@

clean:
	rm -rf $(VENV) $(PEER) doc/_build doc/py-api demo build
