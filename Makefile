# A fresh clone needs Python 3.11 or newer, git and make. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Workers of pytest share the cores; a test file stays with one worker. tests/conftest.py sorts the files: pytest-xdist
# would start those with the most tests first, not those that take longest. Durations show what to make faster.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: quickstart test test-cluster test-pods test-browser test-long test-slow test-all lint audit clean
.DELETE_ON_ERROR:
# Two installations into one environment must not run at once, whatever -j says.
.NOTPARALLEL:

quickstart: $(VENV)/.installed
	$(BIN)/e4t quickstart

# The quick tier: lint, types, import rules and every test without a tier's marker (see pyproject.toml).
test: lint
	$(PYTEST)

# A real SLURM, and hosts as network namespaces: needs root, iproute2, slurm-wlm and munge.
test-cluster: $(VENV)/.dev-installed
	$(PYTEST) -m cluster

# The Kubernetes manifests as containers: needs root and podman.
test-pods: $(VENV)/.dev-installed
	$(PYTEST) -m pods

# The page of `e4t app` in a browser: needs chromium and chromium-driver.
test-browser: $(VENV)/.dev-installed
	$(PYTEST) -m browser

# Whatever takes minutes: long campaigns of kills, benchmarks, rarely used options.
test-long: $(VENV)/.dev-installed
	$(PYTEST) -m long

# The four tiers above at once, so that their files share the cores.
test-slow: $(VENV)/.dev-installed
	$(PYTEST) -m "cluster or pods or browser or long"

test-all: test test-slow

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml .ci benchmarks data_prep encoder pipelines e4t.py e4t_errors.py

audit: $(VENV)/.dev-installed
	PYTHON=$(BIN)/python .ci/audit

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
