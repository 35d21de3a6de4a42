# One target per habit. Needs only make and Python 3.11 or newer; everything else goes into .venv.

# The first of these that runs and is new enough (a pyenv shim exists even where its version does not).
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo notebook picture quick units test test-long long gpu folds science-training science-redshifts science-outliers coverage docs dist lint types format lock matrix audit clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

install: $(INSTALLED) ## create .venv with the locked dependencies

$(INSTALLED): pyproject.toml constraints.txt pipeline/version.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with venv and ensurepip on PATH;" \
		"install one or say: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[analysis,demo,docs,explorer,kubernetes,slurm,test]'
	@touch $@

demo: install ## encode two real galaxies and 300 mock spectra into ./demo
	$(BIN)/python -m pipeline demo

notebook: install ## open the first notebook in JupyterLab, on the demo's run
	test -d demo/encodings || $(MAKE) demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/jupyter lab notebooks/01_first_look.ipynb

picture: demo ## draw the README's picture again, from the demo
	@mkdir -p notebooks/images
	$(BIN)/python -c 'from PIL import Image; \
		Image.open("demo/2488-54149-1.png").quantize(96).save("notebooks/images/ngc3522.png", optimize=True)'

# checkov wants other versions of what we use, too, and so has an environment of its own.
.venv.checkov/.installed: Makefile
	test -x .venv.checkov/bin/python || $(PYTHON) -m venv .venv.checkov
	.venv.checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	@touch $@

quick: lint ## ruff, mypy and the unit tests, for every change: two minutes
	$(MAKE) --jobs 2 types units

units: install # mypy runs beside them: neither keeps two cores busy
	$(BIN)/python -m pytest -m "not slow and not long" --numprocesses 2 --dist loadfile

# Three at a time, even on two cores: many tests wait for servers and processes. In the order of the files: by itself
# xdist begins with those of most tests, and ends with one process that waits for faults, file by file.
test: lint types .venv.checkov/.installed ## what guards a change: ruff, mypy and all tests but the long ones
	$(BIN)/python -m pytest -m "not long" --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-long: long docs coverage ## what takes long beside it: rows of faults, notebooks, pages, benchmarks, coverage

long: install ## the long tests alone; the pages take the notebooks' outputs from docs/executed
	EXECUTED_NOTEBOOKS=$(CURDIR)/docs/executed $(BIN)/python -m pytest -m long --numprocesses 3 --dist load

gpu: install ## on a machine with a CUDA device: its tests, and the table of what it makes of a model
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py && $(BIN)/python benchmarks/precision.py

# FOLDS: a folder outside of the repository, 1.5 GB. TEMPLATES: see spender_core/data/sdss-galaxies.md.
FOLDS ?=
TEMPLATES ?=
DATA ?= ../shared/data

folds: install ## train the embedded model and its folds again, into FOLDS: 15 hours, resumable
	@test -n "$(FOLDS)" -a -n "$(TEMPLATES)" || { echo "error: say make folds FOLDS=DIR TEMPLATES=DIR;" \
		"spender_core/data/sdss-galaxies.md says where the templates are from" >&2; exit 1; }
	$(BIN)/python benchmarks/train_galaxies.py --data $(DATA) --templates $(TEMPLATES) --work $(FOLDS)

science-training: install ## judge the embedded model on galaxies that it has not seen
	$(BIN)/python benchmarks/science_training.py --data $(DATA) $(if $(FOLDS),--folds $(FOLDS) --write)

science-redshifts: install ## judge redshifts and refined latents on galaxies that the model has not seen: a quarter of an hour
	$(BIN)/python benchmarks/science_redshifts.py --data $(DATA) --write $(if $(FOLDS),--folds $(FOLDS))

# The store of five million rows is made in the folder for temporary files.
science-outliers: install ## judge densities, reasons, and searches of five million latents: the tables of RESULTS.md
	$(BIN)/python benchmarks/density.py --data $(DATA) --write
	$(BIN)/python benchmarks/reasons.py --data $(DATA) --write
	folder=$$(mktemp -d) && $(BIN)/python benchmarks/survey_store.py $$folder/run \
		&& $(BIN)/python benchmarks/similar.py $$folder/run --write; status=$$?; rm -rf $$folder; exit $$status

