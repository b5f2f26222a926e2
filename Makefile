# make serve    the broker on 127.0.0.1:9092 with an embedded PostgreSQL
# make install  .venv with the pinned requirements and .venv/bin/pg-kafka
# make test     all tests; make test TESTS=tests/unit for some
# make lint     format, lint, layers, types
# make advisories  known advisories of all that is pinned in requirements/; needs a connection to the package index
# make crash    one round of each fault under load, some four minutes
# make soak     rounds of faults under load until stopped; make soak ARGS='--rounds 100'
# make bank     transfers in transactions under faults, ten minutes; make bank ARGS='--seconds 3600'
# make fuzz     a minute of each fuzzer; make fuzz ARGS='--seconds 1200 --targets records'
# make bench    the yardstick, five minutes; make bench ARGS='--profile full', ARGS='--list'; make bench BENCH=codec for a part
# make wheel    dist/*.whl
# make lock     pin the requirements anew; make clean removes what was built
#
# Needs Python 3.11 or newer with headers and venv, gcc and make.

VENV  := .venv
BIN   := $(VENV)/bin
TESTS ?=
# Tests that have brokers, servers and folders of their own run two at a time. Clients mostly wait, for each other and for
# their own timeouts: they run one after the other beside those.
SIDE_BY_SIDE := tests/unit tests/storage tests/broker tests/metrics tests/compare
ALONE := tests/clients
CLIENTS_LOG := .pytest_cache/clients.log
BENCH ?=
ARGS  ?=

# The first that runs: a version manager may have a python3.11 on the path that only prints an error.
PYTHON ?= $(shell for python in python3.11 python3; do $$python -c '' 2>/dev/null && echo $$python && break; done)

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
NATIVE      := $(wildcard src/pg_kafka/*/*.pyx src/pg_kafka/*/*.pxd)

.PHONY: install serve test crash soak bank fuzz lint advisories bench wheel lock clean
.DELETE_ON_ERROR:

install: $(VENV)/.package

serve: install
	@exec $(BIN)/pg-kafka serve $(ARGS)

test: install $(VENV)/.test
ifeq ($(TESTS),)
	@mkdir -p .pytest_cache; failed=0; \
	echo "$(ALONE) beside the others: $(CLIENTS_LOG)"; \
	$(BIN)/python -m pytest -ra -o cache_dir=.pytest_cache/clients $(ALONE) $(ARGS) >$(CLIENTS_LOG) 2>&1 & clients=$$!; \
	trap 'kill $$clients; exit 130' INT TERM; \
	$(BIN)/python -m pytest -ra -n 2 --dist loadfile $(SIDE_BY_SIDE) $(ARGS) || failed=1; \
	wait $$clients || failed=1; \
	cat $(CLIENTS_LOG); \
	exit $$failed
else
	$(BIN)/python -m pytest -ra $(TESTS) $(ARGS)
endif

crash: install $(VENV)/.test
	$(BIN)/python -m pytest -ra tests/crash $(ARGS)

soak: install $(VENV)/.test
	$(BIN)/python -m tests.crash.rounds --results tests/crash/soak-results.md $(ARGS)

bank: install $(VENV)/.test
	$(BIN)/python -m tests.crash.bank --results tests/crash/soak-results.md $(ARGS)

fuzz: install $(VENV)/.test
	$(BIN)/python -m tests.fuzz.run --results tests/fuzz/results.md $(ARGS)

lint: install $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

advisories: $(VENV)/.advisories
	$(BIN)/python scripts/advisories.py $(ARGS)

bench: install $(VENV)/.test
	@$(BIN)/python -m bench$(if $(BENCH),.$(BENCH)) $(ARGS)

wheel: $(VENV)/.build
	$(BIN)/python -m build --no-isolation --wheel

# The stamps make a second run instant; each is older than what it was made from, or the step is repeated.
$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "pg-kafka needs Python 3.11 or newer, and there is no python3 on the path." >&2; exit 1; fi
	@$(PYTHON) scripts/check_toolchain.py
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build: requirements/runtime.txt requirements/build.txt | $(BIN)/python
	$(PIP_INSTALL) --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	@touch $@

$(VENV)/.package: $(VENV)/.build setup.py pyproject.toml $(NATIVE)
	@$(BIN)/python scripts/check_toolchain.py
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.build
	$(PIP_INSTALL) --require-hashes -r requirements/test.txt
	@touch $@

$(VENV)/.lint: requirements/lint.txt $(VENV)/.test
	$(PIP_INSTALL) --require-hashes -r requirements/lint.txt
	@touch $@

$(VENV)/.advisories: requirements/advisories.txt $(VENV)/.lint
	$(PIP_INSTALL) --require-hashes -r requirements/advisories.txt
	@touch $@

# No registry address goes into the files: whoever installs uses the one that pip is set up with.
PIP_COMPILE := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

lock: $(VENV)/.lint
	cd requirements && for name in runtime build test lint advisories; do ../$(PIP_COMPILE) --upgrade --output-file $$name.txt $$name.in; done

clean:
	rm -rf build dist src/*.egg-info src/pg_kafka/*/*.so src/pg_kafka/*/_*.c $(VENV)/.package
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
