# A bare Debian needs `apt-get install make python3 python3-venv`; everything else is done from here.

VENV := .venv
BIN := $(VENV)/bin

# For `make stress`; `make stress DRAY_TEST_KILLS=1000` asks for more.
DRAY_TEST_KILLS ?= 100
DRAY_TEST_TTL ?= 30

.DEFAULT_GOAL := help
.PHONY: help demo test check stress bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install Dray into .venv and show what it can do
	$(BIN)/dray demo

test: $(VENV)/.installed-dev ## run the tests on SQLite, PostgreSQL and MariaDB; ARGS="-k sqlite" goes to pytest
	@.ci/install-servers
	$(BIN)/pytest $(ARGS)

check: $(VENV)/.installed-dev ## run the linters and the type checker, then the tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src
	@$(MAKE) --no-print-directory test

stress: $(VENV)/.installed-dev ## kill workers again and again, and count that no job was lost
	@.ci/install-servers
	DRAY_TEST_KILLS=$(DRAY_TEST_KILLS) DRAY_TEST_TTL=$(DRAY_TEST_TTL) \
	    $(BIN)/pytest tests/acceptance/test_kill9.py -s --timeout=7200 $(ARGS)

bench: $(VENV)/.installed-dev ## measure Dray beside the bare drivers, about 10 minutes; ARGS="--quick drain" for less
	@.ci/install-servers
	$(BIN)/python -m benchmarks $(ARGS)

# bin/pip and not bin/python: without the package python3-venv an interpreter is left behind, but no pip.
$(BIN)/pip:
	@python3 -m venv $(VENV) || { echo "first: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/.installed $@
