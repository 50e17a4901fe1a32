# Every habit is one command. `make setup` runs by itself, once, and again when the lock file changes.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11, \
	$(if $(shell $(name) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(name))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ringstead-setup
PACKAGES := ring storage_node replicator proxy scheduler ringstead
SOURCES := $(wildcard $(PACKAGES) tests bench)
ARGS ?=
SEED ?= 1

.PHONY: help setup run test long sim check lock clean bench

help:
	@echo "make run [ARGS=…]    a cluster on this machine (ARGS go to \`ringstead up\`)"
	@echo "make test [ARGS=…]   the tests (ARGS go to pytest)"
	@echo "make long            client and fault tests and crash points at full size"
	@echo "make sim SEED=… [COUNT=…]  a whole cluster on a virtual clock, with faults, from a seed"
	@echo "make check           ruff and mypy"
	@echo "make bench [ARGS=…]  the benchmarks"
	@echo "make setup           the virtual environment, from the lock file (the others do it)"
	@echo "make lock            the lock file, from pyproject.toml"
	@echo "make clean           remove the virtual environment and caches; data stays"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later with venv found; name one with PYTHON=…" >&2; exit 1; }
	@echo "setting up $(VENV), once; this takes a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP)
	@exec $(BIN)/ringstead up $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# The whole tree for every client, 5 GiB for the large object, every crash point: more than an hour on two cores.
long: $(STAMP)
	RINGSTEAD_TREE_FILES=5000 RINGSTEAD_LARGE_OBJECT_MIB=5120 RINGSTEAD_FAULT_TESTS=all RINGSTEAD_CRASH_POINTS=all \
		$(BIN)/python -m pytest tests/clients tests/faults tests/storage_node/test_crash_points.py $(ARGS)

# Each seed is a few virtual minutes and a second or two; PROCESSES=2 uses two processors.
sim: $(STAMP)
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.sim $(SEED) $(COUNT) $(if $(PROCESSES),--processes $(PROCESSES)) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m bench $(ARGS)

lock: $(STAMP)
	$(BIN)/pip-compile --quiet --allow-unsafe --extra=dev --generate-hashes --no-emit-index-url \
		--no-emit-find-links --strip-extras --output-file=requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
