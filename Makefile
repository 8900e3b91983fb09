# kpf: `make demo` and `make test` work on a fresh machine with Python >= 3.11, git and make, as root or not.

# The first one that runs, is new enough, and can make a virtual environment (a name alone may be a version manager's).
PYTHON ?= $(shell for one in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$one -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$one && break; done)
# with it each process compiles what it imports: a third of each start of kpf
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test soak systemd mutants figures perf lint manual lock dist clean

demo: .venv/installed
	$(BIN)/kpf demo

test: .venv/tested
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

soak: .venv/tested
	$(BIN)/python -m pytest -m soak -s

# as root, with debootstrap
systemd: .venv/tested
	$(BIN)/python -m tests.systemd.images
	$(BIN)/python -m pytest -m systemd

mutants: .venv/tested
	$(BIN)/python -m tests.mutants

figures: .venv/measured
	$(BIN)/python -m perf.core
	$(BIN)/python -m perf.cluster

perf: .venv/measured
	$(BIN)/python -m perf.peers

lint: .venv/tested
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/vulture \
		&& $(BIN)/lint-imports --config setup.cfg

# share/, docs/configuration.md and systemd/kpf.yaml anew, of the command line and the configuration as they are
manual: .venv/tested
	$(BIN)/python -m manual

# requirements.lock anew: the newest versions that pyproject.toml allows, for any Python that it does. Then `make test`.
lock: .venv/bin/python
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

# dist/: the sdist, and the wheel made from it
dist: .venv/bin/python
	$(PIP) build
	rm -rf dist
	$(BIN)/python -m build

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "kpf needs Python >= 3.11 with venv and pip (Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/locked: requirements.lock | .venv/bin/python
	$(PIP) --require-hashes --requirement requirements.lock
	touch $@

.venv/installed: pyproject.toml .venv/locked
	$(PIP) --editable .
	touch $@

.venv/tested: pyproject.toml .venv/locked
	$(PIP) --editable '.[test]'
	touch $@ .venv/installed

.venv/measured: pyproject.toml .venv/locked
	$(PIP) --editable '.[perf]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
