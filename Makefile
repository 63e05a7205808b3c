# `make help` lists what there is to do. Needs GNU make and Python 3.11 or newer; everything else goes into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv venv-dev train test test-fast test-all docs bench lock notebooks readme

ARGS ?= model=lru
PYTHONS ?= python3.11 python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install

# The base interpreter: never .venv's own, which may be active while it is rebuilt.
PYTHON := $(shell for p in $(PYTHONS); do "$$p" -c \
  'import sys; assert sys.version_info >= (3, 11); print(sys._base_executable)' 2>/dev/null && break; done)

# A stamp's name holds what it was built from, so any change of it makes the stamp missing. Stamps are written last:
# an install that was cut short has none, and is made anew.
hash = $(firstword $(shell { cat $(1) || true; echo "$(CURDIR)"; "$(PYTHON)" -c \
  'import sys; print(sys.base_prefix, sys.version)' || true; } 2>/dev/null | cksum))
RUNTIME := .venv/.runtime-$(call hash,requirements.lock)
DEV := .venv/.dev-$(call hash,requirements.lock requirements-dev.lock)

# What runs the notebooks and tests; tests/conftest.py gives pytest the same.
TEST_ENV = JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} WANDB_MODE=offline WANDB_ERROR_REPORTING=false MPLBACKEND=Agg \
  JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.cache/jax" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

venv: $(RUNTIME) ## make .venv from requirements.lock, if it is missing or stale

venv-dev: $(DEV) ## the same, with what tests, notebooks and docs need

train: $(RUNTIME) ## train a model: make train ARGS="model=lru seed=1"
	$(BIN)/python scripts/train.py $(ARGS)

test: $(DEV) ## lint, notebooks, tests (without those marked slow)
	@$(call run_tests,-m "not slow")

test-fast: $(DEV) ## lint and the quick tests, for the inner loop: no notebooks, no whole trainings
	@$(BIN)/ruff check --output-format concise .
	@$(BIN)/python -m pytest -n 2 -m "not slow and not training"

test-all: $(DEV) ## the same with the slow tests
	@$(call run_tests,)

docs: $(DEV) ## build the site into _docs/
	@$(BIN)/sphinx-build -q -c docs -d .cache/doctrees -b html nbs _docs
	@echo "the site is at _docs/index.html"

bench: $(RUNTIME) ## run the benchmarks; each prints one JSON object last
	@set -- benchmarks/*.py; test -e "$$1" || { echo "no benchmarks/*.py here" >&2; exit 1; }; \
	for script; do echo "# $$script"; $(BIN)/python "$$script"; done

notebooks: $(DEV) ## write the package from the notebooks, and clean them
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; nbdev_export; nbdev_clean

readme: $(DEV) ## write README.md from nbs/index.ipynb
	@$(BIN)/python docs/readme.py

lock: ## write both lock files anew from the ranges in settings.ini
	@$(need_python)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; pip="$$tmp/bin/python -m pip --disable-pip-version-check"; \
	freeze() { $$pip freeze --all --exclude pip --exclude-editable | grep -v ' @ ' | LC_ALL=C sort -f; }; \
	head_() { echo "# $$1: exact versions, made from settings.ini by: make lock"; }; \
	echo "Resolving the requirements in settings.ini: some minutes ..."; \
	"$(PYTHON)" -m venv "$$tmp"; \
	$$pip -qq install --upgrade setuptools wheel; \
	$$pip -qq install -e .; freeze > "$$tmp/runtime"; \
	$$pip -qq install -c "$$tmp/runtime" -e '.[dev]'; freeze > "$$tmp/all"; \
	{ head_ "What the package runs on"; cat "$$tmp/runtime"; } > "$$tmp/a"; \
	{ head_ "What tests, notebooks and docs need beyond requirements.lock"; \
	  grep -vxFf "$$tmp/runtime" "$$tmp/all"; } > "$$tmp/b"; \
	cp "$$tmp/a" requirements.lock; cp "$$tmp/b" requirements-dev.lock; wc -l requirements.lock requirements-dev.lock

$(RUNTIME):
	@$(need_python)
	@echo "Installing $$(grep -c == requirements.lock) packages into .venv (a few minutes, once) ..."
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@$(PIP) $$(grep -E '^(setuptools|wheel)==' requirements.lock)
	@$(PIP) --no-build-isolation -r requirements.lock
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(DEV): | $(RUNTIME)
	@echo "Installing $$(grep -c == requirements-dev.lock) packages for tests, notebooks and docs into .venv ..."
	@rm -f .venv/.runtime-* .venv/.dev-*
	@$(PIP) --no-build-isolation -r requirements.lock -r requirements-dev.lock
	@touch $(RUNTIME) $@

define need_python
test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, tried: $(PYTHONS);\
 name yours with make PYTHONS=/path/to/python3" >&2; exit 1; }
endef

# Every step runs even if one before it failed; pytest comes last, so that its closing line is the summary.
define run_tests
failed=; \
echo "ruff:"; $(BIN)/ruff check --output-format concise . || failed+=" ruff"; \
echo "notebooks:"; $(TEST_ENV) $(BIN)/nbdev_test --n_workers 2 --timing || failed+=" notebooks"; \
$(BIN)/python -m pytest -n 2 $(1) || failed+=" pytest"; \
test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }
endef
