# The two commands a newcomer types: make run, make test. CI runs make test and make check, nothing else.
# The first that runs and is new enough: a name on the PATH may be a shim of a version that is not there.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# Flink and Beam want older versions of some packages; jobs and their tests have an environment of their own.
ENGINES := .venv-engines
# Beam's current release cannot be installed beside Flink.
BEAM := .venv-beam

.PHONY: run stack servers test test-beam test-server check fix bench oracle crash clean
run: $(VENV)/.ready
	@exec $(BIN)/citybrain up

# Kafka, Flink with the job of the demo city, mosquitto where it is installed: all on loopback, until Ctrl-C.
stack: $(ENGINES)/.ready
	@exec $(ENGINES)/bin/python -m tools.stack

# Those servers alone: no job, no ingest, no brain.
servers: $(ENGINES)/.ready
	@exec $(ENGINES)/bin/python -m tools.stack --servers

# Three at a time: a third of the tests wait for processes that they started.
test: $(VENV)/.ready $(ENGINES)/.ready
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

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.generate --check
	$(BIN)/citybrain check

fix: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.generate

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

# Every reading of whole files against a batch recomputation, every generated episode (make test compares parts of them).
oracle: $(VENV)/.ready
	$(BIN)/python -m pytest -m oracle tests/conformance
	$(BIN)/python -m tests.oracle

# Every failpoint, kills at random, floods, small disks, recorded data (make test has a selection): an hour.
crash: $(VENV)/.ready
	$(BIN)/python -m pytest -m crash tests/faults
	$(BIN)/python -m tests.faults.crash

# Everything is pinned by constraints.txt; a changed pin or dependency sets the environment up again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.12 run" >&2; exit 1; }
	@echo "setting up $(VENV) once; this takes a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
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

$(BEAM)/.ready: pyproject.toml constraints-beam.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.12 test-beam" >&2; exit 1; }
	@echo "setting up $(BEAM) once; this takes a few minutes"
	@$(PYTHON) -m venv $(BEAM)
	@$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-beam.txt -e '.[beam,dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(ENGINES) $(BEAM) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
