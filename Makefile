# The one list of commands, for people and for CI.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: train install test lint types check slow gpu torture bench clean

train: install  ## tune the seedling on the bundled sayings: no GPU, no downloads, no account
	$(BIN)/florilegium train

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

test: install lint types check  ## all that CI runs

lint: install
	$(BIN)/ruff check src tests tools bench
	$(BIN)/ruff format --check src tests tools bench

types: install
	$(BIN)/mypy

check: install
	$(BIN)/pytest -n auto --dist worksteal
	TRITON_INTERPRET=1 $(BIN)/pytest -n auto tests/fast/decoding/test_decoder.py tests/fast/training/test_block_stack.py tests/fast/training/test_blocks.py

slow: install  ## tests that take minutes
	$(BIN)/pytest -m "slow and not gpu"
	TRITON_INTERPRET=1 $(BIN)/pytest -n auto -m "not gpu" tests/fast

gpu: install  ## on a machine with a CUDA device: every kernel, the walks, loading, runs
	$(BIN)/pytest -o addopts= -q tests/fast tests/gpu tests/model/test_tensor_reader.py tests/model/test_bloom_loader.py

torture: install  ## kill it, fill its disk, feed it poison: all of it, half an hour; writes RELIABILITY.md
	rm -f .reliability.jsonl
	FLORILEGIUM_TORTURE=1 $(BIN)/pytest -n 2 --dist worksteal --durations=20 tests/torture
	$(BIN)/python -m tests.torture.figures

bench: install  ## the stock recipe and ours, side by side, on this machine
	$(BIN)/python -m bench.train.vs_stock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
