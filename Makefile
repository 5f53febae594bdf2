# make train   set up .venv, install, adapt a DeepLab on the built-in ToyCity data
# make test    set up .venv, install, check style and types, run the tests
# make slow    the long tests: kills, sanitizers, full compilation
# make mutation  do the tests notice small mistakes? resumable; ROOMS="order ema" for some rooms
# make docs    build the documentation into build/site
# make fake-cuda   the step with CUDA wheels of torch, the oldest and the newest, without a GPU (10 GB)
# make fake-cuda-traces   record what a step runs on a GPU, without one, for `fastass bench model`
# make gpu     on a machine with a CUDA GPU: its tests, then every benchmark, into runs/gpu
# make clean   remove .venv and build products (never runs/ or data/)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A folder changes when a file is added, which an editable install must learn.
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find kernels -name "*.cpp" -o -name "*.h") \
	$(shell find fastass kernels pipelines -type d -not -name __pycache__)

.PHONY: train test slow mutation docs fake-cuda fake-cuda-traces gpu install clean

train: install
	$(BIN)/fastass train toycity --amp --resume --out runs/toycity

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests
	$(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

slow: install
	$(BIN)/pytest -m slow
	EXAMPLES=2000 $(BIN)/pytest -m hypothesis

mutation: install
	PYTHONPATH=tests/support nice $(BIN)/python tests/mutation/run.py $(ROOMS)

docs: install
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt 'mkdocs-material>=9.6' 'mkdocstrings[python]>=1' 'jupytext>=1.16'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html: open it in a browser; to search in it, serve it: $(BIN)/mkdocs serve"

fake-cuda:
	$(PYTHON) tests/fake_cuda/with_cuda_wheels.py

fake-cuda-traces: install
	PYTHONPATH=. $(BIN)/python tests/fake_cuda/write_traces.py --mode eager fused

gpu: install
	$(BIN)/python -m bench.all_on_gpu --out runs/gpu

install: $(VENV)/.installed

$(VENV)/.installed: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastass needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "installing fastass into $(VENV) (once, a minute or two)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps cityscapesscripts pyquaternion
	@touch $@

clean:
	rm -rf $(VENV) build
