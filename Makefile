# From a fresh clone, `make quickstart` and `make test` need Python (3.11 or newer) and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
LINT_VENV ?= .venv-lint
WORKDIR ?= runs/quickstart
PYTEST_ARGS ?=
UV ?= uv

PIP_FLAGS := --disable-pip-version-check --quiet --retries 10 --require-hashes
BIN := $(VENV)/bin
ENGINES := .venv-engines

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-engines engines test-all test-parity .parity lint format requirements faults golden clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | column -t -s @ 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'vitjax needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)

# setuptools first: it builds the one dependency without a wheel, and vitjax itself.
$(VENV)/build.stamp: requirements/build.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements/build.txt
	@touch $@

$(VENV)/core.stamp: requirements/core.txt $(VENV)/build.stamp
	@echo 'Installing the pinned requirements (some 600 MB; minutes on a slow line) ...'
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-build-isolation -r requirements/core.txt
	@touch $@

$(VENV)/test.stamp: requirements/test.txt $(VENV)/build.stamp
	@echo 'Installing the pinned requirements (some 600 MB; minutes on a slow line) ...'
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-build-isolation -r requirements/test.txt
	@touch $@

$(VENV)/vitjax.stamp: pyproject.toml setup.py $(wildcard vitjax/data/native/*) $(VENV)/build.stamp
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(LINT_VENV)/lint.stamp: requirements/lint.txt
	$(PYTHON) -m venv $(LINT_VENV)
	$(LINT_VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements/lint.txt
	@touch $@

install: $(VENV)/core.stamp $(VENV)/vitjax.stamp  ## Create .venv with vitjax and its pinned requirements

quickstart: install  ## Pretrain on MNIST, transfer to digits, compare: minutes on a laptop
	$(BIN)/vitjax quickstart --workdir=$(WORKDIR)

test: $(VENV)/test.stamp $(VENV)/vitjax.stamp  ## Run the tests, without the slow ones
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

test-slow: $(VENV)/test.stamp $(VENV)/vitjax.stamp  ## Run the slow tests alone
	$(BIN)/python -m pytest -n auto -m slow $(PYTEST_ARGS)

# What launch/ starts jobs with, as far as pip has it; each in an environment of its own, as their pins differ.
$(ENGINES)/ray.stamp: requirements/core.txt requirements/build.txt
	$(PYTHON) -m venv $(ENGINES)/ray
	$(ENGINES)/ray/bin/python -m pip install $(PIP_FLAGS) -r requirements/build.txt
	$(ENGINES)/ray/bin/python -m pip install $(PIP_FLAGS) --no-build-isolation -r requirements/core.txt
	$(ENGINES)/ray/bin/python -m pip install --disable-pip-version-check --quiet 'ray[train]==2.60.0'
	@touch $@

$(ENGINES)/%.stamp:
	$(PYTHON) -m venv $(ENGINES)/$*
	$(ENGINES)/$*/bin/python -m pip install --disable-pip-version-check --quiet $(PACKAGES_$*)
	@touch $@
PACKAGES_xpk := xpk==1.16.0
PACKAGES_skypilot := skypilot==0.14.1
PACKAGES_jobset := kubeflow-trainer-api==2.3.0

engines: $(ENGINES)/ray.stamp $(ENGINES)/xpk.stamp $(ENGINES)/skypilot.stamp $(ENGINES)/jobset.stamp  ## Install Ray, xpk, SkyPilot and JobSet's schema for the tests of launch/

test-engines: $(VENV)/test.stamp $(VENV)/vitjax.stamp  ## Run launch/'s jobs on real engines: SLURM from PATH, others from `make engines`
	$(BIN)/python -m pytest -n auto -m engines $(PYTEST_ARGS) tests/engines

test-all: $(VENV)/test.stamp $(VENV)/vitjax.stamp  ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -n auto -m 'slow or not slow' $(PYTEST_ARGS)

$(VENV)/parity.stamp: requirements/parity.txt $(VENV)/test.stamp
	$(BIN)/python -m pip install --disable-pip-version-check --quiet torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements/parity.txt
	@touch $@

# Python 3.11 or 3.12: the peers' versions are pinned for those.
test-parity: VENV = .venv-parity
test-parity:  ## Compare with timm and transformers at full size; creates .venv-parity
	$(MAKE) VENV=$(VENV) .parity
.parity: $(VENV)/parity.stamp $(VENV)/vitjax.stamp
	$(BIN)/python -m pytest -n auto -m 'slow or not slow' tests/parity tests/unit/weights $(PYTEST_ARGS)

lint: $(LINT_VENV)/lint.stamp  ## Check style and formatting
	$(LINT_VENV)/bin/ruff check .
	$(LINT_VENV)/bin/ruff format --check .

format: $(LINT_VENV)/lint.stamp  ## Mend style and formatting where a tool can
	$(LINT_VENV)/bin/ruff check --fix .
	$(LINT_VENV)/bin/ruff format .

# One lock per purpose, for every supported Python and platform at once; test.txt holds core.txt's versions. Pins stay
# as they are where they can; LOCK_FLAGS=--upgrade moves them. --no-config keeps private indexes out of the locks.
LOCK = $(UV) --no-config pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command 'make requirements' --quiet

requirements:  ## Lock requirements/*.txt anew (needs uv)
	$(LOCK) $(LOCK_FLAGS) requirements/build.in -o requirements/build.txt
	$(LOCK) $(LOCK_FLAGS) pyproject.toml requirements/build.in -o requirements/core.txt
	$(LOCK) $(LOCK_FLAGS) pyproject.toml requirements/build.in --extra test -c requirements/core.txt -o requirements/test.txt
	$(LOCK) $(LOCK_FLAGS) requirements/lint.in -o requirements/lint.txt

faults: $(VENV)/test.stamp $(VENV)/vitjax.stamp  ## Run the catalogue of faults in full (an hour; goes on where it stopped), write benchmarks/FAULTS.md
	PYTHONPATH=.:tests $(BIN)/python -m faults

golden: $(VENV)/test.stamp $(VENV)/vitjax.stamp  ## Write the pinned texts of all recipes anew
	$(BIN)/python tests/smoke/test_recipes.py

clean:  ## Remove the environments and caches that make has created
	rm -rf $(VENV) $(LINT_VENV) $(ENGINES) .venv-parity build vitjax.egg-info .pytest_cache .ruff_cache
