# On a fresh machine with Python 3.11, start with `make mnist` or `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install mnist digits test test-slow test-faults test-soak test-fuzz test-plugins test-multinode test-browser docs check format bench bench-guard clean

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

CHECK := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check: $(VENV)/.installed-dev
	$(CHECK)

# Those that need Ray wait for processes part of the time, so they and the linters run beside the others, which share two
# processes. Only the files with such tests are imported for them.
RAY_TESTS = $$(grep -rlF mark.ray tests --include='test_*.py')

test: $(VENV)/.installed-dev
	@log=$$(mktemp); checked=$$(mktemp); { $(CHECK); } > $$checked 2>&1 & checking=$$!; \
	$(BIN)/python -m pytest -m ray $(RAY_TESTS) > $$log 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not ray"; here=$$?; \
	wait $$beside; beside=$$?; wait $$checking; checking=$$?; cat $$log $$checked; rm -f $$log $$checked; \
	test $$here -eq 0 && test $$beside -eq 0 && test $$checking -eq 0

# Fault injection: kill modules, coordinators, drivers, nodes and network links, and print what was observed. Most of the
# time is spent waiting, so two halves run in parallel.
FAULTS_HERE := matrix soak power_cut hosts nodes workers
FAULTS_BESIDE := cluster detached disk driver signals

test-faults: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --faults $(FAULTS_HERE:%=tests/faults/test_%.py) & here=$$!; \
	$(BIN)/python -m pytest --faults $(FAULTS_BESIDE:%=tests/faults/test_%.py); beside=$$?; \
	wait $$here && exit $$beside

# Thousands of rounds with deaths, in 5 minutes; prints the slopes of memory, open files, stored objects and kept events.
SOAK_ROUNDS ?= 5000

test-soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --soak --soak-rounds $(SOAK_ROUNDS) tests/faults/test_long_soak.py

# Made-up inputs of every reader of files, messages and --set, by hypothesis and, where it can be installed, atheris.
FUZZ_EXAMPLES ?= 1000000

test-fuzz: $(VENV)/.installed-dev
	-$(BIN)/python -m pip install --quiet -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz.many --inputs $(FUZZ_EXAMPLES)
	$(BIN)/python -m pytest --fuzz --fuzz-examples $$(($(FUZZ_EXAMPLES) / 20)) -m fuzz -s tests/fuzz

# Slow tests, which add little to the fast ones.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --slow --faults -m slow

# Reports and the live page in a headless chromium: Debian's, or the one that CHROMIUM names.
CHROMIUM ?= /usr/bin/chromium

test-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -e ".[browser,docs]"
	$(BIN)/python -m pytest --browser --chromium=$(CHROMIUM) -m browser

# The documentation as a site, in build/site; any warning is an error. It loads nothing from elsewhere.
docs: install
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

# Run the guide, and the package written by `serket new-module` in a fresh virtual environment.
test-plugins: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --guide tests/test_guide.py tests/test_new_module.py

# Clusters of several nodes on this machine, and two hosts as network namespaces if those are permitted.
test-multinode: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --multinode tests/multinode

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Ratios to other code, measured in turn; bench-guard holds the few with limits to these.
BENCH_JSON ?= bench.json

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks --json $(BENCH_JSON)

bench-guard: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks --guard --seconds 1 --clock processor

clean:
	rm -rf $(VENV) .ci-venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
