PYTHON ?= python3
BIN = .venv/bin
PART ?= tests
# One thread in each of two processes: threads that wait for each other on busy cores are slow.
# In the files' own order: by their number of tests, the long ones would come last.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-slow check gpu

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	# Peers of tests, whose wish for torchvision is nominal.
	$(BIN)/pip install --quiet -c constraints.txt --no-deps mup DALL-E
	touch $@

setup: .venv/done  ## the virtual environment

demo: setup  ## the main job in small; writes runs/demo/report.html
	$(BIN)/toto demo

test: setup  ## everything that takes seconds
	$(PYTEST) -m "not slow and not gpu"

test-slow: setup  ## everything that takes minutes
	$(PYTEST) -m "slow and not gpu"

check: setup  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu:  ## one part of docs/gpu.md on a GPU machine, with the Python that holds its PyTorch
	PYTHONPATH=$(CURDIR) $(PYTHON) benchmarks/gpu.py $(PART)
