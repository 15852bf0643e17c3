# Two commands for a fresh machine with Python 3.11: `make mnist` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install mnist digits test check format bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e ".[dev]"
	touch $@

mnist: install
	$(BIN)/serket run configs/mnist.yaml

digits: install
	$(BIN)/serket run configs/digits.yaml

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python tests/benchmarks/kernels.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
