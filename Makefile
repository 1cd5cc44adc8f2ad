# Everything runs from $(VENV), which follows the lock files. `make` alone explains itself.
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-builtin-rules
.NOTPARALLEL:

VENV ?= .venv
ARGS ?=
# Test processes. Each has its own servers and often waits for them or for time, so three fill two cores. Files run in the order of their names: the
# long chaos run comes first, where another process has something to do beside it.
TEST_PROCESSES ?= 3
BIN  := $(VENV)/bin
export PYTHON
# Where it is set, each process of the tests would compile all of ours again: 9 of the 15 CPU seconds that it begins with.
unexport PYTHONDONTWRITEBYTECODE

COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
           --no-emit-package paymesh-stubs --custom-compile-command "make locks" --group build pyproject.toml

.PHONY: help run demo demo-seckill demo-channels test unit proof protos lint fmt hooks check drift bench install servers locks clean

help: ## explain the targets
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET [PYTHON=python3.12] [ARGS=...]\n"} /^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## start the whole mesh here, print its URLs, stop it with Ctrl-C
	@exec $(BIN)/paymesh up $(ARGS)

demo: $(VENV)/.runtime ## buy something end to end from the mesh that `make run` started
	@exec $(BIN)/paymesh demo $(ARGS)

demo-seckill: $(VENV)/.runtime ## ten thousand buyers, a hundred units, on the mesh that `make run` started
	@exec $(BIN)/paymesh demo-seckill $(ARGS)

demo-channels: $(VENV)/.runtime ## buy once through each simulated payment provider, on the mesh that `make run` started
	@exec $(BIN)/paymesh demo-channels $(ARGS)

test: $(VENV)/.dev servers ## run the tests, on SQLite and on MariaDB, Redis and Consul (ARGS="-k refund")
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

unit: $(VENV)/.dev ## run the tests that need nothing but Python
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/unit $(ARGS)

proof: $(VENV)/.dev servers ## run every test with whole crash matrices and round counts
	@PAYMESH_PROOF=1 $(BIN)/python -m pytest --timeout 3600 $(ARGS)

protos: $(VENV)/.dev ## rebuild generated/ from protos/ and docs/states.md from the transition tables
	@$(BIN)/python tools/build_protos.py
	@$(BIN)/python tools/build_states.py

lint: $(VENV)/.dev ## formatting, ruff, mypy --strict, import contracts
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check . | tail -5; echo "make fmt repairs it"; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: $(VENV)/.dev ## format, and repair what ruff can repair
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

hooks: $(VENV)/.dev ## check the formatting and rules of what is committed, at each commit; needs no network
	@git config core.hooksPath tools/hooks
	@echo "tools/hooks/pre-commit runs at each commit; git config --unset core.hooksPath ends it"

drift: $(VENV)/.dev ## generated/ and docs/ are what protos/ and tables say, and protos/ follow buf's rules
	@$(BIN)/python tools/build_protos.py --check
	@$(BIN)/python tools/build_states.py --check
	@$(BIN)/buf lint

check: lint drift test ## everything that CI runs

bench: $(VENV)/.dev servers ## measure, each number beside its limit
	@$(BIN)/python -m bench $(ARGS)

install: $(VENV)/.dev ## make the environment for developers

servers:
	@tools/install-test-servers

locks: $(VENV)/.dev ## rewrite the lock files (ARGS=--upgrade for newer versions)
	@$(COMPILE) -o requirements.lock $(ARGS)
	@$(COMPILE) -o requirements-dev.lock --group dev -c requirements.lock $(ARGS)

clean: ## remove what can be rebuilt; var/ (databases, keys, logs) stays
	@rm -rf $(VENV) build dist *.egg-info generated/build generated/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: requirements.lock pyproject.toml generated/pyproject.toml
	@tools/make-venv $(VENV) requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements.lock pyproject.toml generated/pyproject.toml
	@tools/make-venv $(VENV) requirements-dev.lock
	@touch $(VENV)/.runtime $@
