# make quick: set up, train a small study, draw its curves.   make test: set up, check, test.
VENV ?= .venv
PYTHON = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

.PHONY: install quick test lint benchmark clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quick: install
	$(PYTHON) -m experiments.study study=quick
	$(PYTHON) -m analysis.plot records

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: install lint
	$(PYTHON) -m pytest

benchmark: install
	$(PYTHON) -m experiments.benchmark

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
