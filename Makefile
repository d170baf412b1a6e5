# make demo: train and compare a deep residual network and its plain twin.   make test: run the test suite.   make docs: build the site.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# One thread per process: two test processes share two cores, and the order of summation does not vary.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
JOBS ?= 2
SPHINX := -b html -W --keep-going -n -q

.PHONY: setup demo examples test lint format check docs lock bench zoo soak wheel-test versions
.DEFAULT_GOAL := check

setup: $(STAMP)

# requirements.lock holds the versions for Linux with their hashes; elsewhere pip chooses the versions.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "reslab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 setup"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv \
	    || { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing reslab and its dependencies into .venv (takes a few minutes the first time)"
	@[ -t 1 ] || quiet=--quiet; \
	    if $(BIN)/python -c 'import sys; sys.exit(sys.platform != "linux" or sys.version_info >= (3, 15))'; \
	    then $(BIN)/pip install $$quiet --require-hashes -r requirements.lock \
	        && $(BIN)/pip install $$quiet --no-deps --no-build-isolation -e .; \
	    else $(BIN)/pip install $$quiet -e '.[dev]'; fi
	@touch $(STAMP)

demo: setup
	$(BIN)/reslab demo

# The two networks that `reslab serve` shows without a run; the package has them.
EXAMPLES := src/reslab/deploy/examples
EXAMPLE := train --data digits --model resnet20_cifar --set model.widths=8,16,32 --set "model.stem=conv3(8) norm act" --seed 0
examples: setup
	rm -rf $(EXAMPLES)/residual $(EXAMPLES)/plain
	OMP_NUM_THREADS=1 $(BIN)/reslab $(EXAMPLE) --set model.merge=add --output $(EXAMPLES)/residual
	OMP_NUM_THREADS=1 $(BIN)/reslab $(EXAMPLE) --set model.merge=none --output $(EXAMPLES)/plain
	rm -rf $(EXAMPLES)/*/checkpoint $(EXAMPLES)/*/report.html $(EXAMPLES)/*/.lock

test: setup
	$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_imports.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test

# The site, build/docs/html/index.html. Every warning is an error: links, references, images, the cells of the course.
docs: setup
	$(BIN)/python -m sphinx $(SPHINX) -j $(JOBS) -d build/docs/doctrees docs build/docs/html
	$(BIN)/python -m sphinx $(SPHINX) -t zh_CN -d build/docs/doctrees-zh docs build/docs/html/zh
	@echo "build/docs/html/index.html"

# Needs uv (pip install uv). Keeps the locked versions that still fit; `make lock UPGRADE=--upgrade` takes the newest.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes $(UPGRADE) \
	    --custom-compile-command "make lock" --output-file requirements.lock

# The benchmarks, whose tables benchmarks/README.md shows: make bench ARGS="--only startup".
bench: setup
	$(BIN)/python benchmarks/suite.py $(ARGS)

zoo: setup
	$(BIN)/python benchmarks/zoo.py

soak: setup
	$(PYTEST) -m soak

# Needs uv. Installs the lowest versions of the core dependencies in build/versions/ and runs tests that need no reference library;
# `PYENV_VERSION=3.12.1:3.13.0 make versions PYTHONS="3.12 3.13"` names the interpreters, here of pyenv.
PYTHONS ?= 3.11 3.12 3.13
QUICK_TESTS ?= tests/spec tests/runtime tests/cli/test_startup.py
# Of these, the lowest version that has a wheel for the interpreter; a build from source takes long.
BINARY := $(addprefix --only-binary ,numpy scipy scikit-learn matplotlib pillow safetensors)
versions: export UV_PYTHON_DOWNLOADS = never
versions:
	@command -v uv >/dev/null || { echo "uv is missing: pip install uv"; exit 1; }
	@for version in $(PYTHONS); do \
	    uv python find --quiet $$version >/dev/null 2>&1 || { echo "no Python $$version: skipped"; continue; }; \
	    folder=build/versions/$$version; \
	    uv venv --quiet --clear --python $$version $$folder \
	        && uv pip install --quiet --python $$folder/bin/python --resolution lowest-direct $(BINARY) . \
	            'pytest>=8.4' 'packaging>=24' \
	        && OMP_NUM_THREADS=1 $$folder/bin/python -m pytest -q $(QUICK_TESTS) || exit 1; \
	done

# Builds the package, installs it with its core dependencies alone, and tries it outside this folder.
wheel-test: setup
	$(PYTEST) -m wheel tests/test_wheel.py
