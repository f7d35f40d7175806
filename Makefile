# A fresh clone needs Python 3.11 or newer, git and make. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test lint audit clean
.DELETE_ON_ERROR:
# Two installations into one environment must not run at once, whatever -j says.
.NOTPARALLEL:

quickstart: $(VENV)/.installed
	$(BIN)/e4t quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml .ci benchmarks data_prep encoder pipelines e4t.py

audit: $(VENV)/.dev-installed
	$(BIN)/python .ci/audit.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Editable, so that the environment follows the code; the stamps make it follow the dependencies.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV): about 2 GB, some minutes the first time.'
	$(PIP) --editable .
	touch $@

$(VENV)/.dev-installed: pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV): about 2 GB, some minutes the first time.'
	$(PIP) --editable '.[test,dev]'
	touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "e4t needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
