# make demo | test | bench | lint: each sets up .venv first when it is missing or older than the sources.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := CMakeLists.txt $(shell find csrc python export -type f ! -name '*.so' ! -name '*.pyc')

.PHONY: setup demo test bench lint

setup: .venv/ready

.venv/requirements: pyproject.toml tools/make_venv.py
	@$(PYTHON) tools/make_venv.py .venv
	@touch $@

.venv/ready: .venv/requirements $(SOURCES)
	@echo 'Building so3krates: one or two minutes when its C++ has changed'
	@$(BIN)/python -m pip install --quiet --no-build-isolation '.[test,lint]'
	@touch $@

demo: setup
	@$(BIN)/so3krates demo

# XLA's plugin for CUDA and NVRTC compile for GPUs on machines without one. Beside the environment, not in it: there
# every process that imports JAX would look for a GPU. Without them the tests that need them say so and are skipped.
.venv/cuda: .venv/requirements
	-@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ nvidia-cuda-nvrtc-cu12 \
	  jax-cuda12-pjrt==$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("jax"))')

test: setup .venv/cuda
	@$(BIN)/python -m pytest -n 2 --dist worksteal

bench: setup
	@$(BIN)/python bench/bench.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $(shell find csrc -path csrc/third_party -prune -o \( -name '*.cpp' -o -name '*.h' \) -print)
