# The two commands: `make reproduce` and `make test`. Each sets up what is missing first. `make help` lists the rest.

# A Python 3.11 or 3.12 that can make virtual environments; PYTHON=... overrides it.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
# Outside the hashed lock, because its wheels differ by machine (CPU, CUDA).
TORCH ?= torch==2.13.0
PROFILE ?= smoke
ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
STAMP := .venv/.stamp
CODE := nbs tests docs setup.py

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test lint format export clean-notebooks docs lab wheel lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## virtual environment in .venv: locked requirements, torch, this package, a kernel

$(STAMP): requirements.lock settings.ini setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 with venv found (Debian, Ubuntu: apt install python3-venv); name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m ipykernel install --prefix .venv --name python3 > /dev/null
	@touch $@

reproduce: $(STAMP) ## run the experiments: PROFILE=smoke|replica|paper, ARGS="--only table_05 --device cuda"
	$(BIN)/mdr-repro reproduce --profile $(PROFILE) $(ARGS)

test: export OMP_NUM_THREADS = 1
test: $(STAMP) ## everything that must hold: module in step, notebooks clean and executable, tests, a small reproduction
	@echo "== 1/4 lint; module in step with the notebooks, notebooks clean"
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -q tests/test_house.py
	@echo "== 2/4 notebooks execute"
	$(BIN)/nbdev_test --n_workers $(WORKERS)
	@echo "== 3/4 tests"
	$(BIN)/python -m pytest -q -m "not end_to_end" --ignore tests/test_house.py tests
	@echo "== 4/4 a small reproduction, end to end"
	$(BIN)/python -m pytest -q -m end_to_end tests

lint: $(STAMP) ## what ruff says of notebooks, tests and module (ruff.toml)
	$(BIN)/ruff check $(CODE) mdr_repro
	$(BIN)/ruff format --check $(CODE)

format: $(STAMP) ## let ruff mend what it can, then write the module
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
	$(BIN)/nbdev_export

export: $(STAMP) ## write mdr_repro/ from the notebooks
	$(BIN)/nbdev_export

clean-notebooks: $(STAMP) ## strip the notebooks' volatile metadata
	$(BIN)/nbdev_clean

docs: .venv-docs/.stamp ## build the site in _docs/html (MathJax comes from npm)
	.venv-docs/bin/python docs/build.py
	@echo "the site is _docs/html/index.html"

.venv-docs/.stamp: requirements-docs.lock
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

lab: $(STAMP) ## open the notebooks in JupyterLab (installs it on first use)
	@$(BIN)/python -c 'import jupyterlab' 2>/dev/null || $(BIN)/python -m pip install --quiet 'jupyterlab>=4.2,<5'
	$(BIN)/python -m jupyterlab nbs/index.ipynb

wheel: $(STAMP) ## build sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation

# pytorch-metric-learning asks for torch, which stays outside: the override takes it away, and `setup` installs the lock without looking for dependencies
lock: ## renew the locked requirements (needs uv)
	for name in requirements requirements-docs; do printf "torch ; python_version < '3'\n" | \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --override - $$name.in -o $$name.lock || exit 1; done
