# Everything is set up here: an environment of its own in .venv, made anew
# when pyproject.toml changes.
#
#   make demo        reduce a small simulated night with bps
#   make test        run the whole test suite, but for most of the faults
#   make faults      bring about each fault on the real engines (as root; under an hour)
#   make benchmark   compare with the released plugin: empty jobs, real quanta
#   make benchmark-slurm   the same quanta on Slurm, such as that of make cluster
#   make benchmark-memory  jobs in a node's memory (as root), memory of the workers
#   make doc         build the documentation into doc/_build
#   make cluster     start a Slurm cluster on this machine (root; Debian, Ubuntu)
#   make cluster-down  end it

PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PEER := $(CURDIR)/.venv-peer
export PATH := $(BIN):$(PATH)

.PHONY: demo test lint types unit doc faults other-faults benchmark benchmark-slurm benchmark-memory cluster cluster-down clean

demo: $(VENV)/demo.installed
	examples/ccd_night/demo.sh

test: lint types unit doc

lint: $(VENV)/test.installed
	ruff check .
	ruff format --check .

types: $(VENV)/test.installed
	mypy python tests benchmarks examples/ccd_night/python

unit: $(VENV)/test.installed
# Many processes, and then virtual nodes and their daemons, share two cores with
# the tests: what fails once is tried once more, and the summary says so.
	pytest -n 3 --dist worksteal --reruns 1 -rR --ignore tests/cluster --ignore tests/faults tests
	pytest -n 5 --dist worksteal --reruns 1 -rR tests/cluster
	$(FAULTS) -m quick

# What has broken a promise is not tried again: only what was late or in the way.
FAULTS := timeout -k 30 3600 pytest -n 5 --dist worksteal --reruns 1 --rerun-except BrokenPromise -rR tests/faults

# The table in the documentation: make faults TABLE=doc/faults.csv
faults: $(VENV)/test.installed
	$(FAULTS) $(if $(TABLE),--faults-table $(TABLE))

# What is left of them after make test.
other-faults: $(VENV)/test.installed
	$(FAULTS) -m 'not quick'

doc: $(VENV)/test.installed
	sphinx-build -W --keep-going -q -b html doc doc/_build/html

benchmark: $(VENV)/demo.installed $(PEER)/installed
	python benchmarks/compare.py --peer $(PEER)/bin/python
	python benchmarks/quanta.py --peer $(PEER)/bin/python

benchmark-slurm: $(VENV)/demo.installed $(PEER)/installed
	if [ -e .cluster/env.sh ]; then . .cluster/env.sh; fi; \
	    python benchmarks/quanta.py --site slurm --peer $(PEER)/bin/python

benchmark-memory: $(VENV)/demo.installed $(PEER)/installed
	python benchmarks/memory.py --peer $(PEER)/bin/python
	python benchmarks/workers.py --peer $(PEER)/bin/python

cluster: $(VENV)/test.installed
	PYTHON=$(BIN)/python tests/cluster/up.sh

cluster-down:
	tests/cluster/down.sh

$(VENV)/%.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or later is needed; name it with: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
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
