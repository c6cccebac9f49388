# Two commands matter: `make study` and `make test`. Each sets up .venv from the locks when it has to, and only then.

VENV := .venv
PY := $(VENV)/bin/python
# -qq: pip speaks up when it fails, not before. The locks are complete, so nothing is left to resolve.
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check
LOCKED := --require-hashes --no-deps --only-binary :all:

# Stamps: what of the environment is in place. They live inside it, so that they go when it goes.
CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime
TORCH := $(VENV)/.torch
PROJECT := $(VENV)/.project
DEV := $(VENV)/.dev
PEERS := $(VENV)/.peers

LOCK_VENV := .lock-venv
# Resolved for the oldest Python and the platform supported, on whatever machine: Debian 12's 3.11.2 on x86-64. Later patch
# versions of 3.11 install the same.
COMPILE := $(LOCK_VENV)/bin/uv pip compile --quiet --generate-hashes --only-binary :all: --python-version 3.11.2 \
	--python-platform x86_64-unknown-linux-gnu --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

CHECKED := $(wildcard midstudy flows experiments benchmarks tests)

.PHONY: help install study test test-slow test-slurm test-chaos lint benchmark lock clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo 'make install    set up .venv and nothing else; .venv/bin/midstudy is then the command'
	@echo 'make study      set up, run the micro study, end on its report   (ARGS="..." is handed to midstudy run)'
	@echo 'make test       set up, run the tests                            (ARGS="..." is handed to pytest)'
	@echo 'make test-slow  set up, run the tests that take longer           (PART=name: those of tests/slow_parts.txt; ARGS="...")'
	@echo 'make test-slurm the tests on a Slurm of their own                (as root, installs its Debian packages)'
	@echo 'make test-chaos  a study on that Slurm while everything is killed at random; CHAOS_SEED=N plays one again'
	@echo 'make lint       ruff, formatting, types'
	@echo 'make benchmark  time a training step against other implementations   (ARGS="--help" lists the options)'
	@echo 'make lock       resolve requirements*.in again, with hashes      (ARGS=--upgrade takes newer versions)'
	@echo 'make clean      remove the environment and the caches of the tools; results stay'

install: $(RUNTIME) $(TORCH) $(PROJECT)

study: $(RUNTIME) $(TORCH) $(PROJECT)
	@$(VENV)/bin/midstudy run experiments/bridging_micro.py $(ARGS)

# Two at a time, file by file, since the tests of a file share expensive fixtures.
test: $(RUNTIME) $(TORCH) $(PROJECT) $(DEV)
	@$(PY) -m pytest -q -n 2 --dist loadfile $(ARGS)

# PART is a name in tests/slow_parts.txt; without one, all of them.
SLOW_PART := $(if $(PART),$(shell sed -n 's/^$(PART): *//p' tests/slow_parts.txt))
test-slow: $(RUNTIME) $(TORCH) $(PROJECT) $(DEV)
	@$(if $(PART),$(if $(SLOW_PART),,echo 'PART=$(PART): expected a name in tests/slow_parts.txt' >&2; exit 2))
	@$(PY) -m pytest -q -m slow --timeout 900 $(SLOW_PART) $(ARGS)

test-slurm: $(RUNTIME) $(TORCH) $(PROJECT) $(DEV)
	@tests/slurm/packages
	@$(PY) -m pytest -q -m 'slurm and not slow' $(ARGS)

test-chaos: $(RUNTIME) $(TORCH) $(PROJECT) $(DEV)
	@tests/slurm/packages
	@$(PY) -m pytest -q -s -m slow tests/launch/slurm/test_chaos.py $(ARGS)

lint: $(RUNTIME) $(TORCH) $(PROJECT) $(DEV)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy $(CHECKED)

benchmark: $(RUNTIME) $(TORCH) $(PROJECT) $(DEV) $(PEERS)
	@$(PY) benchmarks/train_step.py $(ARGS)

# The locks are made for Python 3.11; another version would get other dependencies than those that were tried.
$(CREATED):
	@python=; \
	for candidate in python3.11 python3; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
			python="$$candidate"; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'midstudy needs Python 3.11, and neither python3.11 nor python3 is one.' >&2; \
		echo 'On Debian 12: apt-get install python3.11 python3.11-venv' >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python is here, but cannot make virtual environments (no ensurepip)." >&2; \
		echo 'On Debian 12: apt-get install python3.11-venv' >&2; \
		exit 1; \
	fi; \
	rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@touch $@

$(RUNTIME): requirements.lock | $(CREATED)
	@echo 'Installing the locked dependencies into $(VENV): one to three minutes, 1.3 GB ...'
	@$(PIP_INSTALL) $(LOCKED) -r requirements.lock
	@touch $@

# After the lock, which holds all that torch needs but CUDA's libraries.
$(TORCH): requirements-torch.txt | $(RUNTIME)
	@echo 'Installing torch: half a minute and 0.9 GB for a CPU build, several minutes and GBs for a CUDA build ...'
	@$(PIP_INSTALL) -r requirements-torch.txt
	@touch $@

# Editable, and built with the locked setuptools: asks no index for anything.
$(PROJECT): pyproject.toml | $(RUNTIME)
	@$(PIP_INSTALL) --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock | $(RUNTIME)
	@echo 'Installing what tests and checks need: a quarter of a minute, 0.2 GB ...'
	@$(PIP_INSTALL) $(LOCKED) -r requirements-dev.lock
	@touch $@

$(PEERS): requirements-benchmark.lock | $(DEV)
	@$(PIP_INSTALL) $(LOCKED) -r requirements-benchmark.lock
	@touch $@

$(LOCK_VENV)/bin/uv: | $(CREATED)
	@$(PY) -m venv $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.8

lock: $(LOCK_VENV)/bin/uv
	@$(COMPILE) --output-file requirements.lock $(ARGS) requirements.in
	@$(COMPILE) --output-file requirements-dev.lock $(ARGS) requirements-dev.in
	@$(COMPILE) --no-deps --output-file requirements-benchmark.lock $(ARGS) requirements-benchmark.in

clean:
	rm -rf $(VENV) $(LOCK_VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +
