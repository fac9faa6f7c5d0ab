# make quick: set up, train a small study, report on it.   make test: set up, check, test.   make regress: judge a change.
VENV ?= .venv
PYTHON = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

.PHONY: install quick test test-slurm regress lint benchmark clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quick: install
	$(PYTHON) -m experiments.study study=quick
	$(PYTHON) -m analysis.report quick

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: install lint
	$(PYTHON) -m pytest

# A SLURM of its own on this machine, installed if need be. 77: it is not here and cannot be installed.
test-slurm: install
	@PPO_TEST_SLURM=1 PPO_SLURM_ARRAY=4 PPO_SLURM_PORT=17017 slurm/dev-cluster.sh with /tmp/ppo-slurm-test \
		$(PYTHON) -m pytest tests/slurm --numprocesses=4 --dist=load --maxschedchunk=1 || \
		{ code=$$?; [ $$code = 77 ] && echo "test-slurm: SKIPPED, since there is no SLURM (see above)" || exit $$code; }

# Exit code 0: PASS; the summary says the rest. What the baseline could not judge is refused before it is trained.
regress: install
	$(PYTHON) -m experiments.comparable regression study=regression variants=clip_0.2 tracking=none
	$(PYTHON) -m experiments.study study=regression variants=clip_0.2 tracking=none
	$(PYTHON) -m analysis.regress --candidate regression

benchmark: install
	$(PYTHON) -m experiments.benchmark

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
