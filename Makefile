# The verbs of this repository. Each sets up what it needs; `make` alone lists them.

VENV := .venv
BIN := $(VENV)/bin
NODE := samples/nodejs/node_modules/.installed

.PHONY: help demo test test-vm soak lint proto bench databases clean

help: ## List the verbs.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.ready ## Show the main job: freeze, copy, thaw, verdict, proof. Under a minute.
	@$(BIN)/python -m samples.demo

test: lint $(NODE) $(VENV)/.fuse $(VENV)/.tools $(VENV)/.databases ## Run every check and every test.
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	$(BIN)/python scripts/check_coverage.py

test-vm: $(VENV)/.ready ## Run what needs a kernel of its own, in an emulated machine: real drivers, real agent. 4 minutes.
	sh scripts/setup vm
	$(BIN)/python -m tests.vm.build
	$(BIN)/python -m pytest -p no:xdist tests/vm

COUNT ?= 500
SEED ?= 1
DEATHS ?= 100
soak: $(VENV)/.ready $(VENV)/.fuse $(VENV)/.tools ## Break real processes at random: make soak COUNT=500 SEED=1 DEATHS=100.
	$(BIN)/python -m tests.faults.soak --count $(COUNT) --seed $(SEED)
	$(BIN)/python -m tests.faults.linux_soak --count $(DEATHS) --seed $(SEED)

lint: $(VENV)/.ready $(VENV)/proto/.ready ## Run the checks that need no test: style, types, imports, proto.
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml
	cd proto && ../$(BIN)/buf lint
	$(VENV)/proto/bin/python proto/generate.py --check
	$(BIN)/codespell

proto: $(VENV)/proto/.ready ## Generate appvss/v1 from proto/ again.
	$(VENV)/proto/bin/python proto/generate.py

bench: $(VENV)/.ready ## Measure; the results go to docs/performance.md. Takes some minutes.
	$(BIN)/python -m benchmarks

RESULTS := $(VENV)/results
databases: $(VENV)/.ready $(VENV)/.tools $(VENV)/.databases ## Measure what copies of databases lose; draw docs/databases.md.
	rm -rf $(RESULTS)
	APPVSS_RESULTS=$(RESULTS) $(BIN)/python -m pytest -n 0 tests/databases
	$(BIN)/python docs/generate_databases.py --record $(RESULTS)

clean: ## Remove what the other verbs have installed and written.
	rm -rf $(VENV) samples/nodejs/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

$(VENV)/.ready: pyproject.toml scripts/setup
	sh scripts/setup python $(VENV) "editable[cli,postgres,mariadb,mysql,redis,mongodb,openldap]" dev
	@touch $@

$(VENV)/proto/.ready: $(VENV)/.ready
	sh scripts/setup python $(VENV)/proto none proto
	@touch $@

$(VENV)/.fuse: scripts/setup $(VENV)/.ready
	sh scripts/setup fuse
	@touch $@

$(VENV)/.tools: scripts/setup $(VENV)/.ready
	sh scripts/setup tools
	@touch $@

$(VENV)/.databases: scripts/setup $(VENV)/.ready
	sh scripts/setup databases
	@touch $@

$(NODE): samples/nodejs/package.json scripts/setup
	sh scripts/setup node samples/nodejs
	@touch $@
