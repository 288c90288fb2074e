# make demo       the whole job on the built-in structures, in ./demo
# make test       every test
# make check      lint, types and the import contract
# make oldest     every test with the oldest versions that pyproject.toml allows
# Both of the first two make .venv and install into it; pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...) apply.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first Python that fits pyproject.toml's requires-python; or say PYTHON=/path/to/python3.12.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$name && break; done)
PYTEST_FLAGS ?= -n 2 --dist loadfile

.PHONY: demo test check oldest constraints clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/triptych demo --output demo --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# Needs uv, like constraints.
oldest:
	uv venv --quiet --clear --python "$(PYTHON)" .venv-oldest
	uv pip install --quiet --python .venv-oldest --resolution lowest-direct -e ".[dev]"
	.venv-oldest/bin/python -m pytest $(PYTEST_FLAGS)

# pip runs again only after pyproject.toml or the pins have changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(VENV)/.installed $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 was found: install one, or say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Needs uv; the result holds versions only, no addresses.
constraints:
	uv pip compile --universal --no-header --no-annotate --all-extras -c constraints.in -p 3.11 pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) .venv-oldest demo build dist .mypy_cache .pytest_cache .ruff_cache
