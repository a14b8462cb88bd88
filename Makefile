# Everything happens in an environment of its own, made on first use. PYTHON names another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format bench docs clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mrnn needs Python 3.11 or later, and $(PYTHON) is %d.%d: make PYTHON=python3.12 names another" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): half a minute"
	$(BIN)/python -m pip install -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), PyTorch among it: some minutes"
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@# KenLM is compiled where there is no wheel; without a compiler the one test against it is skipped.
	$(BIN)/python -m pip install --quiet kenlm || echo "KenLM cannot be built here; its test will be skipped"
	touch $@

## caption real sample photos with the bundled model, offline
demo: $(VENV)/.demo
	$(BIN)/python -m mrnn.demo

## run all tests
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadscope

## style and types
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)

## time every fast path against its plain oracle and the machine's limit
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

## build the documentation into site/
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist
