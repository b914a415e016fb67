# `make` prints what can be made. Each target creates the environment it needs in .venv.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python

# The data set of table1 and figure1: glyphs (embedded), imagenet, imagenette. ROOT is its folder, SEEDS the number
# of choices of calibration images, ARGS any other key=value of the experiment.
DATA   ?= glyphs
ROOT   ?=
SEEDS  ?= 1
ARGS   ?=
OVERRIDES = data=$(DATA) $(if $(ROOT),'data.root=$(ROOT)') $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup table1 figure1 bench test mutate lint types site notebook wheel clean distclean

help:  ## print this help
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  table1 and figure1 take DATA=imagenet ROOT=PATH ARGS='key=value ...'; table1 also SEEDS=3"

setup: $(VENV)/.run  ## the environment in .venv, and nothing else

table1: $(VENV)/.run  ## Table 1 of the paper into outputs/table1/
	$(PY) -m bnrecal table1 $(OVERRIDES) seeds=$(SEEDS)

figure1: $(VENV)/.run  ## Figure 1 of the paper into outputs/figure1/
	$(PY) -m bnrecal figure1 $(OVERRIDES)

bench: $(VENV)/.run  ## time the NB-SMT engine against float32 PyTorch
	$(PY) -m bnrecal bench $(ARGS)

test: $(VENV)/.dev  ## lint, types, tests
	$(MAKE) --no-print-directory lint types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

mutate: $(VENV)/.dev  ## change the code one thing at a time and see whether a test notices (hours)
	PYTHONPATH=tests OMP_NUM_THREADS=1 nice -n 19 $(VENV)/bin/mutmut run --max-children 1 $(MUTANTS)
	$(VENV)/bin/mutmut results

lint: $(VENV)/.dev  ## style, format, and that imports point down
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(VENV)/.dev  ## mypy, strict, as of the lowest Python promised
	$(VENV)/bin/mypy

site: notebook  ## the documentation as a site, build/site/index.html; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

notebook: $(VENV)/.dev  ## docs/quickstart.md as build/quickstart.ipynb, with its pictures
	mkdir -p build
	$(VENV)/bin/jupytext --quiet --to ipynb --set-kernel python3 --output build/quickstart.ipynb docs/quickstart.md
	$(VENV)/bin/jupyter-execute --inplace build/quickstart.ipynb

wheel: $(VENV)/.dev  ## build the wheel into dist/
	$(PY) -m build --wheel

clean:  ## remove the environment, builds and caches; results stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants

distclean: clean  ## clean, and remove the results in outputs/ named by RESULTS='table1 runs ...'
	@test -n "$(RESULTS)" || { echo "name the results to remove: make distclean RESULTS='table1 runs'; there are:" \
	    $(notdir $(wildcard outputs/*)) >&2; exit 1; }
	rm -rf $(addprefix outputs/,$(notdir $(RESULTS)))

$(VENV)/.run: pyproject.toml
	@echo "installing torch and what else is needed into $(VENV): a few GB, some minutes"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@
