PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.installed
WORKERS = 2

.PHONY: quickstart test test-all consumers lint types check clean

quickstart: $(STAMP)          ## train CLIP, SimCLR and SLIP on the embedded scenes, compare them in a report
	$(BIN)/slip quickstart

test: $(STAMP)                ## the test suite on two workers, without what takes longer than 30 s a test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: $(STAMP)            ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'slow or not slow'

consumers: $(STAMP)           ## the examples of docs/export.md, each where its library alone is installed: 7 GB of disk at a time
	PYTHONPATH=tests $(BIN)/python -m exports.consumers $(FORMATS)

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(STAMP)
	$(BIN)/pyrefly check

check: test lint types

clean:
	rm -rf .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "openslip needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)
