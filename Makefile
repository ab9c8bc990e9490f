# The two commands a newcomer types: make run, make test. CI runs make test and make check, nothing else.
# The first that runs and is new enough: a name on the PATH may be a shim of a version that is not there.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# Flink and Beam want older versions of some packages; jobs and their tests have an environment of their own.
ENGINES := .venv-engines
# What the product is measured beside has environments of its own; `make bench` says which of them is missing.
PEERS := .venv-peers
PEER_NAMES := spark pathway bytewax

# Beam's current release cannot be installed beside Flink.
BEAM := .venv-beam

# What the page is made of is built from TypeScript, once and when a source changes.
SCREEN := dashboards/web/.sources

.PHONY: run stack servers test test-beam test-server check fix bench peers screenshots oracle crash clean
run: $(VENV)/.ready $(SCREEN)
	@exec $(BIN)/citybrain up

# Kafka, Flink with the job of the demo city, an MQTT broker: all on loopback, until Ctrl-C.
stack: $(ENGINES)/.ready $(SCREEN)
	@exec $(ENGINES)/bin/python -m tools.stack

# Those servers alone: no job, no ingest, no brain.
servers: $(ENGINES)/.ready
	@exec $(ENGINES)/bin/python -m tools.stack --servers

# Three at a time: a third of the tests wait for processes that they started.
test: $(VENV)/.ready $(ENGINES)/.ready $(SCREEN)
	@$(BIN)/python -m tools.browser
	$(BIN)/python -m pytest -n 3 --dist worksteal -m 'not crash and not oracle'
	$(ENGINES)/bin/python -m pytest -m 'not crash' tests/engines

# The Beam engine without Flink beside it, on Beam's current release (make test has the one that PyFlink wants).
test-beam: $(BEAM)/.ready
	$(BEAM)/bin/python -m pytest tests/engines/test_beam.py tests/engines/test_beam_job.py

# The store's contract suite on a real ClickHouse server; it empties that database. The URL stays off the process list.
test-server: export CITYBRAIN_SERVER := $(URL)
test-server: $(VENV)/.ready
	@test -n "$$CITYBRAIN_SERVER" || { echo "name a server: make test-server URL=https://user:password@host:8443/database" >&2; exit 2; }
	@$(BIN)/python -m pytest tests/contract

check: $(VENV)/.ready $(SCREEN)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.generate --check
	$(BIN)/citybrain check

fix: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.generate

# Writes benchmarks/RESULTS.md; make bench CASES="flink beam" runs some of it.
bench: $(VENV)/.ready $(ENGINES)/.ready
	$(BIN)/python -m benchmarks --engines $(ENGINES)/bin/python --peers $(PEERS) $(CASES)

# The pictures of docs/images, of the demo city in a real browser.
screenshots: $(VENV)/.ready $(SCREEN)
	@$(BIN)/python -m tools.browser
	@$(BIN)/python -m tools.screenshots

peers: $(PEER_NAMES:%=$(PEERS)/%/.ready)

# Every reading of whole files against a batch recomputation, every generated episode (make test compares parts of them).
oracle: $(VENV)/.ready
	$(BIN)/python -m pytest -m oracle tests/conformance
	$(BIN)/python -m tests.oracle

# Every failpoint, kills at random, floods, small disks, recorded data, kills and handovers over Kafka (make test has a
# selection): two hours.
crash: $(VENV)/.ready $(ENGINES)/.ready
	$(BIN)/python -m pytest -m crash tests/faults
	$(BIN)/python -m tests.faults.crash
	$(ENGINES)/bin/python -m tests.engines.crash

# Everything is pinned by constraints.txt; a changed pin or dependency sets the environment up again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.12 run" >&2; exit 1; }
	@echo "setting up $(VENV) once; this takes a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,screen]'
	@$(BIN)/python -m tools.compile_ahead
	@touch $@

$(ENGINES)/.ready: pyproject.toml constraints-engines.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 found; name one: make PYTHON=/path/to/python3.12 test" >&2; exit 1; }
	@echo "setting up $(ENGINES) once; this takes a few minutes"
	@$(PYTHON) -m venv $(ENGINES)
	@$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-engines.txt setuptools wheel
	@$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-engines.txt -e '.[deploy,dev,flink]'
	@$(ENGINES)/bin/python -m tools.compile_ahead
	@touch $@

$(PEERS)/%/.ready: benchmarks/peers/requirements-%.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 found; name one: make PYTHON=/path/to/python3.12 peers" >&2; exit 1; }
	@echo "setting up $(@D) once"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(SCREEN): $(VENV)/.ready $(shell find dashboards/screen -name node_modules -prune -o -type f -print)
	@$(BIN)/python -m tools.screen
	@touch $@

$(BEAM)/.ready: pyproject.toml constraints-beam.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.12 test-beam" >&2; exit 1; }
	@echo "setting up $(BEAM) once; this takes a few minutes"
	@$(PYTHON) -m venv $(BEAM)
	@$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-beam.txt -e '.[beam,dev]'
	@touch $@

clean:
	rm -rf dashboards/web dashboards/screen/node_modules $(VENV) $(ENGINES) $(PEERS) $(BEAM) .pytest_cache .mypy_cache \
		.ruff_cache .hypothesis dist
