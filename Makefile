# `make` or `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NEEDS_PYTHON := import sys; sys.exit(sys.version_info < (3, 11))
OWN_VERSION := import platform; print(platform.python_version())

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test test-all test-lowest lint format demo bench clean

help: ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.11] [ARGS='more arguments for pytest']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## create .venv and install everything in it (only when the requirements changed)

# The stamp goes first and comes back last, so an interrupted install is done again. A folder whose pip does not
# work (creation was interrupted) is completed, or made anew if that does not help.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@if $(PY) -m pip --version >/dev/null 2>&1; then \
	  $(PY) -c '$(NEEDS_PYTHON)' || { \
	    echo "error: $(VENV) has Python $$($(PY) -c '$(OWN_VERSION)'), 3.11 or newer is needed; remove $(VENV) and try again" >&2; exit 1; }; \
	else \
	  command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "error: there is no $(PYTHON); name a Python >= 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }; \
	  $(PYTHON) -c '$(NEEDS_PYTHON)' || { \
	    echo "error: $(PYTHON) is Python $$($(PYTHON) -c '$(OWN_VERSION)'), 3.11 or newer is needed; name one: make PYTHON=python3.11 ..." >&2; exit 1; }; \
	  echo "Creating $(VENV) with Python $$($(PYTHON) -c '$(OWN_VERSION)')"; \
	  { $(PYTHON) -m venv $(VENV) && $(PY) -m pip --version; } >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV), the first time 2-5 minutes, nothing is printed meanwhile ..."
	@start=$$(date +%s); \
	$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]' -c constraints.txt && \
	echo "Installed in $$(( $$(date +%s) - start )) s"
	@touch $@

PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal --durations 15

test: venv ## run the test suite on the CPU, without what is marked slow
	$(PYTEST) -m "not slow" $(ARGS)

test-all: venv ## run the whole test suite on the CPU
	$(PYTEST) $(ARGS)

# Its own environment, with the oldest version of every package that pyproject.toml allows.
LOWEST := .venv-lowest
$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	@rm -f $@
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@echo "Installing into $(LOWEST), the first time 2-5 minutes, nothing is printed meanwhile ..."
	@$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check -e '.[test]' -c constraints-lowest.txt
	@touch $@

test-lowest: $(LOWEST)/.installed ## run a short part of the suite with the oldest versions allowed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m lowest --durations 5 $(ARGS)

lint: venv ## check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: venv ## mend style and format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

demo: venv ## train, generate and evaluate on the built-in digits (minutes on 2 CPU cores, no download)
	@echo "[1/3] training ..."
	@$(PY) train.py --preset digits --wb_id demo --resume auto
	@echo "[2/3] generating ..."
	@$(PY) generate.py --run_id demo --n_samples 500
	@echo "[3/3] evaluating ..."
	@$(PY) evaluate.py --run_id demo --metrics agreement,nearest
	@grid=$$(ls -t runs/demo_*/generated_data/*/*/grid.png 2>/dev/null | head -n 1); \
	if [ -n "$$grid" ]; then echo "Samples: $$grid"; else echo "error: no sample grid under runs/demo_*" >&2; exit 1; fi

bench: venv ## run every benchmark in turn
	@set -e; for file in benchmarks/bench_*.py; do \
	  [ -e "$$file" ] || { echo "no benchmarks/bench_*.py"; break; }; \
	  echo "== $$file"; $(PY) "$$file"; \
	done

clean: ## remove caches and build artefacts (.venv, runs and data stay)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(LOWEST)/*' -not -path './.git/*' -prune -exec rm -rf {} +
