# demo, test and bench work on a fresh machine: each makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-peers check bench docs docs-serve format clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(DEMO)

test: check
	$(BIN)/python -m pytest -n 2
	./.ci/other-duckdb "$(PYTHON)"

# Against real open servers, which take a minute or two to install.
test-peers: $(VENV)-peers/.installed $(VENV)-litellm/.installed
	LITELLM=$(CURDIR)/$(VENV)-litellm/bin/litellm $(VENV)-peers/bin/python -m pytest peer_tests -o pythonpath=. -o timeout=300

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --site-dir build/site

docs-serve: $(VENV)/.dev
	$(BIN)/python -m mkdocs serve --watch sql --watch CHANGELOG.md

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $(VENV)/.installed $@

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $(VENV)/.installed $@

$(VENV)-peers/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-peers/bin/python -m pip install --quiet --editable . --group peers
	touch $@

# It pins versions that the package needs newer, so it has an environment of its own.
$(VENV)-litellm/.installed:
	$(PYTHON) -m venv $(VENV)-litellm
	$(VENV)-litellm/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-litellm/bin/python -m pip install --quiet 'litellm[proxy]>=1.80'
	touch $@

clean:
	rm -rf .venv .venv-duckdb-1.5 .venv-peers .venv-litellm .mypy_cache .ruff_cache .pytest_cache .hypothesis
