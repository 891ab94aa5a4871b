# make demo | test | lint: each sets up .venv when it is missing or older than the sources.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc python export -type f ! -name '*.so' ! -name '*.pyc')
REQUIREMENTS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")

.PHONY: setup demo test lint

setup: .venv/ready

# The build uses the wheels of .venv itself, so that they are fetched once and found again at run time.
.venv/ready: $(SOURCES)
	@test -x $(BIN)/pip || $(PYTHON) tools/make_venv.py .venv
	@$(BIN)/python -c '$(REQUIREMENTS)' > .venv/requirements.txt
	$(BIN)/python -m pip install --requirement .venv/requirements.txt
	$(BIN)/python -m pip install --no-build-isolation '.[cpu,test,lint]'
	@touch $@

demo: setup
	@$(BIN)/so3krates demo

test: setup
	@$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(shell find csrc -name '*.cpp' -o -name '*.h')
