# kpf: `make demo` and `make test` work on a fresh machine with Python >= 3.11, git and make, as root or not.
PYTHON ?= $(shell command -v python3.14 || command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test soak figures lint clean

demo: .venv/installed
	$(BIN)/kpf demo

test: .venv/tested
	$(BIN)/python -m pytest

soak: .venv/tested
	$(BIN)/python -m pytest -m soak -s

figures: .venv/installed
	$(BIN)/python -m perf.core

lint: .venv/tested
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --config setup.cfg

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/tested: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
