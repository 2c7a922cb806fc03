# The two commands: `make repro` runs the pipeline, `make test` the tests. Both set up the environment first.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# What `make bench` runs, in the order of the pipeline; BENCH=--full for the sizes of the README.
BENCHMARKS := filter cluster quantize collisions corpus train rank serve pipeline
BENCH :=

.PHONY: help setup repro test bench lint params lock picture clean

help: ## Tell what there is.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(BIN)/.installed ## Make .venv with the exact versions of requirements.lock.

$(BIN)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

repro: setup ## Run the pipeline; what is up to date is not run again.
	dvc repro
	tessera show

test: setup ## Run the tests.
	OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --maxprocesses 4

bench: setup ## Compare each heavy step with a peer; the figures go to benchmarks/results.
	for name in $(BENCHMARKS); do python benchmarks/$$name.py $(BENCH) --json benchmarks/results/$$name.json || exit 1; done

lint: setup ## Check style and types.
	ruff check .
	ruff format --check .
	mypy

params: setup ## Compose params.yaml from conf/.
	python -m tessera.compose

lock: setup ## Refresh requirements.lock to the newest versions that pyproject.toml allows.
	uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml --output-file requirements.lock

picture: ## Make docs/report.png, the picture of the README, from the report of the demo; needs Chromium.
	chromium --headless --no-sandbox --hide-scrollbars --virtual-time-budget=20000 --window-size=1280,1500 \
	  --screenshot=$(CURDIR)/docs/report.png file://$(CURDIR)/report/index.html

clean: ## Remove what runs leave behind, but for the environment and downloads.
	rm -rf data report checkpoints dvc_plots .mypy_cache .pytest_cache .ruff_cache .hypothesis
