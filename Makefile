# Everything a fresh machine needs is Python 3.11, 3.12 or 3.13 (with venv) and make.
#
#   make demo                     the whole story on built-in synthetic faces
#   make test                     the test suite
#   make demo DEMO_ARGS=--quick   a short demo
#   make test PYTEST_ARGS="-n 0 -x tests/test_angular.py"
#   make bench BENCH_ARGS="head --quick"

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
# In the order of tests/conftest.py: the longest files first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
DEMO_ARGS ?=
BENCH_ARGS ?=
# PyTorch for CPUs alone is smaller where its own package index can be reached:
#   make bench BENCH_PIP_ARGS="--extra-index-url INDEX"   PyTorch from the index of its CPU builds
BENCH_VENV ?= .venv-bench
BENCH_PIP_ARGS ?=

RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test docs bench coverage lint format types constraints wheel-test dist release clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(RUN_STAMP) ## Install, then train, verify and export on synthetic faces (into demo/)
	$(BIN)/tf_sphereface-demo --out demo $(DEMO_ARGS)

test: $(DEV_STAMP) ## Run the test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(DEV_STAMP) ## Build the site into build/docs, its notebooks run; no warning is let through
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs
	$(BIN)/python tools/check_site.py build/docs

bench: $(BENCH_VENV)/.installed ## Install PyTorch beside it all into .venv-bench; compare time and memory
	$(BENCH_VENV)/bin/python benchmarks/compare.py $(BENCH_ARGS)
	$(if $(BENCH_ARGS),,$(BENCH_VENV)/bin/python benchmarks/search.py speed)

coverage: $(DEV_STAMP) ## Run the test suite in one process and show which lines it misses
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

lint: $(DEV_STAMP) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV_STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV_STAMP) ## Check types
	$(BIN)/mypy -p tf_sphereface

constraints: $(DEV_STAMP) ## Check that constraints.txt resolves on each Python
	$(BIN)/python tools/check_constraints.py

wheel-test: $(DEV_STAMP) ## Build sdist and wheel, install it elsewhere, run every command
	PYTHON="$(BIN)/python" bash tools/wheel_test.sh

dist: $(DEV_STAMP) ## Build sdist and wheel into dist/ and check them as the index would
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/check_release.py --dist dist

release: dist ## Check the tag of the checkout too, and say how to upload dist/
	$(BIN)/python tools/check_release.py --tag "$$(git describe --tags --exact-match)" --dist dist
	@echo "Ready. A pushed tag lets .github/workflows/release.yml upload it; by hand: $(BIN)/twine upload dist/*"

clean: ## Remove builds, caches and the demo; the environment stays
	rm -rf build dist *.egg-info demo bench.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . \( -path './.venv*' -o -name node_modules \) -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf

# The environment is made once, and installed again only when the requirements change.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@# half an environment would be taken for a whole one the next time
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@# an old pip takes three times as long to resolve the constraints
	$(PIP_INSTALL) --quiet --upgrade pip || { rm -rf $(VENV); exit 1; }

$(RUN_STAMP): $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing into $(VENV) (TensorFlow and the exporters: some minutes the first time)"
	$(PIP_INSTALL) --editable ".[eval,export]"
	@touch $@

$(DEV_STAMP): $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing into $(VENV) with the tools for development (some minutes the first time)"
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@ $(RUN_STAMP)

# An environment of its own: PyTorch stays out of the one for development.
$(BENCH_VENV)/.installed: $(REQUIREMENTS) benchmarks/constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11, or say make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BENCH_VENV)/bin/python || "$(PYTHON)" -m venv $(BENCH_VENV) || { rm -rf $(BENCH_VENV); exit 1; }
	$(BENCH_VENV)/bin/python -m pip install --disable-pip-version-check $(BENCH_PIP_ARGS) \
		--constraint constraints.txt --constraint benchmarks/constraints.txt --editable ".[bench,eval,export,search,postgres]"
	@touch $@