# The unit tests again, measured, and those slow ones that run most of what they cannot: processes are measured, too.
MEASURED := tests/pipeline/test_api.py $(addprefix tests/pipeline/,cli explorer results training) \
	$(addprefix tests/pipeline/compute/test_,executor.py planner_targets.py preflight.py) \
	$(addprefix tests/spender_core/test_,basis.py latent_fit.py) tests/integration/test_toy_survey.py

coverage: install ## at least 90 % of the lines of both packages
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -m "not slow and not long" --numprocesses 2 --dist loadfile --cov --cov-report= \
		tests/pipeline tests/spender_core
	$(BIN)/python -m pytest -m "slow and not long" --numprocesses 3 --dist loadfile --cov --cov-append --cov-report= \
		$(MEASURED)
	$(BIN)/python -m coverage report --include 'pipeline/*' --skip-covered --fail-under 90
	$(BIN)/python -m coverage report --include 'spender_core/*' --skip-covered --fail-under 90

docs: install ## build the pages into docs/_build/html: warnings are errors, nothing is fetched
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html

dist: install ## build a wheel into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lint: install ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy, strict, over both packages
	$(BIN)/mypy

format: install ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## write constraints.txt again from the newest releases that pyproject.toml admits
	rm -rf .venv.lock
	$(PYTHON) -m venv .venv.lock
	.venv.lock/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --editable '.[analysis,demo,docs,explorer,kubernetes,notebook,slurm,test]'
	{ sed -n '/^#/p' constraints.txt; .venv.lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
		| sed -E 's/\+[a-z0-9.]+$$//'; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv.lock

# uv makes these environments, so that what works with pip is seen to work with uv, too. torch alone is pip's, and at the
# locked version everywhere: pip may have a small build of it at hand, of others PyPI has only some of several GB.
ENVIRONMENTS := .venv.matrix
UV := $(ENVIRONMENTS)/uv/bin/uv
ROWS := 3.11-locked 3.11-lowest 3.12-locked 3.13-locked 3.13-newest

matrix: $(ROWS:%=matrix-%) ## unit tests on each Python, with locked, lowest and newest versions (3.12, 3.13: GB of torch)

matrix-%-locked: OPTIONS = --constraints constraints.txt
matrix-%-newest: OPTIONS = --constraints $(ENVIRONMENTS)/newest.txt
matrix-%-lowest: OPTIONS = --constraints $(ENVIRONMENTS)/lowest.txt --resolution lowest-direct
matrix-%: $(ENVIRONMENTS)/uv/.installed
	@grep '^torch==' constraints.txt > $(ENVIRONMENTS)/newest.txt
	@# what others bring: newer datasets want a newer pyarrow than we do, newer pyparsing warns of matplotlib's oldest
	@{ cat $(ENVIRONMENTS)/newest.txt; printf '%s\n' 'datasets<4.6' 'pyparsing<3.3'; } > $(ENVIRONMENTS)/lowest.txt
	$(UV) venv --quiet --clear --no-project --seed --python $(firstword $(subst -, ,$*)) $(ENVIRONMENTS)/$*
	$(ENVIRONMENTS)/$*/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(UV) pip install --quiet --python $(ENVIRONMENTS)/$* $(OPTIONS) --editable '.[demo,docs,kubernetes,slurm,test]'
	$(UV) pip freeze --quiet --python $(ENVIRONMENTS)/$* | grep -E '^(dask|numpy|pandas|pyarrow|torch|xarray|zarr)=='
	$(ENVIRONMENTS)/$*/bin/python -m pytest -m "not slow and not long" --numprocesses 2 --dist loadfile --quiet

$(ENVIRONMENTS)/uv/.installed: Makefile
	test -x $(ENVIRONMENTS)/uv/bin/python || $(PYTHON) -m venv $(ENVIRONMENTS)/uv
	$(ENVIRONMENTS)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@touch $@

# --strict: what the advisory service does not know, or cannot be asked about, is no pass.
audit: ## check the locked dependencies for known vulnerabilities (asks PyPI's advisory service)
	rm -rf .venv.audit
	$(PYTHON) -m venv .venv.audit
	.venv.audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv.audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off
	rm -rf .venv.audit

clean: ## remove what make has made, .venv included
	rm -rf .venv .venv.lock .venv.audit .venv.checkov .venv.matrix demo docs/_build docs/repository docs/reference/api build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
