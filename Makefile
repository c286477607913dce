# Needs make and Python 3.11 or newer with venv; everything else is set up in .venv. `make help` lists the targets.
# Without make:  python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[agent,embedded]' &&
#                .venv/bin/gpufleet up
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
GRAFANA_VENV := .venv-grafana
ARGS ?=
PYTEST_ARGS ?=
# Processes that share the tests, most of which wait for a broker or a store; 0 = one, with output as it comes.
JOBS ?= 2

.PHONY: help up test lint format types pytest fuzz chaos bench grafana clean

help:
	@echo 'make up      broker, store, simulated fleet, consumer and projector on this machine (ARGS="--nodes 20" ...)'
	@echo 'make test    everything that CI runs: ruff, mypy, pytest (PYTEST_ARGS="-k config" ...)'
	@echo 'make lint | format | types | pytest    one part of it'
	@echo 'make fuzz    fuzz every reader of hostile input, guided by coverage (ARGS="--minutes 60 message")'
	@echo 'make chaos   an hour of faults on a real Kafka, checked after each (ARGS="--seconds 600", "--seed 7 --schedules 1")'
	@echo 'make bench   measure ingest on this machine (ARGS="--seconds 60" ...)'
	@echo 'make grafana the command that provisions a Grafana, in an environment of its own (ARGS="plan" ...)'
	@echo 'make clean   remove .venv and caches; data folders stay'

up: $(VENV)/.stamp-up
	$(BIN)/gpufleet up $(ARGS)

test: lint types pytest

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.stamp-dev
	$(BIN)/mypy

pytest: $(VENV)/.stamp-dev $(GRAFANA_VENV)/.stamp
	$(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

fuzz: $(VENV)/.stamp-dev
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz.run $(ARGS)

chaos: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.stamp-up
	$(BIN)/gpufleet bench ingest $(ARGS)

grafana: $(GRAFANA_VENV)/.stamp
	$(GRAFANA_VENV)/bin/gpufleet grafana $(or $(ARGS),--help)

clean:
	rm -rf $(VENV) $(GRAFANA_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A stamp is newer than the files it was made from, so that a second run does nothing.
$(VENV)/.stamp-up: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'Installing gpufleet[agent,embedded]: more than 300 MB to download the first time (ClickHouse is most of it).' \
		'Runs on Linux x86-64, Linux arm64 and macOS arm64.'
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[agent,embedded]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'Installing gpufleet[dev]: more than 340 MB to download the first time (ClickHouse is most of it).' \
		'Runs on Linux x86-64, Linux arm64 and macOS arm64.'
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.stamp-up $@

# Apart from $(VENV): grafana-client's urllib3-future takes the place of the urllib3 that clickhouse-connect uses.
$(GRAFANA_VENV)/.stamp: pyproject.toml constraints-grafana.txt | $(VENV)/bin/python
	@echo 'Installing gpufleet[grafana] into $(GRAFANA_VENV): about 35 MB to download the first time.'
	@$(BIN)/python -m venv $(GRAFANA_VENV)
	@$(GRAFANA_VENV)/bin/python -m pip install --disable-pip-version-check -q -c constraints-grafana.txt -e '.[grafana]'
	@touch $@

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'gpufleet needs Python 3.11 or newer; found: '"$$(python3 --version 2>&1)" >&2; exit 2; }
	@case "$$(uname -s)-$$(uname -m)" in \
	Linux-x86_64|Linux-aarch64|Linux-arm64|Darwin-arm64) ;; \
	*) echo "gpufleet's broker and store run on Linux x86-64, Linux arm64 and macOS arm64;" \
		"found $$(uname -s) $$(uname -m)" >&2; exit 2;; \
	esac
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
		rm -rf $(VENV); exit 2; }
