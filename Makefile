# A bare Debian needs `apt-get install make python3 python3-venv`; everything else is done from here.

VENV := .venv
BIN := $(VENV)/bin

# For `make stress`: MINUTES=60 shares an hour among the long suites and the databases; without, it is so many kills.
MINUTES ?= 0
REPEAT ?= 1
DRAY_TEST_KILLS ?= $(if $(filter 0,$(MINUTES)),100,0)
DRAY_TEST_TTL ?= 30

# Where somebody has set it each of the thousand programs that the tests start would compile all its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check stress bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install Dray into .venv and show what it can do
	$(BIN)/dray demo

test: $(VENV)/.installed-dev ## run the tests on SQLite, PostgreSQL and MariaDB; ARGS="-k sqlite" goes to pytest
	@.ci/install-servers
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	# Two at a time; in the order of their names the stories come first, which take longest: in xdist's order, by the number of
	# tests, they would come last, and one process would wait for the other's. The long suites last: who is in a hurry has seen
	# all else by then. Side by side they take half as long.
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m long
endif

check: $(VENV)/.installed-dev ## run the linters and the type checker, then the tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src
	@$(MAKE) --no-print-directory test

stress: $(VENV)/.installed-dev ## run the long suites for longer, and more than once: MINUTES=60 REPEAT=5
	@.ci/install-servers
	@for run in $$(seq $(REPEAT)); do \
	    echo "--- run $$run of $(REPEAT)"; \
	    DRAY_TEST_MINUTES=$(MINUTES) DRAY_TEST_KILLS=$(DRAY_TEST_KILLS) DRAY_TEST_TTL=$(DRAY_TEST_TTL) \
	        $(BIN)/pytest -m long -s --timeout=7200 $(ARGS) || exit; \
	done

bench: $(VENV)/.installed-dev ## measure Dray beside bare drivers and peers, for more than 20 minutes; ARGS="--quick drain" for less
	@.ci/install-servers
	@$(BIN)/python -m benchmarks.peers.install
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
