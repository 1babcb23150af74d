# The one list of commands, for people and for CI.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help train install test fix lint types check docs serve-docs slow gpu torture bench lock install-locked clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

train: $(VENV)/usable  ## tune the demo model on the bundled quotes: no GPU, no download but the libraries, no account
	$(BIN)/florilegium train

$(VENV)/usable: pyproject.toml constraints.txt
	@echo "Installing PyTorch and the other libraries into $(VENV): some 3 GB to fetch where PyTorch comes with CUDA,"
	@echo "less than 1 GB where it does not; some minutes on a home line. This happens once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[serve]"
	touch $@

install: $(VENV)/installed  ## the virtual environment: this package, editable, and the pinned libraries

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

lock: install  ## requirements.lock: every file that `install` takes on this machine, by its hash
	$(BIN)/python -m tools.lock

install-locked: requirements.lock  ## the environment from requirements.lock; a file with another hash is refused
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(VENV)/installed

test: install lint types docs check  ## all that CI runs

fix: install  ## lint findings that can be fixed are, and all code is formatted
	$(BIN)/ruff check --fix src tests tools bench
	$(BIN)/ruff format src tests tools bench

lint: install  ## ruff: lint and format
	$(BIN)/ruff check src tests tools bench
	$(BIN)/ruff format --check src tests tools bench

types: install  ## mypy, strict
	$(BIN)/mypy

# A test that fails is run once more, and named if it then passes: that is a bug of the test or of the program, to be
# filed, but no reason to refuse what somebody else changed.
check: install  ## the tests, also those of the GPU kernels in Triton's interpreter
	$(BIN)/pytest -n auto --dist worksteal --reruns 1 -r R
	TRITON_INTERPRET=1 $(BIN)/pytest -n auto tests/fast/decoding tests/fast/layers tests/fast/training/test_block_stack.py tests/fast/training/test_blocks.py tests/fast/training/test_lora_kernels.py tests/fast/training/test_stages.py

docs: install  ## the documentation as a site in site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

serve-docs: install  ## the documentation on this machine while you write it
	$(BIN)/mkdocs serve

slow: install  ## tests that take minutes
	$(BIN)/pytest -m "slow and not gpu"
	TRITON_INTERPRET=1 $(BIN)/pytest -n auto -m "not gpu" tests/fast

gpu: install  ## on a machine with a CUDA device: every kernel, the block stack, loading, runs
	$(BIN)/pytest -o addopts= -q tests/fast tests/gpu tests/generation/test_recorded_decode.py tests/model/test_tensor_reader.py tests/model/test_bloom_loader.py tests/model/test_stored_loader.py

torture: install  ## kill runs, fill disks, damage files: half an hour; writes RELIABILITY.md
	rm -f .reliability.jsonl
	FLORILEGIUM_TORTURE=1 $(BIN)/pytest -n 2 --dist worksteal --durations=20 tests/torture
	$(BIN)/python -m tests.torture.figures

bench: install  ## the stock recipe and ours, side by side, on this machine
	$(BIN)/python -m bench.train.vs_stock

clean:  ## remove the virtual environment and what tools cached
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis site
