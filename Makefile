# make demo: set up, run a small study and report it.    make test: set up, lint, check types, test.
#
# PYTHON      the interpreter the environment is made with (3.11 or newer)
# TORCH_ARGS  more arguments for installing torch, e.g. an index that holds the build you want

PYTHON ?= python3
VENV ?= .venv
TORCH_ARGS ?=
BIN := $(VENV)/bin
DEMO := demo/digits
SOLVERS := stocbio,amigo,bsgm,alset_dagger_det,alset_dagger,alset

.DEFAULT_GOAL := help
.PHONY: help demo baselines test check-solvers lint clean

help:
	@echo "make demo    a small study of six methods on the digits data set, with its report"
	@echo "make baselines   the shipped studies of fast problems again: half an hour of one core"
	@echo "make test    lint, types and tests"
	@echo "make check-solvers   the long checks of every solver: half an hour"
	@echo "make lint    lint and types only"
	@echo "make clean   remove $(VENV), demo/ and caches"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_ARGS) torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev
	touch $@

# The same command resumes a study that was interrupted; a finished one is only reported again.
demo: $(VENV)/.installed
	$(BIN)/harness run data_poisoning --set dataset=digits --solvers $(SOLVERS) \
	  --trials 8 --budget 100000 --workers 2 --seed 2 --out $(DEMO)
	$(BIN)/harness report $(DEMO) --top 3

# What `harness report DIR --with baselines/NAME.parquet` compares with, a study for each study file. The same
# command resumes; remove runs/baselines to begin anew.
baselines: $(VENV)/.installed
	for file in baselines/*.toml; do \
	  name=$$(basename $$file .toml); \
	  $(BIN)/harness run --config $$file --executor inline --out runs/baselines/$$name && \
	  rm -f baselines/$$name.parquet && \
	  $(BIN)/harness export runs/baselines/$$name --out baselines/$$name.parquet || exit 1; \
	done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# What `make test` leaves out: the long checks of every solver.
check-solvers: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m slow

clean:
	rm -rf $(VENV) demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
