PYTHON ?= python3
VENV = .venv
CONSTRAINTS = constraints.txt
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
DOCS_STAMP = $(VENV)/.installed-docs
WORKERS = 2
CODE = src tests benchmarks scripts
PYTEST = $(BIN)/python -m pytest
PARALLEL = -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL = help
.PHONY: help quickstart test test-one test-all test-slowest test-oldest test-newest test-docs consumers fmt lint types check \
	docs bench wheel-test clean

help:                         ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: $(STAMP)          ## train CLIP, SimCLR and SLIP on the embedded scenes, compare them in a report
	$(BIN)/slip quickstart

test: $(STAMP)                ## the test suite on two workers, without what takes longer than 30 s a test
	$(PYTEST) $(PARALLEL)

test-one: $(if $(T),$(STAMP))  ## some tests: make test-one T=tests/test_config.py, or T='tests/cli -k train', slow ones too
	@test -n "$(T)" || { echo "Say which: make test-one T=tests/test_config.py" >&2; exit 2; }
	$(PYTEST) -m 'slow or not slow' $(T)

test-all: $(STAMP)            ## the whole test suite
	$(PYTEST) $(PARALLEL) -m 'slow or not slow'

test-slowest: $(STAMP)        ## the test suite, then the 20 tests that took longest; T=tests/cli for those of a folder
	$(PYTEST) $(PARALLEL) --durations=20 --durations-min=0 $(T)

test-oldest:                  ## the test suite with the lowest versions that pyproject.toml promises, on Python 3.11
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-newest:                  ## the test suite with the newest versions that pip finds today
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

test-docs: $(STAMP)           ## every code block of the tutorials, and the notebooks, from the first line to the last
	$(PYTEST) -m 'slow or not slow' tests/docs

consumers: $(STAMP)           ## the examples of docs/export.md, each where its library alone is installed: 7 GB of disk at a time
	PYTHONPATH=tests:tests/support $(BIN)/python -m exports.consumers $(FORMATS)

fmt: $(STAMP)                 ## format the code, and repair what ruff can repair
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lint: $(STAMP)                ## check style and format, and the Containerfile
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/hadolint Containerfile

types: $(STAMP)               ## check the types of src, tests, benchmarks and scripts
	$(BIN)/pyrefly check

check: test lint types        ## test, lint, types

docs: $(DOCS_STAMP)           ## build the site into site/; a broken link or anchor is an error
	$(BIN)/python scripts/reference.py docs/reference
	$(BIN)/zensical build --strict --clean

bench: $(STAMP)               ## a training step beside the reference formulation; B='data.py' for another benchmark
	$(BIN)/python benchmarks/$(or $(B),step.py --model tiny --steps 5)

wheel-test: $(STAMP)          ## build the source distribution and the wheel, and try the wheel where the source tree is not
	$(BIN)/python scripts/try_wheel.py

clean:                        ## remove what the other targets have made
	rm -rf .venv .venv-oldest .venv-newest site docs/reference build dist

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[docs]'
	touch $(DOCS_STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "openslip needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(STAMP)
