# One environment for everything: .venv is made once, and brought up to date when setup.py or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := kernels/native
# the second name is what newer versions of pip read when they build a package
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/python -m pip install --quiet

# pure Python, so that a machine without a network can be handed them with the sources
WHEELS := wheels
# most of the time of the tests is compilation, which several processes share where they can
TOGETHER = $$($(PYTHON) -c 'import xdist' 2>/dev/null && echo -n 8 -p no:benchmark)
ON_CARD = PYTHONPATH=$$(printf '%s:' $(WHEELS)/*.whl)$$PYTHONPATH

# torch takes seconds to compile: processes that import it share the bytecode, also where the environment says to write none
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv native sanitize interpreter demo quick test check bench docs wheel matrix aot gpu gpu-wheels fmt clean

help:
	@echo "make demo    two stages of the built-in image patches: a table, stages.json, stages.png"
	@echo "make quick   a useful part of the tests, in under a minute"
	@echo "make test    the tests"
	@echo "make check   lint, formatting, types, direction of the imports"
	@echo "make bench   timings against other ways to compute the same"
	@echo "make docs    the documentation as a site, build/docs/index.html"
	@echo "make wheel   wheels and a source distribution in dist/, and a fresh environment that passes the quick tests from them"
	@echo "make matrix  the quick tests on every Python, torch and NumPy that can be had here, and which cannot"
	@echo "make aot     compile every Triton configuration ahead of time, count what came out, and hold it to what is kept"
	@echo "make gpu     on a CUDA device, without .venv: timings of the Triton kernels, then tests of all routes; 9 minutes"
	@echo "make gpu-wheels  fetch what the machine of the CUDA device may lack, when it has no network"
	@echo "make fmt     put the sources into the form that make check wants"
	@echo "make native  the C++ kernels, which the others make anew where their sources changed"
	@echo "make interpreter  the Triton kernels in the interpreter: all cases, of which make test runs one of each"
	@echo "make sanitize  the C++ kernels with sanitizers, over the problems of the tests"
	@echo "make venv    only the environment in $(VENV) that the others make on their first run"
	@echo "make clean   remove $(VENV), build products, caches and the files of the demo"

venv: $(VENV)/.stamp

$(VENV)/.stamp: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	@echo "installing the package and its tools into $(VENV): once, a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@# the kernels are compiled meanwhile, and modules of Python when they are first imported
	@$(PYTHON) $(NATIVE)/build.py > $(VENV)/native.txt 2>&1 & \
		ORACLE_BUILD=pure $(PIP) --no-compile -c constraints.txt -e ".[dev]"; done=$$?; wait; exit $$done
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp
	@$(PIP) -c constraints.txt -e ".[bench]"
	@touch $@

NATIVE_SOURCES := $(wildcard $(NATIVE)/src/*/*)

# without a compiler there is nothing to make, and the portable kernels serve
native: $(NATIVE)/lib/.stamp

$(NATIVE)/lib/.stamp: $(NATIVE_SOURCES) $(NATIVE)/build.py | $(VENV)/.stamp
	@$(BIN)/python $(NATIVE)/build.py || echo "the portable kernels serve"
	@mkdir -p $(@D) && touch $@

# every case of the Triton kernels in the interpreter, of which the tests run one of each
interpreter: $(VENV)/.stamp
	@EVERY_CASE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/kernels/gpu/test_interpreter.py

# all libraries that this machine can run, of which the tests take the best
sanitize: native
	@EVERY_CASE=1 $(BIN)/python -m pytest tests/kernels/native/test_sanitizers.py

demo: $(VENV)/.stamp
	@$(BIN)/oracle-engine stages --data patches

# a process for each core, of one thread each: most tests are too small to share
test: $(VENV)/.stamp native
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# what breaks first when something breaks: every room, little of what takes seconds
QUICK := $(shell cat tests/quick.txt)

quick: $(VENV)/.stamp native
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal $(addprefix tests/,$(QUICK))

# dist/: a wheel with native kernels, a pure one and a source distribution; then both ways to build that one, and `quick`
# from the wheel in a fresh environment, without this folder
wheel: $(VENV)/.stamp
	@$(BIN)/python -m release.wheels
	@$(BIN)/python -m release.fresh

matrix: $(VENV)/.stamp
	@$(BIN)/python -m release.matrix

check: $(VENV)/.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run --Werror $(NATIVE_SOURCES)

# without the options of the tests: annotations checked at run time would be timed too
bench: $(VENV)/.stamp-bench native
	@$(BIN)/python -m pytest -o addopts=-ra bench --benchmark-only

# a warning is an error: a name without a target, a docstring that cannot be laid out
docs: $(VENV)/.stamp
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

aot: $(VENV)/.stamp
	@$(BIN)/python -m bench.gate

# not in .venv, which holds the CPU build of torch: the python of the card, with torch, triton, numpy and pytest, and
# the wheels of what it may lack, which are imported as they are. Figures are written after every row, and the tests come
# last: a run that is cut has lost nothing, and another one goes on where it stopped
gpu:
	@failed=0; $(ON_CARD) ORACLE_BACKEND=triton $(PYTHON) -m bench.gpu --limit 200 --resume || failed=1; \
	$(ON_CARD) ORACLE_BACKEND=triton $(PYTHON) -m bench.gpu_questions --limit 60 || failed=1; \
	$(ON_CARD) timeout 240 $(PYTHON) -m pytest -c tests/gpu.ini $(TOGETHER) tests/engine/test_cuda.py -m gpu || failed=1; exit $$failed

gpu-wheels:
	@$(PYTHON) -m pip download --quiet --no-deps --dest $(WHEELS) -c constraints.txt jaxtyping wadler-lindig

fmt: $(VENV)/.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(NATIVE_SOURCES)

clean:
	rm -rf $(VENV) $(WHEELS) $(NATIVE)/lib build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	rm -f stages.json stages.png
	find oracle_engine kernels tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
