PYTHON ?= python3
VENV = .venv
CONSTRAINTS = constraints.txt
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
WORKERS = 2

.PHONY: quickstart test test-all test-oldest test-newest consumers lint types check clean

quickstart: $(STAMP)          ## train CLIP, SimCLR and SLIP on the embedded scenes, compare them in a report
	$(BIN)/slip quickstart

test: $(STAMP)                ## the test suite on two workers, without what takes longer than 30 s a test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: $(STAMP)            ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'slow or not slow'

test-oldest:                  ## the test suite with the lowest versions that pyproject.toml promises, on Python 3.11
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-newest:                  ## the test suite with the newest versions that pip finds today
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

consumers: $(STAMP)           ## the examples of docs/export.md, each where its library alone is installed: 7 GB of disk at a time
	PYTHONPATH=tests $(BIN)/python -m exports.consumers $(FORMATS)

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(STAMP)
	$(BIN)/pyrefly check

check: test lint types

clean:
	rm -rf .venv .venv-oldest .venv-newest

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "openslip needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(STAMP)
