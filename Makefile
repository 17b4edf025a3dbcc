# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
BIN := .venv/bin
# Tests wait for servers half of their time: two processes share the cores; WORKERS=0 is one.
SPREAD := -n $(or $(WORKERS),2)
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup fmt check test test-slow browser images bench fault demo up lock settings-page clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: ## Build .venv from the lock; does nothing when nothing changed
	@bash tools/setup.sh
	@bash tools/assets.sh

fmt: setup ## Format the code and repair what the linter can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix .

check: setup ## Format, lint, types, layers: says what is wrong, changes nothing
	$(BIN)/ruff format --check --quiet . || { echo "run: make fmt"; exit 1; }
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check ## check, then every test that is not slow: make test ARGS="-k patient" WORKERS=4
	$(BIN)/pytest $(SPREAD) --durations=15 $(ARGS)

test-slow: check ## check, then every test
	$(BIN)/pytest $(SPREAD) -m "slow or not slow" $(ARGS)

browser: setup ## The console in Chromium; pictures in var/screenshots: make browser ARGS="-k home"
	$(BIN)/pytest -m browser tests/browser $(ARGS)

images: ## Copy the pictures that the docs show, after make browser
	@$(BIN)/python tools/images.py

bench: setup ## Run the benchmarks
	@if [ -f bench/run.py ]; then $(BIN)/python bench/run.py $(ARGS); else echo "there is no bench/run.py yet"; fi

fault: setup ## A long run with processes killed at random: make fault RUN=delivery EVENTS=2000
	@$(BIN)/python -m tests.system.fault_$(or $(RUN),delivery) $(EVENTS)

demo: setup ## Play the whole story; KEEP=1 leaves it running
	@$(BIN)/fhirserver demo $(if $(filter-out 0,$(KEEP)),--keep)

up: setup ## Run everything in the foreground: make up ARGS="--port 9000"
	@$(BIN)/fhirserver up $(ARGS)

lock: ## Compile requirements.txt from pyproject.toml: newest versions, with hashes, without addresses
	@bash tools/lock.sh

settings-page: setup ## Write docs/operate/settings.md from the settings
	@$(BIN)/python tools/settings_page.py

clean: ## Remove what was built; the data in var/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
