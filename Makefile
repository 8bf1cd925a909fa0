# Every target makes what it needs, in .venv; nothing outside this folder is touched.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
# Two test processes: importing TensorFlow costs each of them about 5 s and 1 GB.
WORKERS ?= 2
export TF_CPP_MIN_LOG_LEVEL ?= 3

REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo tune install install-dev test test-slow test-other lint docs check-docs check serve clean

help:  ## this list
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## transfer the embedded backbone to handwritten digits: train, test, export
	$(BIN)/kerastl fit digits

# Twenty images a class: a question that a search can answer in minutes. The budget holds it under five of them.
tune: $(VENV)/.installed  ## search rates, unfreeze point, decay and dropout on handwritten digits; prints the best recipe
	$(BIN)/kerastl tune digits --examples-per-class 20 --head-epochs 30 --finetune-epochs 5 --set augment.views=2 \
		--trials 20 --budget 2m --no-export

install: $(VENV)/.installed  ## make the virtual environment and install kerastl into it
	@echo "kerastl is in $(BIN)/kerastl; try: $(BIN)/kerastl --help"

install-dev: $(VENV)/.installed-dev  ## the same with the tools for tests and checks

test: $(VENV)/.installed-dev  ## the quick tests
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(VENV)/.installed-dev  ## real architectures; real weights and the real server where they are at hand
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow or weights or docker"

# In a folder of the virtual environment, where nothing else has to know of it.
test-other: $(VENV)/.installed-dev  ## the quick tests on another version of Python, where there is one on this machine
	@other=$$(tools/other_python.sh $(BIN)/python); \
	if [ -n "$$other" ]; then $(MAKE) PYTHON="$$other" VENV=$(VENV)/other test; \
	else echo "No other Python than that of $(VENV) is here: 3.11, 3.12 or 3.13."; fi

lint: $(VENV)/.installed-dev  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev  ## write the generated pages of docs/ anew
	$(BIN)/python tools/docs.py

check-docs: $(VENV)/.installed-dev  ## fail if a generated page of docs/ is stale
	$(BIN)/python tools/docs.py --check

check: test lint check-docs test-slow test-other  ## all that .ci/run does

# The variables that tools/serve.sh lists reach it by themselves: make hands on what stands on its command line.
serve:  ## serve saved_models/, or MODEL=name alone, with TensorFlow Serving: REST on 8501, gRPC on 8500 (needs Docker)
	@tools/serve.sh "$(MODEL)"

clean:  ## remove the virtual environment and the caches; runs/ and saved_models/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist kerastl.egg-info
	find kerastl tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@tools/make_venv.sh "$(VENV)" "$(PYTHON)"

$(VENV)/.installed: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) --editable ".[dev]"
	@touch $(VENV)/.installed $@
