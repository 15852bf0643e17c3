# Two commands for a fresh machine with Python 3.11: `make mnist` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install mnist digits test test-slow test-faults test-plugins test-multinode check format bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.11 …" && exit 2)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

mnist: install
	$(BIN)/serket run configs/mnist.yaml

digits: install
	$(BIN)/serket run configs/digits.yaml

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

# Kills modules, coordinators, drivers, nodes and links on purpose, and prints what was seen. Mostly that is waiting, so
# two halves run side by side: 12 and 14 minutes on 2 cores.
FAULTS_HERE := matrix soak power_cut hosts
FAULTS_BESIDE := detached disk driver nodes

test-faults: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --faults $(FAULTS_HERE:%=tests/faults/test_%.py) & here=$$!; \
	$(BIN)/python -m pytest --faults $(FAULTS_BESIDE:%=tests/faults/test_%.py); beside=$$?; \
	wait $$here && exit $$beside

# What takes long and says little more than its quicker neighbours.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --slow --faults -m slow

# The guide, followed to its end, and the package that a new module begins as, installed into a fresh environment.
test-plugins: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --guide tests/test_guide.py tests/test_new_module.py

# Clusters of several nodes on this machine, and two hosts as network namespaces where those are allowed.
test-multinode: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --multinode tests/multinode

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m tests.benchmarks.kernels

clean:
	rm -rf $(VENV) .ci-venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
