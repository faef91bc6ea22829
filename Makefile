# Needs Python 3.11, make and git. Everything else goes into .venv, once.
# PYTHON=... names another interpreter for the environment.

PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready

# DVC runs the stages' commands through a shell: they must find this environment's ferkd-pipeline.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help setup repro test lint types bench soak study clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

setup: $(READY) ## install into .venv with the tested versions

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; PyTorch makes it a few minutes)" >&2
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[dvc,dev]'
	@touch $@

repro: $(READY) ## run the whole pipeline on the embedded data, then print the result
	@dvc repro
	@ferkd-pipeline report --no-page

# Two processes, each with one thread for arithmetic: the networks of the tests are too small for more.
test: $(READY) ## run all tests
	@OMP_NUM_THREADS=1 pytest -n 2

lint: $(READY) ## style, formatting and who may import whom
	@ruff check .
	@ruff format --check .
	@PYTHONPATH=. lint-imports

types: $(READY) ## mypy, strict
	@mypy

bench: $(READY) ## size and speed of the label store and of training, beside peers (docs/benchmarks.md)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[bench]'
	@$(VENV)/bin/python benchmarks/store.py
	@$(VENV)/bin/python benchmarks/train.py

soak: $(READY) ## tests of faults and damage, twenty times as long (docs/reliability.md)
	@FERKD_SOAK=20 pytest tests/faults tests/store/check/test_flips.py

study: $(READY) ## run the study of docs/study.md (about an hour on two cores)
	@dvc repro experiments/dvc.yaml

clean: ## delete what tools left; data, labels and models stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov dist
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
