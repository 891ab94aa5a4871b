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
	@$(BIN)/python -m pip install --quiet --no-build-isolation '.[cpu,test,lint]'
	@touch $@

demo: setup
	@$(BIN)/so3krates demo

test: setup
	@$(BIN)/python -m pytest -n 2 --dist worksteal

bench: setup
	@$(BIN)/python bench/bench.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $(shell find csrc -name '*.cpp' -o -name '*.h')
